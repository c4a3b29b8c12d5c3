//! Determines when a PE's subtree has contributed to a reduction: how many elements take part, from which reduction on.
//!
//! *Counting.* A PE must know when its subtree is complete. When a collection has been created, every PE sends the number of elements in its subtree
//! up the tree. From then on the contributions to reduction `n` go up when as many have arrived as the subtree has elements; an element that is
//! destroyed after it contributed `n` times is no longer expected from reduction `n` on, and its PE reports that to its ancestors. (An element
//! destroyed before its PE counted is counted nevertheless, so that departures have one meaning; they are reported after the tree's root is known,
//! which is when a PE counts.)
//!
//! *Phases.* Elements that are inserted after a sparse array was closed take part when it is closed again, all from the same reduction `n` on. The
//! census (see `census.rs`) finds an `n` to which no element has contributed. For that, each PE *holds*, from its answer on, the reductions to which
//! none of its elements had contributed by then: no part of them goes up. When it is told `n`, it counts its new elements, and holds the reductions
//! from `n` on until the new elements of its subtree have been counted; these counts go up the tree like the first one. Each such count is a phase,
//! and the first count is phase 0.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use charm4rs_transport::Pe;

use super::allreduce;
use super::counts::Count;
use super::{Partial, Reductions, advance_from, send};
use crate::message::envelope::{FutureId, tag};
use crate::runtime::Rt;
use crate::runtime::intervals::Intervals;
use crate::runtime::post::reply_serialized;

/// Not the number of a reduction.
const NONE: u64 = u64::MAX;

/// What a PE knows of the number of elements that take part in a collection's reductions.
pub(in crate::runtime) struct Counting {
    /// The futures that wait until a phase is counted; the root fulfils them, with the number of elements.
    waiting: RefCell<Vec<(u32, FutureId)>>,
    /// Elements that were destroyed here before they were counted.
    lost: Cell<u64>,
    /// The number of phases whose new elements on this PE have been counted. (Before the first one the root may not be known.)
    phases: Cell<u32>,
    /// The number of phases whose new elements in the subtree have been counted.
    counted: Cell<u32>,
    /// Phases between the two.
    open: RefCell<BTreeMap<u32, Phase>>,
    /// The reduction from which on, according to this PE's answer, no element here had contributed; while that holds.
    answered: Cell<u64>,
    /// Reductions from this number on are held.
    held: Cell<u64>,
    own: Count,
    subtree: Count,
    /// All reductions with smaller numbers have left this PE, or ended.
    next: Cell<u64>,
    /// Greater numbers that have done so.
    others: RefCell<Intervals>,
}

/// A phase of which not all elements of the subtree have been counted.
#[derive(Default)]
struct Phase {
    heard: usize,
    total: u64,
    /// The first reduction of these elements; `None` until this PE has been told.
    from: Option<u64>,
}

impl Default for Counting {
    fn default() -> Self {
        Self {
            waiting: RefCell::default(),
            lost: Cell::new(0),
            phases: Cell::new(0),
            counted: Cell::new(0),
            open: RefCell::default(),
            answered: Cell::new(NONE),
            held: Cell::new(NONE),
            own: Count::default(),
            subtree: Count::default(),
            next: Cell::new(0),
            others: RefCell::default(),
        }
    }
}

impl Counting {
    /// Resets this for a new collection. Returns the futures that waited for the old one to be complete.
    pub(super) fn renew(&self) -> Vec<FutureId> {
        self.lost.set(0);
        self.phases.set(0);
        self.counted.set(0);
        self.open.take();
        self.answered.set(NONE);
        self.held.set(NONE);
        self.own.renew();
        self.subtree.renew();
        self.next.set(0);
        self.others.take();
        self.waiting.take().into_iter().map(|(_, to)| to).collect()
    }

    /// The number of contributions of the subtree that reduction `number` needs; `None`: not known yet.
    #[inline]
    pub(super) fn expected(&self, number: u64) -> Option<u64> {
        if number >= self.held.get() { None } else { self.subtree.at(number) }
    }

    /// The number of them that are of this PE's elements. (For exchanges, which have no phases.)
    #[inline]
    pub(super) fn expected_here(&self, number: u64) -> Option<u64> {
        self.own.at(number)
    }

