//! Small results for every contributor: the PEs exchange their parts, and each computes the result itself. That takes one pass where a tree takes
//! two, up and down.
//!
//! *Steps.* The number of PEs, ordered by rank, is a product of twos, threes and fives. In each step the PEs of a small group send their values to
//! one another, and merge: first neighbours, then those whose neighbours have already exchanged, and so on, until each PE has all parts. If the
//! number is not such a product, the first odd ranks, as few as necessary, give their parts to their neighbours first, and get the result from them
//! afterwards. (Those neighbours send them a message at the start: a PE without elements would not know of the reduction otherwise.)
//!
//! *Which reductions* are exchanged must be known to all PEs in advance: those for every contributor that are not pipelined, of groups, sections, and
//! arrays with an element for each PE, on at most [`PES_MAX`] PEs of one host. (On more PEs, or between hosts, the messages, of which each PE sends
//! one a step, cost more than the levels of a tree.)
//!
//! *Start.* A PE begins when all its own elements that are expected to contribute have contributed, so no count of a subtree is needed. A PE whose
//! elements are all gone begins when the first message arrives. It does not know the type, so it cannot merge; it forwards values with a description
//! of how to merge them, and in which order ([`Terms`]).
//!
//! *Order.* Values are merged in the order of the PEs' ranks, and the parts of a PE's elements are merged to one value before any other PE sees it.
//! So each PE computes the same result, to the last bit.

use std::cell::{OnceCell, RefCell};

use charm4rs_transport::Pe;

use super::Reductions;
use super::by_number::ByNumber;
use super::part::{Given, Part, Terms, Typed};
use super::unlike::{cannot_be_sent, refuse, unlike};
use crate::message::envelope::{FutureId, tag};
use crate::message::wire::{self, WireError};
use crate::runtime::Reducer;
use crate::runtime::Rt;
use crate::runtime::chare::Arguments;
use crate::runtime::exit::Failure;
use crate::runtime::shared::{self, Opened};

/// On more PEs, trees are as fast, and send fewer messages.
const PES_MAX: usize = 32;

/// The number of finished allreduces whose memory is kept for others.
const SPARE_MAX: usize = 4;

/// A PE's part of a collection's exchanges.
pub(super) struct Allreduces {
    /// Whether the collection exchanges.
    may: bool,
    steps: OnceCell<Option<Box<[Step]>>>,
    open: RefCell<ByNumber<Open>>,
    /// Their memory is reused by the next exchanges, which are mostly of the same type.
    spare: RefCell<Vec<Open>>,
}

/// One step of a PE in an exchange.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// The PEs to which it sends its value.
    to: Box<[Pe]>,
    /// The PEs from which it then waits for values, by rank.
    from: Box<[Pe]>,
    /// The number of these before its own rank. `None`: they send the result.
    own: Option<usize>,
    /// The number of the message among those from one PE to another in an exchange.
    meeting: u32,
    /// The message only announces the reduction.
    silent: bool,
}

/// An exchange in progress.
#[derive(Default)]
struct Open {
    /// Contributions of elements here.
    given: u64,
    /// Contributions that are merged in the value here.
    count: u64,
    /// All elements here have contributed.
    has_begun: bool,
    /// The current step.
    step: usize,
    has_sent: bool,
    /// The value on a PE that can merge.
    own: Option<Box<dyn Part>>,
    /// From an exchange that has ended: memory for `own`.
    spare: Option<Box<dyn Part>>,
    /// The value on a PE that cannot merge.
    terms: Terms,
    arrived: Vec<Arrived>,
    waiting: Vec<FutureId>,
}

struct Arrived {
    from: Pe,
    meeting: u32,
    count: u64,
    value: Given,
}

/// The prefix of the value in a message.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Label {
    number: u64,
    count: u64,
    meeting: u32,
    /// 1: the value is a program.
    terms: u32,
}

impl Allreduces {
    pub(super) fn new(may: bool) -> Self {
        Self { may, steps: OnceCell::new(), open: RefCell::default(), spare: RefCell::default() }
    }

    pub(super) fn has(&self, number: u64) -> bool {
        self.open.borrow().contains(number)
    }

    pub(super) fn clear(&self) {
        drop((self.open.take(), self.spare.take()));
    }

    /// This PE's steps; `None` if the collection does not exchange.
    fn steps(&self, rt: Rt, reductions: &Reductions) -> Option<&[Step]> {
        let steps = || {
            let pes = reductions.span.on_one_host(rt.sched.layout(), PES_MAX).filter(|_| self.may)?;
            Some(steps_of(&pes, rt.sched.pe()))
        };
        self.steps.get_or_init(steps).as_deref()
    }

