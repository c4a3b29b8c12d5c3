//! Reductions: every element of a collection gives a part, the parts are merged on their way up a tree of PEs, and the result goes to the receiver
//! that the contributors name.
//!
//! *Counting.* A PE must know when its subtree is complete: see [`counting`].
//!
//! *Types.* Parts are merged as Rust values where a contributor lives, since only there the reducer's type is known; a PE without elements forwards
//! its children's parts unmerged, with the number of a PE that knows the type. The root is a PE with elements at first; if it has lost them, it sends
//! all parts to such a PE (the *merger*) to end the reduction there.
//!
//! *Order.* Each element numbers its own contributions, so all see the reductions of a collection in one order. Messages with payloads may overtake
//! each other on a network; so the root ends a reduction only when no smaller number is open there. (An element of the root that contributed to this
//! reduction has contributed to the smaller ones, or has joined after them: in the latter case the root waits for those that it has heard of.)
//!
//! *Small results for every contributor* are mostly computed without the tree: see [`allreduce`].
//!
//! *Results of calls* that the caller reduces go another way: see [`answers`].
//!
//! *Large parts*, of reducers that work element by element, are pipelined: each piece is counted, merged and sent as if it were a reduction of its
//! own ([`pipelined`]). Other parts are packed whole, their payloads beside the message.

mod allreduce;
mod answers;
mod by_number;
pub(super) mod counting;
mod counts;
pub(crate) mod known;
mod part;
mod pipelined;
mod reducer;
pub(super) mod results;
mod unlike;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use charm4rs_transport::Pe;
use charm4rs_transport::port::{Incoming, Tag};

use allreduce::Allreduces;
use by_number::ByNumber;
use counting::Counting;
use part::{Part, Typed};
use pipelined::{Large, Pipelined};
use results::{Waiters, result};
use unlike::{cannot_be_sent, refuse, unlike};

pub(crate) use answers::{Merged, Merging};
pub(crate) use reducer::Route;
pub use reducer::{ByElement, Reducer};

use crate::message::CollectionId;
use crate::message::envelope::{FutureId, Header, tag};
use crate::message::wire::{self, Packed};
use crate::runtime::Rt;
use crate::runtime::chare::Arguments;
use crate::runtime::shared::{self, Opened};
use crate::runtime::span::{Place, Span};

/// A PE's part of a collection's reductions.
pub(crate) struct Reductions {
    pub(super) collection: Cell<CollectionId>,
    pub(super) chare: &'static str,
    pub(super) span: Span,
    root: Cell<Pe>,
    first_root: Pe,
    pub(super) counting: Counting,
    pending: RefCell<ByNumber<Pending>>,
    /// One reducer of each type that was used here, for the parts of a root that has none.
    reducers: RefCell<Vec<Option<Box<dyn Part>>>>,
    pieces: Pipelined,
    allreduces: Allreduces,
    /// Whether a result that was sent from here has called an entry method.
    pub(super) called: Cell<bool>,
    /// At the root: results that wait for those with smaller numbers.
    ready: RefCell<BTreeMap<u64, Ready>>,
    /// Elements here that wait for the result of a reduction.
    everyone: RefCell<ByNumber<Waiters>>,
}

/// A result that only has to be finished and sent.
type Ready = Box<dyn FnOnce(Rt, &Reductions)>;

#[derive(Default)]
struct Pending {
    count: u64,
    here: Option<Box<dyn Part>>,
    /// Parts of children that this PE cannot merge yet.
    below: Vec<Packed>,
    route: Option<Route>,
    merger: Option<Merger>,
}

/// A PE that knows the reducer, and the reducer's number there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(super) struct Merger {
    pub(super) pe: Pe,
    pub(super) reducer: u32,
}

impl Reductions {
    pub(super) fn new(collection: CollectionId, chare: &'static str, root: Pe, span: Span, exchanges: bool) -> Self {
        Self {
            collection: Cell::new(collection),
            chare,
            span,
            root: Cell::new(root),
            first_root: root,
            counting: Counting::default(),
            pending: RefCell::default(),
            reducers: RefCell::default(),
            pieces: Pipelined::default(),
            allreduces: Allreduces::new(exchanges),
            called: Cell::new(false),
            ready: RefCell::default(),
            everyone: RefCell::default(),
        }
    }