    /// A reduction has left this PE, or ended: its count is not needed any more.
    #[inline]
    pub(super) fn has_left(&self, number: u64) {
        if number == self.next.get() {
            self.next.set(number + 1);
        } else {
            self.others.borrow_mut().insert(number);
        }
    }

    /// Forgets changes that came before all reductions that have not left this PE. Not while something is held: a departure may be reported before
    /// the corresponding arrival.
    fn forget(&self) {
        while self.held.get() == NONE {
            let next = self.next.get();
            let behind = self.others.borrow_mut().take_run(next);
            // A reduction without contributors never leaves.
            let skipped = || self.subtree.next_change(next).filter(|_| self.subtree.at(next) == Some(0));
            match behind.or_else(skipped) {
                Some(next) => self.next.set(next),
                None => return [&self.own, &self.subtree].into_iter().for_each(|count| count.forget(next)),
            }
        }
    }

    /// The number of elements in the subtree, as far as they have been counted.
    fn elements(&self) -> u64 {
        self.subtree.at(NONE).unwrap_or_default()
    }

    /// The first reduction to which no destroyed element may have contributed.
    pub(in crate::runtime) fn bound(&self) -> u64 {
        self.own.bound()
    }
}

/// At the root: a future waits until all elements of a phase have been counted.
pub(in crate::runtime) fn tell_when_counted(rt: Rt, reductions: &Reductions, phase: u32, to: FutureId) {
    let Some(to) = to.wanted() else { return };
    let counting = &reductions.counting;
    if counting.counted.get() > phase && reductions.root() == rt.sched.pe() {
        reply_serialized(rt, to, counting.elements());
    } else {
        counting.waiting.borrow_mut().push((phase, to));
    }
}

/// All elements that belong to this PE have been created, and the root is known.
pub(in crate::runtime) fn count(rt: Rt, reductions: &Reductions, own: u64) {
    let counting = &reductions.counting;
    if let Some(parent) = reductions.place(rt).parent {
        let departed = counting.subtree.departures();
        departed.into_iter().for_each(|from| send_departure(rt, parent, reductions, from));
    }
    let own = own + counting.lost.get();
    counting.own.begin(own);
    count_phase(rt, reductions, 0, own);
    allreduce::advance_from(rt, reductions, 0);
}

/// This many elements have joined on this PE, with the next phase; `from` is their first reduction.
pub(in crate::runtime) fn join(rt: Rt, reductions: &Reductions, from: u64, own: u64) {
    reductions.counting.own.join(from, own);
    reductions.counting.answered.set(NONE);
    count_phase(rt, reductions, from, own);
}

fn send_departure(rt: Rt, parent: Pe, reductions: &Reductions, from: u64) {
    send(rt, parent, tag::PARTIAL, reductions, Partial::departure(from));
}

fn count_phase(rt: Rt, reductions: &Reductions, from: u64, own: u64) {
    let counting = &reductions.counting;
    let phase = counting.phases.get();
    counting.phases.set(phase + 1);
    counting.open.borrow_mut().entry(phase).or_default().from = Some(from);
    hold(rt, reductions);
    counted(rt, reductions, phase, own);
}

/// This PE answers that no element here has contributed to reduction `from`, or to a later one.
pub(in crate::runtime) fn answer(rt: Rt, reductions: &Reductions, from: u64) {
    reductions.counting.answered.set(from);
    hold(rt, reductions);
}

/// Holds the reductions that must be held now, and releases the others. (Before the first count nothing goes up anyway.)
fn hold(rt: Rt, reductions: &Reductions) {
    let counting = &reductions.counting;
    let open = counting.open.borrow().range(1..).find_map(|(_, phase)| phase.from);
    let from = open.unwrap_or(NONE).min(counting.answered.get());
    let before = counting.held.replace(from);
    if before < from {
        advance_from(rt, reductions, before);
    }
}

