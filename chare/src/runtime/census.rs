//! How a sparse array is closed: when every insertion that was begun has been made, wherever it was begun.
//!
//! *The census.* Whoever calls `done_inserting` asks the array's creator, which holds one census for all who ask. Its
//! question goes down a tree, and every PE answers how many insertions it began and how many elements it made. When two
//! rounds in a row give equal sums that do not change, nothing is on its way (the argument of quiescence, for one
//! collection); the verdict goes down the tree, with the PE that is to be the root of the array's reductions: one with an
//! element. Then counting begins as for other collections (see [`super::reduction`]), and its end is the answer to all who asked.

use std::cell::{Cell, RefCell};

use charm4rs_transport::Pe;
use charm4rs_transport::port::Incoming;
use serde::{Deserialize, Serialize};

use super::collection::{AnyCollection, CollectionId, Common};
use super::post::send_wire;
use super::{Rt, reduction, tree};
use crate::envelope::{FutureId, HEADER, Header, tag};
use crate::reply::Awaited;
use crate::{Reply, wire};

/// A PE's count of a sparse array's insertions, and the census that it takes part in.
#[derive(Default)]
pub(super) struct Insertions {
    begun: Cell<u64>,
    made: Cell<u64>,
    round: RefCell<Round>,
    /// At the creator: who asked; `Some` while a census is under way.
    askers: RefCell<Option<Vec<FutureId>>>,
    /// There, too: who wants to know how many elements there are, once the array is closed.
    counters: RefCell<Vec<FutureId>>,
}

impl Insertions {
    pub(super) fn one_begun(&self) {
        self.begun.set(self.begun.get() + 1);
    }

    pub(super) fn one_made(&self) {
        self.made.set(self.made.get() + 1);
    }

    /// As of a new array. Who waited for the end of a census?
    pub(super) fn renew(&self) -> Vec<FutureId> {
        self.begun.set(0);
        self.made.set(0);
        self.round.take();
        let mut waiting = self.askers.take().unwrap_or_default();
        waiting.extend(self.counters.take());
        waiting
    }
}

#[derive(Default)]
struct Round {
    missing: usize,
    begun: u64,
    made: u64,
    /// The lowest PE with an element.
    first: Option<Pe>,
    /// At the creator: the sums of the round before.
    before: Option<u64>,
}

#[derive(Serialize, Deserialize)]
enum Step {
    /// To the creator: close the array.
    Begin,
    Ask,
    Answer {
        begun: u64,
        made: u64,
        first: Option<Pe>,
    },
    Close {
        root: Pe,
    },
    /// To the root: somebody else waits, or asks for the number of elements.
    Tell,
    /// To the creator: how many elements are there, when the collection is complete?
    Count,
}

/// Asks for a census.
pub(crate) fn census(rt: Rt, id: CollectionId) -> Reply<()> {
    let reply = Reply::discarding::<u64>(rt, Awaited::CREATION);
    let header = Header::new(id.0, rt.sched.pe()).with_reply(reply.id());
    send(rt, id.creator().unwrap_or_else(|| rt.sched.pe()), &header, &Step::Begin);
    reply
}

/// How many elements a collection has: when it has been made, and closed if it is a sparse array. It may be any collection but that of
/// single chares.
pub(crate) fn elements(rt: Rt, id: CollectionId) -> Reply<u64> {
    let reply = Reply::new(rt, Awaited::CREATION);
    let header = Header::new(id.0, rt.sched.pe()).with_reply(reply.id());
    send(rt, id.creator().expect("a collection has a creator"), &header, &Step::Count);
    reply
}

fn send(rt: Rt, to: Pe, header: &Header, step: &Step) {
    send_wire(rt, to, tag::CENSUS, header, step, false).expect("a step of a census can be packed");
}

