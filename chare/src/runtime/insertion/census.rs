//! How a sparse array is closed: it is closed when every insertion that was begun on any PE is complete. It can be closed any number of times:
//! afterwards elements may be inserted again, and take part in reductions once it is closed again.
//!
//! *The census.* A PE that calls `done_inserting` asks the array's creator, which holds one census for all PEs that have asked by the time that its
//! last round begins. The creator's question goes down a tree, and every PE answers how many insertions it began and how many elements it created.
//! When two consecutive rounds give equal sums that do not change, nothing is in flight (the argument of quiescence, for one collection). The first
//! verdict goes down the tree with the PE that becomes the root of the array's reductions: one with an element. Then counting begins as for other
//! collections (see [`crate::runtime::reduction`]), and its end is the answer to all PEs that asked. Later verdicts *join* elements: each PE also
//! answers the first reduction to which none of its elements has contributed, and holds that and later ones; the verdict has the greatest of these
//! numbers, which is the first reduction of the new elements. Only the elements included in a PE's answer take part: others ([`super::newcomers`])
//! may belong to insertions that were begun later.
//!
//! *An insertion is complete* when its element's home knows of it. If the element is on another PE, that PE tells the home.
//!
//! *Calls of elements that do not exist* wait at their homes, since an insertion may be in flight. Once the array has been closed, the home asks for
//! a census too, for which no reductions are held. The verdict has the number of its last round. Calls that arrived before the home was asked in the
//! round before that one wait in vain, and fail: an insertion that was begun before one of them was made would have been counted by the last round,
//! and its element would exist.

use std::cell::{Cell, RefCell};

use charm4rs_transport::Pe;
use charm4rs_transport::port::Incoming;
use serde::{Deserialize, Serialize};

use super::casts::{self, Seen};
use super::newcomers::Newcomers;
use crate::message::CollectionId;
use crate::message::envelope::{FutureId, HEADER, Header, tag};
use crate::message::wire;
use crate::runtime::collection::{AnyCollection, Common};
use crate::runtime::execute::spawn;
use crate::runtime::post::{reply, send_failure, send_wire};
use crate::runtime::reduction::counting;
use crate::runtime::{Awaited, OpenFuture, Rt, tree};

/// A PE's count of a sparse array's insertions, and the census that it takes part in.
#[derive(Default)]
pub(in crate::runtime) struct Insertions {
    begun: Cell<u64>,
    made: Cell<u64>,
    /// It has answered once.
    asked: Cell<bool>,
    /// How many times this PE has asked to close the array and has not been answered.
    closing: Cell<u32>,
    pub(in crate::runtime) newcomers: Newcomers,
    round: RefCell<Round>,
    /// This PE waits for the verdict on calls that wait here.
    probes: Cell<bool>,
    /// At the creator.
    clerk: RefCell<Clerk>,
}

/// What the creator knows of the PEs that want a census, and of the current census.
#[derive(Default)]
struct Clerk {
    /// Whether the current census closes the array; `None`: there is none.
    closes: Option<bool>,
    /// Phases that have been closed.
    phases: u32,
    /// The futures of those that asked since the last round began, and before.
    askers: [Vec<FutureId>; 2],
    probers: [Vec<Pe>; 2],
    /// The futures of those that request the number of elements, once the array is closed.
    counters: Vec<FutureId>,
}

impl Insertions {
    pub(in crate::runtime) fn one_begun(&self) {
        self.begun.set(self.begun.get() + 1);
    }

    pub(in crate::runtime) fn one_made(&self) {
        self.made.set(self.made.get() + 1);
    }

    /// Whether an element that is created now does not yet take part in reductions.
    #[inline]
    pub(in crate::runtime) fn takes_newcomers(&self) -> bool {
        self.asked.get()
    }

    /// Whether this PE has asked to close the array, perhaps again, and that is not done: its calls of all elements must reach the elements that it
    /// inserted before.
    pub(in crate::runtime) fn is_closing(&self) -> bool {
        self.closing.get() > 0
    }

    /// Resets this for a new array. Returns the futures that waited for the end of a census.
    pub(in crate::runtime) fn renew(&self) -> Vec<FutureId> {
        self.begun.set(0);
        self.made.set(0);
        self.asked.set(false);
        self.closing.set(0);
        self.newcomers.renew();
        self.round.take();
        self.probes.set(false);
        let Clerk { askers, mut counters, .. } = self.clerk.take();
        counters.extend(askers.into_iter().flatten());
        counters
    }
}