    fn with<T>(&self, number: u64, look: impl FnOnce(&mut Open) -> T) -> T {
        look(self.open.borrow_mut().get_or_insert_with(number, || self.spare.borrow_mut().pop().unwrap_or_default()))
    }
}

/// The greatest product of twos, threes and fives that is not above `count`, and its factors.
fn factors_of(count: usize) -> (usize, Vec<usize>) {
    let mut product = count;
    loop {
        let (mut rest, mut factors) = (product, Vec::new());
        for factor in [2, 3, 5] {
            while rest.is_multiple_of(factor) {
                rest /= factor;
                factors.push(factor);
            }
        }
        if rest == 1 {
            return (product, factors);
        }
        product -= 1;
    }
}

/// The steps of `here` among these PEs.
fn steps_of(pes: &[Pe], here: Pe) -> Box<[Step]> {
    let (product, factors) = factors_of(pes.len());
    let lenders = pes.len() - product;
    let rank = pes.iter().position(|&pe| pe == here).expect("a collection's PEs are in its span");
    let step = |to: &[Pe], from: &[Pe], own| Step { to: to.into(), from: from.into(), own, meeting: 0, silent: false };
    if rank < 2 * lenders && rank % 2 == 1 {
        let to = pes[rank - 1];
        return Box::new([step(&[to], &[to], Some(1)), Step { meeting: 1, ..step(&[], &[to], None) }]);
    }
    let lender = (rank < 2 * lenders).then(|| pes[rank + 1]);
    let place = if rank < 2 * lenders { rank / 2 } else { rank - lenders };
    let at = |place: usize| pes[if place < lenders { 2 * place } else { place + lenders }];
    let borrow = |lender| Step { silent: true, ..step(&[lender], &[lender], Some(0)) };
    let mut steps: Vec<Step> = lender.into_iter().map(borrow).collect();
    let mut stride = 1;
    for factor in factors {
        let digit = place / stride % factor;
        let others = (0..factor).filter(|&other| other != digit);
        let others: Vec<Pe> = others.map(|other| at(place - digit * stride + other * stride)).collect();
        steps.push(step(&others, &others, Some(digit)));
        stride *= factor;
    }
    steps.extend(lender.map(|lender| Step { meeting: 1, ..step(&[lender], &[], Some(0)) }));
    steps.into()
}

/// An element of this PE gives its part, if it is to be exchanged; otherwise the part is returned.
#[track_caller]
pub(super) fn give<V: Arguments, R: Reducer<V>>(
    rt: Rt,
    reductions: &Reductions,
    number: u64,
    part: R::Partial,
    reducer: R,
    to: FutureId,
) -> Result<(), (R::Partial, R)> {
    let exchanges = &reductions.allreduces;
    if exchanges.steps(rt, reductions).is_none() {
        return Err((part, reducer));
    }
    if reductions.goes_up(number) {
        refuse::<V, R>(reductions, number, "a long value, or for another receiver");
    }
    // Merging is user code: nothing is borrowed.
    let (own, spare) = exchanges.with(number, |open| (open.own.take(), open.spare.take()));
    let mut own = own.unwrap_or_else(|| new_part::<V, R>(reducer, spare));
    let Some(typed) = own.as_any().downcast_mut::<Typed<V, R>>() else {
        refuse::<V, R>(reductions, number, &own.name());
    };
    typed.add(part);
    exchanges.with(number, |open| {
        open.own = Some(own);
        open.given += 1;
        open.waiting.push(to);
    });
    advance(rt, reductions, number);
    Ok(())
}

fn new_part<V: 'static, R: Reducer<V>>(reducer: R, spare: Option<Box<dyn Part>>) -> Box<dyn Part> {
    if let Some(mut spare) = spare
        && let Some(typed) = spare.as_any().downcast_mut::<Typed<V, R>>()
    {
        *typed = Typed::new(reducer);
        return spare;
    }
    Box::new(Typed::<V, R>::new(reducer))
}

