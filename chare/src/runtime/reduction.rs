//! Reductions: every element of a collection gives a part, the parts are merged on their way up a tree of PEs, and the
//! result goes to where the contributors say.
//!
//! *Counting.* A PE must know when its subtree is complete. When a collection has been made, every PE sends the number of
//! elements in its subtree up the tree, once. From then on the contributions to reduction `n` go up when as many have come as the
//! subtree has elements; an element that is destroyed after it contributed `n` times is no longer
//! expected from reduction `n` on, which its PE tells its ancestors. (One destroyed before its PE counted is counted all the
//! same, so that departures mean one thing; they are told after the tree's root is known, which is when a PE counts.)
//!
//! *Types.* Parts are merged as Rust values where a contributor lives, since only there the reducer's type is known;
//! a PE without elements passes its children's parts on as they are, with the name of a PE that knows the type. The root is a
//! PE with elements at first; if it has lost them, it sends all parts to such a PE (the *merger*) to end the reduction there.
//!
//! *Order.* Each element numbers its own contributions, so all see the reductions of a collection in one order. Messages with
//! payloads may overtake each other on a network; so the root ends a reduction only when none of a smaller number is
//! open there (an element of its own that contributed to this one has contributed to those).
//!
//! *Results for every contributor*, if they are small, mostly go no way up and down: see [`super::exchange`].
//!
//! *Large parts*, of reducers that work element by element, go in pieces: each piece is counted, merged and sent as
//! if it were a reduction of its own ([`super::pieces`]). Other parts are packed whole, their payloads beside the message.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use charm4rs_transport::Pe;
use charm4rs_transport::port::{Incoming, Tag};

use super::Rt;
use super::by_number::ByNumber;
use super::collection::CollectionId;
use super::exchange::{self, Exchanges};
use super::part::{Part, Typed};
use super::pieces::{self, Large, Pieces, Waiting};
use super::post::reply_serialized;
use super::results::result;
use super::shared::{self, Opened};
use super::span::{Place, Span};
use super::unlike::{cannot_be_sent, refuse, unlike};
use crate::Arguments;
use crate::envelope::{FutureId, Header, tag};
use crate::reduce::{Reducer, Route};
use crate::wire::{self, Packed};

/// A PE's part of a collection's reductions.
pub(crate) struct Reductions {
    pub(super) collection: Cell<CollectionId>,
    pub(super) chare: &'static str,
    pub(super) span: Span,
    root: Cell<Pe>,
    first_root: Pe,
    /// Who waits for the collection to be complete; it is the root that tells them, with the number of elements.
    waiting: RefCell<Vec<FutureId>>,
    /// The root is known, and the elements here have been counted.
    settled: Cell<bool>,
    /// Elements that were destroyed here before they were counted.
    lost: Cell<u64>,
    counting: RefCell<Counting>,
    /// Elements of this PE; `None` until they have been counted.
    own: Cell<Option<u64>>,
    /// For each of them that was destroyed, the first reduction that does not expect it.
    left: RefCell<Vec<u64>>,
    /// Elements of the subtree; `None` until they have been counted.
    subtree: Cell<Option<u64>>,
    /// For each destroyed element of the subtree, the first reduction that does not expect it.
    departed: RefCell<Vec<u64>>,
    pending: RefCell<ByNumber<Pending>>,
    /// One reducer of each type that was used here, for the parts of a root that has none.
    reducers: RefCell<Vec<Option<Box<dyn Part>>>>,
    pub(super) pieces: Pieces,
    pub(super) exchanges: Exchanges,
    /// A result that was sent from here has called an entry method.
    pub(super) called: Cell<bool>,
    /// At the root: results that wait for those of smaller numbers.
    ready: RefCell<BTreeMap<u64, Ready>>,
    /// Elements here that wait for the result of a reduction.
    pub(super) everyone: RefCell<BTreeMap<u64, Waiting>>,
}