/// There are fewer reductions.
const BOUND_MAX: u64 = 1 << 62;

#[derive(Default)]
struct Round {
    missing: usize,
    sum: Sum,
    /// At the creator: how many insertions were begun, and made, in the previous round.
    before: Option<u64>,
}

/// The answer of PEs.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Sum {
    begun: u64,
    made: u64,
    /// The lowest PE with an element.
    first: Option<Pe>,
    /// A reduction to which no element has contributed, nor to later ones.
    bound: u64,
}

impl Sum {
    fn add(self, other: Self) -> Option<Self> {
        Some(Self {
            begun: self.begun.checked_add(other.begun)?,
            made: self.made.checked_add(other.made)?,
            first: self.first.into_iter().chain(other.first).min(),
            bound: self.bound.max(other.bound),
        })
    }
}

#[derive(Serialize, Deserialize)]
enum CensusMessage {
    /// To the creator: close the array.
    Begin,
    /// To the creator: are insertions on their way?
    Probe,
    Ask {
        closes: bool,
    },
    Answer(Sum),
    Close {
        root: Pe,
    },
    /// The array has been closed again: elements that were inserted since then take part.
    Join {
        from: u64,
    },
    /// To a PE that has probed: no insertion was in flight.
    Settled {
        /// The number of its last round.
        round: u64,
    },
    /// To the PE of an element that will be inserted: broadcasts that it must not get.
    Seen(Seen),
    /// To the root: a future waits for the end of a phase, or for the number of elements.
    Tell {
        phase: u32,
    },
    /// To the creator: how many elements are there, when the collection is complete?
    Count,
}

/// Asks for a census that closes the array. This PE's calls of all elements wait until it ends ([`Insertions::is_closing`]).
pub(crate) fn census(rt: Rt, id: CollectionId) -> OpenFuture<()> {
    let closed = OpenFuture::new(rt, Awaited::CREATION);
    let to = closed.id();
    if rt.any_collection(id).is_some() || rt.gone.has(id) {
        close(rt, id, to);
    } else {
        // After insertions that wait for the collection, too.
        rt.when_known(id, move || close(crate::runtime::current(), id, to));
    }
    closed
}

fn close(rt: Rt, id: CollectionId, to: FutureId) {
    let counted = OpenFuture::discarding::<u64>(rt, Awaited::CREATION);
    let mut header = Header::of_collection(id, rt.sched.pe()).with_reply(counted.id());
    let members = rt.any_collection(id);
    if let Some(members) = members {
        header.method = members.common().info.id(); // for the error, if it is gone
    }
    send(rt, id.creator().unwrap_or_else(|| rt.sched.pe()), &header, &CensusMessage::Begin);
    if let Some(members) = members {
        let closing = &members.common().inserted.closing;
        closing.set(closing.get() + 1);
    }
    spawn(rt, async move {
        match counted.await {
            Ok(()) => reply(rt, to, ()),
            Err(error) => send_failure(rt, to, error),
        }
        // The members may be in use by another collection now.
        let Some(members) = members.map(|members| members.common()).filter(|members| members.id() == id) else {
            return;
        };
        let closing = &members.inserted.closing;
        if closing.get() > 0 {
            closing.set(closing.get() - 1);
            if closing.get() == 0 {
                rt.release(id);
            }
        }
    });
}

/// The number of elements of a collection: once it has been created, and closed if it is a sparse array. The collection must not be that of single
/// chares.
pub(crate) fn elements(rt: Rt, id: CollectionId) -> OpenFuture<u64> {
    let count = OpenFuture::new(rt, Awaited::CREATION);
    let header = Header::of_collection(id, rt.sched.pe()).with_reply(count.id());
    send(rt, id.creator().expect("a collection has a creator"), &header, &CensusMessage::Count);
    count
}

fn send(rt: Rt, to: Pe, header: &Header, step: &CensusMessage) {
    send_wire(rt, to, tag::CENSUS, header, step, false).expect("a step of a census can be packed");
}