/// The next operation of an exchange. It is executed with nothing borrowed, and puts back what was taken.
enum Next<'a> {
    Send(&'a Step, Taken),
    Merge(&'a Step, Taken),
    End,
}

struct Taken {
    own: Option<Box<dyn Part>>,
    terms: Terms,
    count: u64,
    arrived: Vec<Arrived>,
}

impl Open {
    fn take(&mut self) -> Taken {
        let (terms, arrived) = (std::mem::take(&mut self.terms), std::mem::take(&mut self.arrived));
        Taken { own: self.own.take(), terms, count: self.count, arrived }
    }

    fn put(&mut self, taken: Taken) {
        (self.own, self.terms, self.count, self.arrived) = (taken.own, taken.terms, taken.count, taken.arrived);
    }

    fn next<'a>(&mut self, steps: &'a [Step], expected: impl FnOnce() -> Option<u64>) -> Option<Next<'a>> {
        if !self.has_begun {
            if expected().is_none_or(|expected| self.given < expected) {
                return None;
            }
            (self.has_begun, self.count) = (true, self.given);
        }
        let Some(step) = steps.get(self.step) else { return Some(Next::End) };
        if !std::mem::replace(&mut self.has_sent, true) && !step.to.is_empty() {
            return Some(Next::Send(step, self.take()));
        }
        if self.arrived.iter().filter(|arrived| arrived.is_of(step)).count() < step.from.len() {
            return None;
        }
        (self.step, self.has_sent) = (self.step + 1, false);
        Some(Next::Merge(step, self.take()))
    }

    /// Resets this, but keeps its memory.
    fn reset(mut self) -> Self {
        self.waiting.clear();
        self.arrived.clear();
        Self { spare: self.own, arrived: self.arrived, waiting: self.waiting, ..Self::default() }
    }
}

impl Arrived {
    fn is_of(&self, step: &Step) -> bool {
        self.meeting == step.meeting && step.from.contains(&self.from)
    }
}

/// Executes all operations that are possible now.
fn advance(rt: Rt, reductions: &Reductions, number: u64) {
    let exchanges = &reductions.allreduces;
    let Some(steps) = exchanges.steps(rt, reductions) else { return };
    loop {
        let next = match exchanges.open.borrow_mut().get_mut(number) {
            Some(open) => open.next(steps, || reductions.counting.expected_here(number)),
            None => return,
        };
        let done = match next {
            None => return,
            Some(Next::End) => return end(rt, reductions, number),
            Some(Next::Send(step, taken)) => send(rt, reductions, number, step, &taken).map(|()| taken),
            Some(Next::Merge(step, taken)) => merge(step, taken)
                .map_err(|_| unlike(reductions, number, "the parts of two PEs are of different types")),
        };
        match done {
            Ok(taken) => exchanges.with(number, |open| open.put(taken)),
            Err(failure) => return rt.fail(failure),
        }
    }
}

/// Advances all exchanges that may be able to continue.
pub(super) fn advance_from(rt: Rt, reductions: &Reductions, from: u64) {
    let open: Vec<u64> = reductions.allreduces.open.borrow().from(from).collect();
    open.into_iter().for_each(|number| advance(rt, reductions, number));
}

fn send(rt: Rt, reductions: &Reductions, number: u64, step: &Step, what: &Taken) -> Result<(), Failure> {
    rt.with_scratch(|bytes| {
        let own = what.own.as_ref().filter(|_| !step.silent);
        let count = if step.silent { 0 } else { what.count };
        let label = Label { number, count, meeting: step.meeting, terms: u32::from(own.is_none()) };
        bytes.extend_from_slice(bytemuck::bytes_of(&label));
        let beside = match own {
            Some(own) => own.append(bytes),
            None if step.silent => wire::pack(&Terms::default(), bytes),
            None => wire::pack(&what.terms, bytes),
        };
        let beside = beside.map_err(|error| cannot_be_sent(&error))?;
        for &to in &step.to {
            shared::send(rt, to, tag::EXCHANGE, &reductions.header(rt), bytes, beside.clone());
        }
        Ok(())
    })
}

fn merge(step: &Step, here: Taken) -> Result<Taken, WireError> {
    let Taken { mut own, mut terms, mut count, mut arrived } = here;
    if step.own.is_none() {
        count = 0;
    }
    let mut values = step.from.iter().map(|from| {
        let is_next = |arrived: &Arrived| arrived.is_of(step) && arrived.from == *from;
        let at = arrived.iter().position(is_next).expect("all of the step have arrived");
        let Arrived { count: others, value, .. } = arrived.swap_remove(at);
        count = count.saturating_add(others);
        value
    });
    match &mut own {
        Some(own) => own.fold(&mut values, step.own)?,
        None => {
            let mut values: Vec<Given> = values.collect();
            if let Some(place) = step.own {
                values.insert(place, Given::Terms(terms));
            }
            terms = Terms::chain(values);
        }
    }
    Ok(Taken { own, terms, count, arrived })
}