/// A part of the subtree has been counted.
pub(super) fn counted(rt: Rt, reductions: &Reductions, phase: u32, elements: u64) {
    let (counting, place) = (&reductions.counting, reductions.place(rt));
    let (from, total) = {
        let mut open = counting.open.borrow_mut();
        // A child may have been told of one phase more.
        let may_be = (counting.counted.get()..=counting.phases.get()).contains(&phase);
        let of = may_be.then(|| open.entry(phase).or_default());
        let total = of.as_ref().and_then(|of| of.total.checked_add(elements));
        let (Some(of), Some(total)) = (of, total) else {
            return rt.violation(reductions.root(), "elements that were counted already", elements);
        };
        (of.heard, of.total) = (of.heard + 1, total);
        // The counts of its own elements, and of every child.
        let Some(from) = of.from.filter(|_| of.heard > place.children.len()) else { return };
        open.remove(&phase);
        (from, total)
    };
    counting.counted.set(phase + 1);
    match phase {
        0 => counting.subtree.begin(total),
        _ => counting.subtree.join(from, total),
    }
    match place.parent {
        Some(parent) => send(rt, parent, tag::COUNTED, reductions, (phase, total)),
        None => {
            let told: Vec<_> = counting.waiting.borrow_mut().extract_if(.., |(of, _)| *of <= phase).collect();
            told.into_iter().for_each(|(_, to)| reply_serialized(rt, to, counting.elements()));
        }
    }
    if phase == 0 {
        advance_from(rt, reductions, 0);
    }
    hold(rt, reductions);
    counting.forget();
}

/// An element of this PE is gone, after `contributed` contributions.
pub(in crate::runtime) fn depart(rt: Rt, reductions: &Reductions, contributed: u64) {
    let counting = &reductions.counting;
    if counting.phases.get() == 0 {
        counting.lost.set(counting.lost.get() + 1);
    }
    counting.own.depart(contributed);
    departed(rt, reductions, contributed);
    allreduce::advance_from(rt, reductions, contributed);
}

/// An element of the subtree is gone, after this many contributions.
pub(super) fn departed(rt: Rt, reductions: &Reductions, from: u64) {
    let counting = &reductions.counting;
    counting.subtree.depart(from);
    if counting.phases.get() == 0 {
        return; // `count` reports it
    }
    counting.forget();
    if let Some(parent) = reductions.place(rt).parent {
        send_departure(rt, parent, reductions, from);
    }
    advance_from(rt, reductions, from);
}

#[cfg(test)]
mod tests {
    use crate::prelude::*;
    use crate::runtime::current;
    use crate::testing::{SimOptions, simulate};

    struct Cell;

    #[crate::chare(index = u64)]
    impl Cell {
        #[init]
        fn new() -> Self {
            Self
        }
        #[entry]
        fn total(&self, cx: &mut Cx<Self>, words: usize, to: Promise<Vec<u64>>) {
            cx.contribute(vec![cx.index(); words], reduce::sum, to);
        }
        #[entry]
        fn leave(&self, cx: &mut Cx<Self>) {
            cx.destroy();
        }
        #[entry]
        fn kept(&self, cx: &mut Cx<Self>) -> usize {
            let _ = cx;
            let all = current().collections.borrow();
            let counts = all.values().map(|all| &all.common().reductions.counting);
            counts.flat_map(|counting| [counting.own.kept(), counting.subtree.kept()]).max().unwrap_or(0)
        }
    }

    #[test]
    fn an_array_that_grows_and_shrinks_repeatedly_keeps_little_of_its_past() {
        for seed in 0..40 {
            let options = SimOptions::new([2, 3, 5, 8][seed % 4], seed as u64);
            let end = simulate(&options, |job| async move {
                let cells = job.sparse::<Cell>();
                for phase in 0..60u64 {
                    let at = u32::try_from(phase * 7 % u64::from(job.pes())).unwrap();
                    cells.insert_on(Pe(at), phase, ());
                    cells.done_inserting().await;
                    // Some reductions are pipelined, and two are in progress at once.
                    let words = if phase % 5 == 3 { 9_000 } else { 1 };
                    let living = phase.saturating_sub(3)..=phase;
                    let sums: Vec<_> = (0..2)
                        .map(|_| {
                            let (promise, sum) = job.promise();
                            cells.all().total(words, promise);
                            sum
                        })
                        .collect();
                    for sum in sums {
                        assert_eq!(sum.await, vec![living.clone().sum::<u64>(); words]);
                    }
                    if phase >= 3 {
                        cells.at(phase - 3).leave().done().await;
                    }
                }
                let kept = cells.all().kept().await;
                assert!(kept.iter().all(|kept| *kept <= 12), "{kept:?}");
            });
            assert_eq!(end.unwrap(), 0, "{options:?}");
        }
    }
}