/// Asks whether insertions are in flight, for the calls that wait here.
#[cold]
pub(in crate::runtime) fn probe(rt: Rt, members: &Common) {
    if let Some(creator) = members.id().creator()
        && !members.inserted.probes.replace(true)
    {
        send(rt, creator, &Header::of_collection(members.id(), rt.sched.pe()), &CensusMessage::Probe);
    }
}

/// Before an insertion: tells the element's PE which broadcasts this PE has seen.
pub(in crate::runtime) fn tell_seen(rt: Rt, members: &Common, to: Pe) {
    if let Some(seen) = casts::to_tell(rt, members, to) {
        send(rt, to, &Header::of_collection(members.id(), rt.sched.pe()), &CensusMessage::Seen(seen));
    }
}

/// A step of a census has arrived.
pub(in crate::runtime) fn step(rt: Rt, all: &dyn AnyCollection, header: &Header, msg: &Incoming) {
    let (here, members) = (rt.sched.pe(), all.common());
    let (Ok(step), Some(creator)) =
        (wire::unpack::<CensusMessage>(&msg.msg[HEADER..], Vec::new()), members.id().creator())
    else {
        return rt.violation(msg.from, "an invalid census message", header.collection().0);
    };
    if !members.sparse && !matches!(step, CensusMessage::Count | CensusMessage::Tell { .. }) {
        return rt.violation(msg.from, "a census of a collection that is not a sparse array", header.collection().0);
    }
    let (own, own_casts) = (&members.inserted, &members.casts);
    // For the whole census, without the future of the request.
    let bare = Header::of_collection(members.id(), here);
    let pass_on =
        |step: &CensusMessage| tree(rt, creator).children(here).for_each(|child| send(rt, child, &bare, step));
    match step {
        CensusMessage::Begin => {
            own.clerk.borrow_mut().askers[0].push(header.reply());
            begin(rt, members);
        }
        CensusMessage::Probe => {
            own.clerk.borrow_mut().probers[0].push(msg.from);
            begin(rt, members);
        }
        CensusMessage::Ask { closes } => ask(rt, all, creator, closes),
        CensusMessage::Answer(sum) => answer(rt, members, creator, sum),
        CensusMessage::Close { root } if root.0 < rt.sched.pes() && !members.complete.get() => {
            pass_on(&CensusMessage::Close { root });
            members.reductions.move_root(root);
            members.complete.set(true);
            for counter in std::mem::take(&mut own.clerk.borrow_mut().counters) {
                send(rt, root, &bare.with_reply(counter), &CensusMessage::Tell { phase: 0 });
            }
            counting::count(rt, &members.reductions, all.count() - own.newcomers.count());
            rt.release(members.id());
            members.absent.wake_all(rt);
        }
        CensusMessage::Close { root } => {
            rt.violation(msg.from, "a root that does not exist, or a second one", u64::from(root.0))
        }
        CensusMessage::Join { from } if members.complete.get() && from <= BOUND_MAX => {
            pass_on(&CensusMessage::Join { from });
            all.forget_gone();
            let (joined, give) = own.newcomers.join(from);
            counting::join(rt, &members.reductions, from, joined);
            give(rt, &members.reductions);
        }
        CensusMessage::Join { from } => {
            rt.violation(msg.from, "elements that join an open array, or an invalid reduction number", from)
        }
        CensusMessage::Seen(seen) => own_casts.told(msg.from, seen),
        CensusMessage::Settled { round } => {
            own.probes.set(false);
            if members.absent.give_up(rt, round) {
                probe(rt, members);
            }
        }
        CensusMessage::Count if members.sparse && !members.complete.get() => {
            own.clerk.borrow_mut().counters.push(header.reply());
        }
        CensusMessage::Count => send(rt, members.reductions.root(), header, &CensusMessage::Tell { phase: 0 }),
        CensusMessage::Tell { phase } => counting::tell_when_counted(rt, &members.reductions, phase, header.reply()),
    }
}

/// At the creator: begins a census, if one is wanted and none is in progress.
fn begin(rt: Rt, members: &Common) {
    let clerk = members.inserted.clerk.borrow();
    let wanted = !clerk.askers[0].is_empty() || !clerk.probers[0].is_empty();
    if clerk.closes.is_none() && wanted {
        drop(clerk);
        ask_all(rt, members);
    }
}