/// The value is the result.
fn end(rt: Rt, reductions: &Reductions, number: u64) {
    let exchanges = &reductions.allreduces;
    let Some(mut open) = exchanges.open.borrow_mut().remove(number) else { return };
    if let Some(own) = &mut open.own
        && let Err(error) = own.give(rt, open.count, &open.waiting)
    {
        return rt.fail(cannot_be_sent(&error));
    }
    let mut spare = exchanges.spare.borrow_mut();
    if spare.len() < SPARE_MAX {
        spare.push(open.reset());
    }
}

/// The value of another PE has arrived.
pub(super) fn arrived(rt: Rt, reductions: &Reductions, mut msg: Opened) {
    let from = msg.from;
    let steps = reductions.allreduces.steps(rt, reductions).unwrap_or_default();
    let is_step = |meeting| steps.iter().any(|step| step.meeting == meeting && step.from.contains(&from));
    let label = msg.split_front::<Label>().filter(|label| is_step(label.meeting));
    let Some(Label { number, count, meeting, terms }) = label else {
        return rt.violation(from, "a part of an exchange with others", u64::from(rt.sched.pe().0));
    };
    let value = if terms == 0 { Ok(Given::Whole(msg)) } else { msg.read().map(Given::Terms) };
    let Ok(value) = value else {
        return rt.violation(from, "a part of an exchange that cannot be read", number);
    };
    if reductions.goes_up(number) {
        return rt.fail(unlike(reductions, number, "some go to all contributors, others do not, or are long vectors"));
    }
    let is_new = reductions.allreduces.with(number, |open| {
        let is_new = !open.arrived.iter().any(|arrived| (arrived.from, arrived.meeting) == (from, meeting));
        open.arrived.push(Arrived { from, meeting, count, value });
        is_new
    });
    if !is_new {
        return rt.violation(from, "a part of an exchange for the second time", number);
    }
    advance(rt, reductions, number);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use super::*;

    /// The ranks whose values have been merged, in order; and the longest chain of messages that led to it.
    type Value = (Vec<u32>, usize);

    /// Lets PEs exchange; returns the number of messages, and the length of their longest chain.
    fn exchanged(count: u32) -> (usize, usize) {
        let pes: Vec<Pe> = (0..count).map(|pe| Pe(10 + 3 * pe)).collect();
        let mut have: Vec<Value> = (0..count).map(|rank| (vec![rank], 0)).collect();
        let mut sent: BTreeMap<(Pe, Pe, u32), Value> = BTreeMap::new();
        let mut left: Vec<VecDeque<Step>> =
            pes.iter().map(|&pe| steps_of(&pes, pe).into_vec().into_iter().collect()).collect();
        let (mut has_sent, mut messages) = (vec![false; pes.len()], 0);
        while left.iter().any(|steps| !steps.is_empty()) {
            for (rank, &pe) in pes.iter().enumerate() {
                let Some(step) = left[rank].front() else { continue };
                if !std::mem::replace(&mut has_sent[rank], true) {
                    let (value, chain) = if step.silent { (Vec::new(), 0) } else { have[rank].clone() };
                    for &to in &step.to {
                        messages += 1;
                        assert!(sent.insert((pe, to, step.meeting), (value.clone(), chain + 1)).is_none());
                    }
                }
                let ways = step.from.iter().map(|&from| (from, pe, step.meeting));
                if !ways.clone().all(|way| sent.contains_key(&way)) {
                    continue;
                }
                let mut parts: Vec<Value> = ways.map(|way| sent.remove(&way).unwrap()).collect();
                if let Some(place) = step.own {
                    parts.insert(place, std::mem::take(&mut have[rank]));
                }
                let chain = parts.iter().map(|part| part.1).max().unwrap();
                have[rank] = (parts.into_iter().flat_map(|part| part.0).collect(), chain);
                left[rank].pop_front();
                has_sent[rank] = false;
            }
        }
        assert!(sent.is_empty() && have.iter().all(|(value, _)| value.iter().copied().eq(0..count)), "{count}");
        (messages, have.iter().map(|(_, chain)| *chain).max().unwrap())
    }

    #[test]
    fn every_pe_gets_the_parts_of_all_in_the_order_of_their_ranks() {
        for count in 1..=64 {
            exchanged(count);
        }
    }

    #[test]
    fn a_power_of_two_takes_its_logarithm_in_steps_and_other_numbers_few_more() {
        assert_eq!([1, 2, 4, 8, 16, 32].map(exchanged), [(0, 0), (2, 1), (8, 2), (24, 3), (64, 4), (160, 5)]);
        assert_eq!([3, 5, 6, 7, 15].map(exchanged), [(6, 1), (20, 1), (18, 2), (21, 3), (90, 2)]);
    }
}