    pub(super) fn root(&self) -> Pe {
        self.root.get()
    }

    /// This PE's place in the tree that reductions go up.
    pub(super) fn place(&self, rt: Rt) -> Rc<Place> {
        self.span.place(rt.sched.layout(), self.root.get(), rt.sched.pe())
    }

    /// The root is known only now.
    pub(super) fn move_root(&self, root: Pe) {
        self.root.set(root);
    }

    /// Whether parts of a reduction of this number are here that are not pipelined.
    pub(super) fn has_whole(&self, number: u64) -> bool {
        self.pending.borrow().contains(number) || self.allreduces.has(number)
    }

    /// Whether parts of a reduction of this number are here that are not exchanged.
    pub(super) fn goes_up(&self, number: u64) -> bool {
        let in_pieces = || self.everyone.borrow().get(number).is_some_and(Waiters::in_pieces);
        self.pending.borrow().contains(number) || self.pieces.has(number) || in_pieces()
    }

    /// Drops contributions that will not be reduced.
    pub(super) fn clear(&self) {
        let (pending, ready, everyone) = (self.pending.take(), self.ready.take(), self.everyone.take());
        self.pieces.clear();
        self.allreduces.clear();
        drop((pending, ready, everyone, self.reducers.take()));
    }

    /// Resets this for a similar new collection. Returns the futures that waited for the old one to be complete.
    pub(super) fn renew(&self, collection: CollectionId) -> Vec<FutureId> {
        self.clear();
        self.collection.set(collection);
        self.root.set(self.first_root);
        self.called.set(false);
        self.counting.renew()
    }

    pub(super) fn header(&self, rt: Rt) -> Header {
        Header::of_collection(self.collection.get(), rt.sched.pe())
    }
}

/// Sends a value whose payloads the receiver may share.
pub(super) fn send<B: serde::Serialize>(rt: Rt, to: Pe, tag: Tag, reductions: &Reductions, body: B) {
    rt.with_scratch(|bytes| {
        let beside = wire::pack(&body, bytes).expect("numbers and bytes can be packed");
        drop(body); // so that the payloads' memory need not be copied
        shared::send(rt, to, tag, &reductions.header(rt), bytes, beside);
    });
}

/// The receiver of a reduction's result, as a contributor names it.
pub(super) enum To {
    Route(Route),
    /// Every contributor; this one through a future. Unless they `may_exchange` their parts, the result comes from the root.
    Everyone {
        future: FutureId,
        may_exchange: bool,
    },
}

impl To {
    /// The route of a reduction that goes up the tree.
    fn route(self, reductions: &Reductions, number: u64) -> Route {
        match self {
            Self::Route(route) => route,
            Self::Everyone { future, .. } => {
                reductions.everyone.borrow_mut().get_or_new(number).futures.push(future);
                Route::Everyone
            }
        }
    }
}

/// An element of this PE gives its part of reduction `number`.
#[track_caller]
pub(super) fn give<V: Arguments, R: Reducer<V>>(
    rt: Rt,
    reductions: &Reductions,
    number: u64,
    value: V,
    reducer: R,
    to: To,
) {
    match Large::<V, R>::of(reducer.start(value)) {
        Ok(large) => {
            if reductions.has_whole(number) {
                refuse::<V, R>(reductions, number, "a short value");
            }
            if let Err(earlier) = pipelined::give(rt, reductions, number, large, reducer, to.route(reductions, number))
            {
                refuse::<V, R>(reductions, number, earlier);
            }
        }
        Err(small) => give_small::<V, R>(rt, reductions, number, small, reducer, to),
    }
}