/// A step of a census has arrived.
pub(super) fn step(rt: Rt, all: &dyn AnyCollection, header: &Header, msg: &Incoming) {
    let (here, members) = (rt.sched.pe(), all.common());
    let (Ok(step), Some(creator)) = (wire::unpack::<Step>(&msg.msg[HEADER..], Vec::new()), members.id().creator())
    else {
        return rt.violation(msg.from, "a census that cannot be", header.collection);
    };
    if !members.sparse && !matches!(step, Step::Count | Step::Tell) {
        return rt.violation(msg.from, "a census of what is not filled", header.collection);
    }
    let tree = tree(rt, creator);
    // Of the whole census, without who asked.
    let header = &Header::new(members.id().0, here).with_reply(header.reply());
    match step {
        Step::Begin => begin(rt, members, header),
        Step::Ask => {
            let children: Vec<Pe> = tree.children(here).collect();
            {
                let mut round = members.inserted.round.borrow_mut();
                let before = round.before;
                *round = Round { missing: children.len() + 1, before, ..Round::default() };
            }
            children.into_iter().for_each(|child| send(rt, child, header, &Step::Ask));
            let own = &members.inserted;
            let first = (all.count() > 0).then_some(here);
            answer(rt, members, creator, (own.begun.get(), own.made.get(), first));
        }
        Step::Answer { begun, made, first } => answer(rt, members, creator, (begun, made, first)),
        Step::Close { root } if root.0 < rt.sched.pes() && !members.complete.get() => {
            tree.children(here).for_each(|child| send(rt, child, header, &Step::Close { root }));
            members.reductions.move_root(root);
            members.complete.set(true);
            for counter in members.inserted.counters.take() {
                send(rt, root, &header.with_reply(counter), &Step::Tell);
            }
            reduction::count(rt, &members.reductions, all.count());
            rt.release(members.id());
            all.wake_all(rt);
        }
        Step::Close { root } => {
            rt.violation(msg.from, "a root that does not exist, or a second one", u64::from(root.0))
        }
        Step::Count if members.sparse && !members.complete.get() => {
            members.inserted.counters.borrow_mut().push(header.reply())
        }
        Step::Count => send(rt, members.reductions.root(), header, &Step::Tell),
        Step::Tell => reduction::tell_when_counted(rt, &members.reductions, header.reply()),
    }
}

/// At the creator: somebody asks.
fn begin(rt: Rt, members: &Common, header: &Header) {
    if members.complete.get() {
        return send(rt, members.reductions.root(), header, &Step::Tell);
    }
    let mut askers = members.inserted.askers.borrow_mut();
    let first = askers.is_none();
    askers.get_or_insert_default().push(header.reply());
    drop(askers);
    if first {
        send(rt, rt.sched.pe(), header, &Step::Ask);
    }
}

fn answer(rt: Rt, members: &Common, creator: Pe, (begun, made, first): (u64, u64, Option<Pe>)) {
    let mut round = members.inserted.round.borrow_mut();
    let sums = round.begun.checked_add(begun).zip(round.made.checked_add(made));
    let Some(sums) = sums.filter(|_| first.is_none_or(|pe| pe.0 < rt.sched.pes())) else {
        return rt.violation(creator, "a count that cannot be", members.id().0);
    };
    (round.begun, round.made) = sums;
    round.first = round.first.into_iter().chain(first).min();
    let Some(missing) = round.missing.checked_sub(1) else {
        return rt.violation(creator, "an answer to no census", members.id().0);
    };
    round.missing = missing;
    if missing > 0 {
        return;
    }
    let header = Header::new(members.id().0, rt.sched.pe());
    let (begun, made, first) = (round.begun, round.made, round.first);
    if let Some(parent) = tree(rt, creator).parent(rt.sched.pe()) {
        return send(rt, parent, &header, &Step::Answer { begun, made, first });
    }
    let settled = begun == made && round.before == Some(begun);
    round.before = (begun == made).then_some(begun);
    drop(round);
    if !settled {
        return send(rt, rt.sched.pe(), &header, &Step::Ask);
    }
    let root = first.unwrap_or(creator);
    send(rt, rt.sched.pe(), &header, &Step::Close { root });
    for asker in members.inserted.askers.take().unwrap_or_default() {
        send(rt, root, &header.with_reply(asker), &Step::Tell);
    }
}