/// At the creator: begins a round. It is for all PEs that have asked by now; it closes the array if one of them wants that, and then so do the next
/// rounds.
fn ask_all(rt: Rt, members: &Common) {
    let closes = {
        let mut clerk = members.inserted.clerk.borrow_mut();
        let Clerk { closes, askers: [new_askers, askers], probers: [new_probers, probers], .. } = &mut *clerk;
        askers.append(new_askers);
        probers.append(new_probers);
        *closes = Some(!askers.is_empty());
        !askers.is_empty()
    };
    send(rt, rt.sched.pe(), &Header::of_collection(members.id(), rt.sched.pe()), &CensusMessage::Ask { closes });
}

/// The question of a round has arrived: forwards it, and answers.
fn ask(rt: Rt, all: &dyn AnyCollection, creator: Pe, closes: bool) {
    let (here, members) = (rt.sched.pe(), all.common());
    let (own, header) = (&members.inserted, Header::of_collection(members.id(), here));
    let children: Vec<Pe> = tree(rt, creator).children(here).collect();
    {
        let mut round = own.round.borrow_mut();
        *round = Round { missing: children.len() + 1, before: round.before, ..Round::default() };
    }
    children.into_iter().for_each(|child| send(rt, child, &header, &CensusMessage::Ask { closes }));
    own.asked.set(true);
    members.absent.ask();
    let mut bound = 0;
    if closes {
        own.newcomers.answer();
        if members.complete.get() {
            bound = all.collected(rt).map_or(0, |collected| collected.most()).max(members.reductions.counting.bound());
            counting::answer(rt, &members.reductions, bound);
        } else {
            // The first reduction of these elements is known.
            let (_, give) = own.newcomers.join(0);
            give(rt, &members.reductions);
        }
    }
    let first = (all.count() > 0).then_some(here);
    answer(rt, members, creator, Sum { begun: own.begun.get(), made: own.made.get(), first, bound });
}

fn answer(rt: Rt, members: &Common, creator: Pe, part: Sum) {
    let mut round = members.inserted.round.borrow_mut();
    let sum =
        round.sum.add(part).filter(|sum| sum.first.is_none_or(|pe| pe.0 < rt.sched.pes()) && sum.bound <= BOUND_MAX);
    let (Some(sum), Some(missing)) = (sum, round.missing.checked_sub(1)) else {
        return rt.violation(creator, "an unexpected answer to a census, or an invalid count", members.id().0);
    };
    (round.sum, round.missing) = (sum, missing);
    if missing > 0 {
        return;
    }
    if let Some(parent) = tree(rt, creator).parent(rt.sched.pe()) {
        return send(rt, parent, &Header::of_collection(members.id(), rt.sched.pe()), &CensusMessage::Answer(sum));
    }
    let settled = sum.begun == sum.made && round.before == Some(sum.begun);
    round.before = (sum.begun == sum.made).then_some(sum.begun);
    drop(round);
    if settled {
        settle(rt, members, creator, sum);
    } else {
        ask_all(rt, members);
    }
}

/// At the creator: no insertion is in flight.
fn settle(rt: Rt, members: &Common, creator: Pe, sum: Sum) {
    let header = Header::of_collection(members.id(), rt.sched.pe());
    let (closes, phase, askers, probers) = {
        let mut clerk = members.inserted.clerk.borrow_mut();
        let closes = clerk.closes.take() == Some(true);
        let phase = clerk.phases;
        clerk.phases += u32::from(closes);
        let (askers, probers) = (std::mem::take(&mut clerk.askers[1]), std::mem::take(&mut clerk.probers[1]));
        (closes, phase, askers, probers)
    };
    let mut root = members.reductions.root();
    if closes && phase == 0 {
        root = sum.first.unwrap_or(creator);
        send(rt, rt.sched.pe(), &header, &CensusMessage::Close { root });
    } else if closes {
        send(rt, rt.sched.pe(), &header, &CensusMessage::Join { from: sum.bound });
    }
    for asker in askers {
        send(rt, root, &header.with_reply(asker), &CensusMessage::Tell { phase });
    }
    let round = members.absent.rounds();
    probers.into_iter().for_each(|pe| send(rt, pe, &header, &CensusMessage::Settled { round }));
    begin(rt, members);
}