#[track_caller]
fn give_small<V: Arguments, R: Reducer<V>>(
    rt: Rt,
    reductions: &Reductions,
    number: u64,
    part: R::Partial,
    reducer: R,
    to: To,
) {
    let (part, reducer) = match to {
        To::Route(_) | To::Everyone { may_exchange: false, .. } => (part, reducer),
        To::Everyone { future, may_exchange: true } => {
            match allreduce::give::<V, R>(rt, reductions, number, part, reducer, future) {
                Ok(()) => return,
                Err(back) => back,
            }
        }
    };
    let otherwise = reductions.pieces.has(number) || reductions.allreduces.has(number);
    if otherwise {
        refuse::<V, R>(reductions, number, "a long value, or by `allreduce`");
    }
    let route = to.route(reductions, number);
    {
        let mut pending = reductions.pending.borrow_mut();
        let pending = pending.get_or_new(number);
        match &pending.route {
            Some(earlier) if *earlier != route => refuse::<V, R>(reductions, number, "for another receiver"),
            _ => pending.route = Some(route),
        }
        let here = pending.here.get_or_insert_with(|| Box::new(Typed::<V, R>::new(reducer)));
        let Some(typed) = here.as_any().downcast_mut::<Typed<V, R>>() else {
            refuse::<V, R>(reductions, number, &here.name());
        };
        pending.count += 1;
        typed.add(part);
    }
    advance(rt, reductions, number);
}

/// A partial result on its way up.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Partial {
    number: u64,
    count: u64,
    route: Option<Route>,
    parts: Vec<Packed>,
    merger: Option<Merger>,
    /// From a root that cannot merge: its receiver ends the reduction.
    last: bool,
}

impl Partial {
    /// The message that an element of the subtree is gone, which has contributed `from` times.
    pub(super) fn departure(from: u64) -> Self {
        Self { number: from, count: 0, route: None, parts: Vec::new(), merger: None, last: false }
    }
}

/// Sends a reduction's part up, or ends it at the root, if the subtree is complete.
fn advance(rt: Rt, reductions: &Reductions, number: u64) {
    let complete = {
        let pending = reductions.pending.borrow();
        let Some(pending) = pending.get(number) else { return };
        reductions.counting.expected(number).is_some_and(|expected| pending.count >= expected)
    };
    if !complete {
        return;
    }
    let Some(mut pending) = reductions.pending.borrow_mut().remove(number) else { return };
    reductions.counting.has_left(number);
    let here = rt.sched.pe();
    if let Some(own) = &mut pending.here
        && pending.below.drain(..).any(|part| own.merge(part).is_err())
    {
        return rt.fail(unlike(reductions, number, "a part of another PE is of another type than one here"));
    }
    let parent = reductions.place(rt).parent;
    let Pending { count, here: own, below: mut parts, route, mut merger } = pending;
    match (parent, own, &route) {
        (None, Some(mut own), Some(_)) => {
            let end = move |rt: Rt, reductions: &Reductions| {
                own.finish(rt, reductions, number, count, &route.expect("it is matched"));
            };
            return end_in_order(rt, reductions, number, end);
        }
        // All elements are gone: there are no contributions.
        (None, _, None) => return end_ready(rt, reductions),
        (_, Some(mut own), _) => {
            match own.pack() {
                Ok(own) => parts.push(own),
                Err(error) => return rt.fail(cannot_be_sent(&error)),
            }
            merger = Some(Merger { pe: here, reducer: reductions.keep(own) });
        }
        _ => {}
    }
    let to = parent.or_else(|| merger.map(|merger| merger.pe)).expect("a PE that packed a part can merge");
    let partial = Partial { number, count, route, parts, merger, last: parent.is_none() };
    send(rt, to, tag::PARTIAL, reductions, partial);
    if parent.is_none() {
        end_ready(rt, reductions);
    }
}

/// Advances all reductions that may be complete now.
pub(super) fn advance_from(rt: Rt, reductions: &Reductions, from: u64) {
    let open: Vec<u64> = reductions.pending.borrow().from(from).collect();
    open.into_iter().for_each(|number| advance(rt, reductions, number));
    pipelined::advance_from(rt, reductions, from);
}

/// At the root: ends a reduction, and those that waited for it, unless one with a smaller number is open.
pub(super) fn end_in_order(rt: Rt, reductions: &Reductions, number: u64, end: impl FnOnce(Rt, &Reductions) + 'static) {
    if number < reductions.first_open() && reductions.ready.borrow().is_empty() {
        return end(rt, reductions);
    }
    reductions.ready.borrow_mut().insert(number, Box::new(end));
    end_ready(rt, reductions);
}