/// A result that only has to be finished and sent.
type Ready = Box<dyn FnOnce(Rt, &Reductions)>;

#[derive(Default)]
struct Counting {
    heard: usize,
    total: u64,
}

#[derive(Default)]
struct Pending {
    count: u64,
    here: Option<Box<dyn Part>>,
    /// Parts of children that nobody here could merge yet.
    below: Vec<Packed>,
    route: Option<Route>,
    merger: Option<Merger>,
}

/// A PE that knows the reducer, and which of its reducers it is.
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
            waiting: RefCell::default(),
            settled: Cell::new(false),
            lost: Cell::new(0),
            counting: RefCell::default(),
            own: Cell::new(None),
            left: RefCell::default(),
            subtree: Cell::new(None),
            departed: RefCell::default(),
            pending: RefCell::default(),
            reducers: RefCell::default(),
            pieces: Pieces::default(),
            exchanges: Exchanges::new(exchanges),
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

    /// Whether parts of a reduction of this number are here that do not go in pieces.
    pub(super) fn has_whole(&self, number: u64) -> bool {
        self.pending.borrow().contains(number) || self.exchanges.has(number)
    }

    /// Whether parts of a reduction of this number are here that are not exchanged.
    pub(super) fn goes_up(&self, number: u64) -> bool {
        let in_pieces = || self.everyone.borrow().get(&number).is_some_and(Waiting::in_pieces);
        self.pending.borrow().contains(number) || self.pieces.has(number) || in_pieces()
    }

    /// Drops what was contributed and will not be reduced.
    pub(super) fn clear(&self) {
        let (pending, ready, everyone) = (self.pending.take(), self.ready.take(), self.everyone.take());
        self.pieces.clear();
        self.exchanges.clear();
        drop((pending, ready, everyone, self.reducers.take()));
    }

    /// As those of a new collection like this one. Who waited for it to be complete?
    pub(super) fn renew(&self, collection: CollectionId) -> Vec<FutureId> {
        self.clear();
        self.collection.set(collection);
        self.root.set(self.first_root);
        self.settled.set(false);
        self.lost.set(0);
        self.counting.take();
        self.own.set(None);
        self.left.take();
        self.subtree.set(None);
        self.departed.take();
        self.called.set(false);
        self.waiting.take()
    }

    pub(super) fn header(&self, rt: Rt) -> Header {
        Header::new(self.collection.get().0, rt.sched.pe())
    }

    /// How many contributions of the subtree reduction `number` needs.
    pub(super) fn expected(&self, number: u64) -> Option<u64> {
        let departed = self.departed.borrow().iter().filter(|&&from| from <= number).count();
        // Only a peer that lies tells of more departures than there are elements.
        Some(self.subtree.get()?.saturating_sub(departed as u64))
    }

    /// How many of them are of this PE's elements.
    pub(super) fn expected_here(&self, number: u64) -> Option<u64> {
        let left = self.left.borrow().iter().filter(|&&from| from <= number).count();
        Some(self.own.get()? - left as u64)
    }
}

/// At the root: somebody waits until all elements have been counted.
pub(super) fn tell_when_counted(rt: Rt, reductions: &Reductions, to: FutureId) {
    let Some(to) = to.wanted() else { return };
    let complete = reductions.settled.get() && reductions.subtree.get().is_some();
    if complete && reductions.root.get() == rt.sched.pe() {
        reply_serialized(rt, to, reductions.expected(u64::MAX).unwrap_or_default());
    } else {
        reductions.waiting.borrow_mut().push(to);
    }
}

/// All elements that belong to this PE have been made, and the root is known.
pub(super) fn count(rt: Rt, reductions: &Reductions, own: u64) {
    reductions.settled.set(true);
    if let Some(parent) = reductions.place(rt).parent {
        let departed = reductions.departed.borrow().clone();
        departed.into_iter().for_each(|from| send_departure(rt, parent, reductions, from));
    }
    let own = own + reductions.lost.get();
    reductions.own.set(Some(own));
    counted(rt, reductions, own);
    exchange::advance_from(rt, reductions, 0);
}

/// A part of the subtree has been counted.
fn counted(rt: Rt, reductions: &Reductions, elements: u64) {
    let total = {
        let mut counting = reductions.counting.borrow_mut();
        counting.heard += 1;
        let total = counting.total.checked_add(elements).filter(|_| reductions.subtree.get().is_none());
        let Some(total) = total else {
            return rt.violation(reductions.root.get(), "elements that were counted already", elements);
        };
        counting.total = total;
        if !reductions.settled.get() {
            return;
        }
        // Its own elements, and every child's.
        if counting.heard <= reductions.place(rt).children.len() {
            return;
        }
        counting.total
    };
    reductions.subtree.set(Some(total));
    match reductions.place(rt).parent {
        Some(parent) => send(rt, parent, tag::COUNTED, reductions, total),
        None => {
            let elements = reductions.expected(u64::MAX).unwrap_or_default();
            reductions.waiting.take().into_iter().for_each(|to| reply_serialized(rt, to, elements));
        }
    }
    advance_from(rt, reductions, 0);
}

/// Sends a value whose payloads the receiver may share.
pub(super) fn send<B: serde::Serialize>(rt: Rt, to: Pe, tag: Tag, reductions: &Reductions, body: B) {
    rt.with_scratch(|bytes| {
        let beside = wire::pack(&body, bytes).expect("numbers and bytes can be packed");
        drop(body); // so that the payloads' memory need not be copied
        shared::send(rt, to, tag, &reductions.header(rt), bytes, beside);
    });
}

/// To whom the result of a reduction goes, as a contributor says.
pub(super) enum To {
    Route(Route),
    /// Every contributor, this one by a future. Unless they `may_exchange` their parts, the result comes from the root.
    Everyone {
        future: FutureId,
        may_exchange: bool,
    },
}