/// At the root: ends the reductions that need not wait any more.
pub(super) fn end_ready(rt: Rt, reductions: &Reductions) {
    loop {
        let end = {
            let mut ready = reductions.ready.borrow_mut();
            match ready.first_entry() {
                Some(first) if *first.key() < reductions.first_open() => first.remove(),
                _ => return,
            }
        };
        end(rt, reductions);
    }
}

impl Reductions {
    /// The least number of an open reduction here.
    fn first_open(&self) -> u64 {
        let whole = self.pending.borrow().first();
        whole.into_iter().chain(self.pieces.first()).min().unwrap_or(u64::MAX)
    }

    /// Keeps a reducer for parts that a root cannot merge; returns its number.
    fn keep(&self, reducer: Box<dyn Part>) -> u32 {
        let mut reducers = self.reducers.borrow_mut();
        let same = |other: &Option<Box<dyn Part>>| other.as_ref().is_some_and(|other| other.kind() == reducer.kind());
        let at = reducers.iter().position(same).unwrap_or(reducers.len());
        if at == reducers.len() {
            reducers.push(None);
        }
        reducers[at] = Some(reducer);
        u32::try_from(at).expect("a program has fewer reducers")
    }
}

/// Merges what a root could not, and ends the reduction.
fn end_for_root(rt: Rt, reductions: &Reductions, partial: Partial) {
    let at = partial.merger.map_or(usize::MAX, |merger| merger.reducer as usize);
    // Out of the list while user code runs.
    let reducer = reductions.reducers.borrow_mut().get_mut(at).and_then(Option::take);
    let (Some(mut reducer), Some(route)) = (reducer, &partial.route) else {
        return rt.violation(reductions.root.get(), "a reduction for a PE that took no part in it", partial.number);
    };
    if partial.parts.into_iter().any(|part| reducer.merge(part).is_err()) {
        return rt.fail(unlike(reductions, partial.number, "the parts of two PEs are of different types"));
    }
    reducer.finish(rt, reductions, partial.number, partial.count, route);
    reductions.reducers.borrow_mut()[at] = Some(reducer);
}

/// A message about a collection's reductions has arrived.
pub(super) fn system(rt: Rt, reductions: &Reductions, header: &Header, msg: Incoming) {
    let mut msg = Opened::new(header, msg);
    let read = match msg.tag {
        tag::COUNTED => msg.read().map(|(phase, elements)| counting::counted(rt, reductions, phase, elements)),
        tag::PARTIAL => msg.read().map(|partial| arrived(rt, reductions, partial)),
        tag::RESULT => msg.read().map(|(number, value)| result(rt, reductions, number, value)),
        tag::PIECE => pipelined::arrived(rt, reductions, &mut msg),
        tag::EXCHANGE => return allreduce::arrived(rt, reductions, msg),
        _ => pipelined::result_arrived(rt, reductions, &mut msg),
    };
    if read.is_err() {
        rt.violation(msg.from, "a reduction's message that cannot be read", u64::from(msg.tag.0));
    }
}

fn arrived(rt: Rt, reductions: &Reductions, partial: Partial) {
    if partial.count == 0 {
        return counting::departed(rt, reductions, partial.number);
    }
    let exists = |pe: Pe| pe.0 < rt.sched.pes();
    let reaches = match &partial.route {
        Some(Route::Future(to)) => exists(to.pe),
        Some(_) => true,
        None => false,
    };
    if !reaches || !partial.merger.is_some_and(|merger| exists(merger.pe)) {
        return rt.violation(reductions.root.get(), "a part of a reduction without a valid receiver", partial.number);
    }
    if partial.last {
        return end_for_root(rt, reductions, partial);
    }
    if reductions.pieces.has(partial.number) || reductions.allreduces.has(partial.number) {
        return rt.fail(unlike(
            reductions,
            partial.number,
            "some are long vectors, others are not, or are by `allreduce`",
        ));
    }
    {
        let mut pending = reductions.pending.borrow_mut();
        let pending = pending.get_or_new(partial.number);
        pending.count = pending.count.saturating_add(partial.count);
        pending.below.extend(partial.parts);
        pending.route = pending.route.take().or(partial.route);
        pending.merger = partial.merger.or(pending.merger);
    }
    advance(rt, reductions, partial.number);
}