impl To {
    /// For a reduction that goes up the tree.
    fn route(self, reductions: &Reductions, number: u64) -> Route {
        match self {
            Self::Route(route) => route,
            Self::Everyone { future, .. } => {
                reductions.everyone.borrow_mut().entry(number).or_default().futures.push(future);
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
            if let Err(earlier) = pieces::give(rt, reductions, number, large, reducer, to.route(reductions, number)) {
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
            match exchange::give::<V, R>(rt, reductions, number, part, reducer, future) {
                Ok(()) => return,
                Err(back) => back,
            }
        }
    };
    let otherwise = reductions.pieces.has(number) || reductions.exchanges.has(number);
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
struct Partial {
    number: u64,
    count: u64,
    route: Option<Route>,
    parts: Vec<Packed>,
    merger: Option<Merger>,
    /// From a root that cannot merge: its receiver ends the reduction.
    last: bool,
}

/// Sends a reduction's part up, or ends it at the root, if the subtree is complete.
fn advance(rt: Rt, reductions: &Reductions, number: u64) {
    let complete = {
        let pending = reductions.pending.borrow();
        let Some(pending) = pending.get(number) else { return };
        reductions.expected(number).is_some_and(|expected| pending.count >= expected)
    };
    if !complete {
        return;
    }
    let Some(mut pending) = reductions.pending.borrow_mut().remove(number) else { return };
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
        // All elements are gone: nobody contributed.
        (None, _, None) => return,
        (_, Some(mut own), _) => {
            match own.pack() {
                Ok(own) => parts.push(own),
                Err(error) => return rt.fail(cannot_be_sent(&error)),
            }
            merger = Some(Merger { pe: here, reducer: reductions.keep(own) });
        }
        _ => {}
    }
    let to = parent.or_else(|| merger.map(|merger| merger.pe)).expect("whoever packed a part can merge");
    let partial = Partial { number, count, route, parts, merger, last: parent.is_none() };
    send(rt, to, tag::PARTIAL, reductions, partial);
}

/// Advances all that may be complete now.
fn advance_from(rt: Rt, reductions: &Reductions, from: u64) {
    let open: Vec<u64> = reductions.pending.borrow().from(from).collect();
    open.into_iter().for_each(|number| advance(rt, reductions, number));
    pieces::advance_from(rt, reductions, from);
}

/// At the root: ends a reduction, and those that waited for it, unless one of a smaller number is open.
pub(super) fn end_in_order(rt: Rt, reductions: &Reductions, number: u64, end: impl FnOnce(Rt, &Reductions) + 'static) {
    let first_open = || {
        let whole = reductions.pending.borrow().first();
        whole.into_iter().chain(reductions.pieces.first()).min().unwrap_or(u64::MAX)
    };
    if number < first_open() && reductions.ready.borrow().is_empty() {
        return end(rt, reductions);
    }
    reductions.ready.borrow_mut().insert(number, Box::new(end));
    loop {
        let end = {
            let mut ready = reductions.ready.borrow_mut();
            match ready.first_entry() {
                Some(first) if *first.key() < first_open() => first.remove(),
                _ => return,
            }
        };
        end(rt, reductions);
    }
}

impl Reductions {
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
    // Out of the list while the user's code runs.
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

/// An element of the subtree is gone, after `contributed` contributions.
pub(super) fn depart(rt: Rt, reductions: &Reductions, contributed: u64) {
    if !reductions.settled.get() {
        reductions.lost.set(reductions.lost.get() + 1);
    }
    reductions.left.borrow_mut().push(contributed);
    departed(rt, reductions, contributed);
    exchange::advance_from(rt, reductions, contributed);
}

fn departed(rt: Rt, reductions: &Reductions, from: u64) {
    reductions.departed.borrow_mut().push(from);
    if !reductions.settled.get() {
        return; // `count` tells it
    }
    if let Some(parent) = reductions.place(rt).parent {
        send_departure(rt, parent, reductions, from);
    }
    advance_from(rt, reductions, from);
}

fn send_departure(rt: Rt, parent: Pe, reductions: &Reductions, from: u64) {
    let departure = Partial { number: from, count: 0, route: None, parts: Vec::new(), merger: None, last: false };
    send(rt, parent, tag::PARTIAL, reductions, departure);
}

/// A message about a collection's reductions has arrived.
pub(super) fn system(rt: Rt, reductions: &Reductions, header: &Header, msg: Incoming) {
    let mut msg = Opened::new(header, msg);
    let read = match msg.tag {
        tag::COUNTED => msg.read::<u64>().map(|elements| counted(rt, reductions, elements)),
        tag::PARTIAL => msg.read().map(|partial| arrived(rt, reductions, partial)),
        tag::RESULT => msg.read().map(|(number, value)| result(rt, reductions, number, value)),
        tag::PIECE => pieces::arrived(rt, reductions, &mut msg),
        tag::EXCHANGE => return exchange::arrived(rt, reductions, msg),
        _ => pieces::result_arrived(rt, reductions, &mut msg),
    };
    if read.is_err() {
        rt.violation(msg.from, "a reduction's message that cannot be read", u64::from(msg.tag.0));
    }
}

fn arrived(rt: Rt, reductions: &Reductions, partial: Partial) {
    if partial.count == 0 {
        return departed(rt, reductions, partial.number);
    }
    let exists = |pe: Pe| pe.0 < rt.sched.pes();
    let reaches = match &partial.route {
        Some(Route::Future(to)) => exists(to.pe),
        Some(_) => true,
        None => false,
    };
    if !reaches || !partial.merger.is_some_and(|merger| exists(merger.pe)) {
        return rt.violation(reductions.root.get(), "a part of a reduction that leads nowhere", partial.number);
    }
    if partial.last {
        return end_for_root(rt, reductions, partial);
    }
    if reductions.pieces.has(partial.number) || reductions.exchanges.has(partial.number) {
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
