//! Reductions: every element of a collection gives a part, the parts are merged on their way up a tree of PEs, and the
//! result goes to where the contributors say.
//!
//! *Counting.* A PE must know when its subtree is complete. When a collection has been made, every PE sends the number of
//! elements in its subtree up the tree, once. From then on the contributions to reduction `n` go up when as many have come as the
//! subtree has elements; an element that is destroyed after it contributed `n` times is no longer
//! expected from reduction `n` on, which its PE tells its ancestors.
//!
//! *Types.* Parts are merged as Rust values where a contributor lives, since only there the reducer's type is known;
//! a PE without elements passes its children's parts on as they are. The root is a PE with elements.
//!
//! *Order.* Each element numbers its own contributions, so all see the reductions of a collection in one order.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use charm4rs_scheduler::Class;
use charm4rs_transport::port::Incoming;
use charm4rs_transport::{Msg, Payloads, Pe};

use super::calls::{reply_serialized, send_wire};
use super::collection::{AnyCollection, CollectionId};
use super::exit::Failure;
use super::{Rt, tree};
use crate::cx::Element;
use crate::envelope::{FutureId, HEADER, Header, tag};
use crate::reduce::{Reducer, Route, Sink};
use crate::wire::{self, WireError};
use crate::{Arguments, Chare, Reply};

/// A PE's part of a collection's reductions.
pub(crate) struct Reductions {
    collection: CollectionId,
    root: Cell<Pe>,
    /// Who waits for the collection to be complete; known at the root.
    counted: Cell<FutureId>,
    counting: RefCell<Counting>,
    /// Elements of the subtree; `None` until they have been counted.
    subtree: Cell<Option<u64>>,
    /// For each destroyed element of the subtree, the first reduction that does not expect it.
    departed: RefCell<Vec<u64>>,
    pending: RefCell<BTreeMap<u64, Pending>>,
    /// Elements here that wait for the result of a reduction.
    everyone: RefCell<BTreeMap<u64, Vec<FutureId>>>,
}

#[derive(Default)]
struct Counting {
    heard: usize,
    total: u64,
}

#[derive(Default)]
struct Pending {
    count: u64,
    here: Option<Box<dyn Part>>,
    /// Parts of children, serialized, that nobody here could merge yet.
    below: Vec<Vec<u8>>,
    route: Option<Route>,
}

/// What has been merged so far, whatever its type.
trait Part {
    fn as_any(&mut self) -> &mut dyn Any;
    fn merge(&mut self, other: &[u8]) -> Result<(), WireError>;
    fn pack(&self) -> Result<Vec<u8>, WireError>;
    fn finish(self: Box<Self>, rt: Rt, reductions: &Reductions, number: u64, count: u64, route: &Route);
}

struct Merged<R, P> {
    reducer: R,
    part: Option<P>,
}

/// Names the value's type to the compiler.
struct Typed<V, R: Reducer<V>>(Merged<R, R::Partial>);

impl<V: 'static, R: Reducer<V>> Part for Typed<V, R> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }

    fn merge(&mut self, other: &[u8]) -> Result<(), WireError> {
        let other = wire::unpack::<R::Partial>(other, Vec::new())?;
        self.add(other);
        Ok(())
    }

    fn pack(&self) -> Result<Vec<u8>, WireError> {
        let mut bytes = Vec::new();
        // Payloads ride inside: a partial result goes one hop and is merged there.
        let part = self.0.part.as_ref().expect("a part is taken only by its end");
        bytes.extend(postcard::to_extend(part, Vec::new())?);
        Ok(bytes)
    }

    fn finish(self: Box<Self>, rt: Rt, reductions: &Reductions, number: u64, count: u64, route: &Route) {
        let Merged { reducer, part } = self.0;
        let value = reducer.finish(part.expect("a part is taken only by its end"), count);
        deliver(rt, reductions, number, route, &value);
    }
}

impl<V, R: Reducer<V>> Typed<V, R> {
    fn add(&mut self, other: R::Partial) {
        let part = match self.0.part.take() {
            Some(part) => self.0.reducer.merge(part, other),
            None => other,
        };
        self.0.part = Some(part);
    }
}

impl Reductions {
    pub(super) fn new(collection: CollectionId, root: Pe) -> Self {
        Self {
            collection,
            root: Cell::new(root),
            counted: Cell::new(FutureId::NONE),
            counting: RefCell::default(),
            subtree: Cell::new(None),
            departed: RefCell::default(),
            pending: RefCell::default(),
            everyone: RefCell::default(),
        }
    }

    /// Who is told when all elements have been counted.
    pub(super) fn tell_when_counted(&self, to: FutureId) {
        self.counted.set(to);
    }

    /// The root is known only now.
    pub(super) fn move_root(&self, root: Pe, counted: FutureId) {
        self.root.set(root);
        self.counted.set(counted);
    }

    fn header(&self, rt: Rt) -> Header {
        Header::new(self.collection.0, rt.sched.pe())
    }

    /// How many contributions of the subtree reduction `number` needs.
    fn expected(&self, number: u64) -> Option<u64> {
        let departed = self.departed.borrow().iter().filter(|&&from| from <= number).count();
        Some(self.subtree.get()? - departed as u64)
    }
}

/// All elements that belong to this PE have been made.
pub(super) fn count(rt: Rt, members: &dyn AnyCollection, own: u64) {
    counted(rt, members.reductions(), own);
}

/// A part of the subtree has been counted.
fn counted(rt: Rt, reductions: &Reductions, elements: u64) {
    let tree = tree(rt, reductions.root.get());
    let here = rt.sched.pe();
    let total = {
        let mut counting = reductions.counting.borrow_mut();
        counting.heard += 1;
        counting.total += elements;
        if counting.heard <= tree.children(here).count() {
            return;
        }
        counting.total
    };
    reductions.subtree.set(Some(total));
    match tree.parent(here) {
        Some(parent) => send(rt, parent, tag::COUNTED, reductions, &total),
        None => {
            if let Some(to) = reductions.counted.get().wanted() {
                reply_serialized(rt, to, &());
            }
        }
    }
    let ready: Vec<u64> = reductions.pending.borrow().keys().copied().collect();
    ready.into_iter().for_each(|number| advance(rt, reductions, number));
}

fn send<B: serde::Serialize>(rt: Rt, to: Pe, tag: charm4rs_transport::port::Tag, reductions: &Reductions, body: &B) {
    send_wire(rt, to, tag, &reductions.header(rt), body, false).expect("numbers and bytes can be packed");
}

/// An element of this PE gives its part.
pub(crate) fn contribute<T: Chare, V: Arguments, R: Reducer<V>>(
    element: &Rc<Element<T>>,
    value: V,
    reducer: R,
    sink: Sink<R::Output>,
) {
    give(element, value, reducer, sink.route);
}

/// Like [`contribute`], for a result that comes back to every contributor.
pub(crate) fn allreduce<T: Chare, V: Arguments, R: Reducer<V>>(
    element: &Rc<Element<T>>,
    value: V,
    reducer: R,
) -> Reply<R::Output> {
    let rt = element.rt;
    let reply = Reply::new(rt);
    let mut everyone = element.members.reductions.everyone.borrow_mut();
    everyone.entry(element.contributed.get()).or_default().push(reply.id());
    drop(everyone);
    give(element, value, reducer, Route::Everyone);
    reply
}

fn give<T: Chare, V: Arguments, R: Reducer<V>>(element: &Rc<Element<T>>, value: V, reducer: R, route: Route) {
    let rt = element.rt;
    let members = element.members;
    let number = element.contributed.get();
    element.contributed.set(number + 1);
    let part = reducer.start(value);
    {
        let mut pending = members.reductions.pending.borrow_mut();
        let pending = pending.entry(number).or_default();
        pending.count += 1;
        pending.route.get_or_insert(route);
        let here = pending.here.get_or_insert_with(|| Box::new(Typed::<V, R>(Merged { reducer, part: None })));
        let Some(typed) = here.as_any().downcast_mut::<Typed<V, R>>() else {
            panic!("elements of {} contribute different types to one reduction", T::NAME);
        };
        typed.add(part);
    }
    advance(rt, &members.reductions, number);
}

/// A partial result on its way up.
#[derive(serde::Serialize, serde::Deserialize)]
struct Partial {
    number: u64,
    count: u64,
    route: Option<Route>,
    parts: Vec<Vec<u8>>,
}

/// Sends a reduction's part up, or ends it at the root, if the subtree is complete.
fn advance(rt: Rt, reductions: &Reductions, number: u64) {
    let complete = {
        let pending = reductions.pending.borrow();
        let Some(pending) = pending.get(&number) else { return };
        reductions.expected(number).is_some_and(|expected| pending.count >= expected)
    };
    if !complete {
        return;
    }
    let Some(mut pending) = reductions.pending.borrow_mut().remove(&number) else { return };
    if let Some(here) = &mut pending.here
        && pending.below.drain(..).any(|part| here.merge(&part).is_err())
    {
        let what = "elements contribute different types to one reduction".to_string();
        return rt.fail(Failure { code: 1, what });
    }
    match tree(rt, reductions.root.get()).parent(rt.sched.pe()) {
        Some(parent) => {
            let Pending { count, here, below: mut parts, route } = pending;
            match here.map(|here| here.pack()).transpose() {
                Ok(own) => parts.extend(own),
                Err(error) => {
                    let what = format!("a contribution cannot be sent: {error}");
                    return rt.fail(Failure { code: 1, what });
                }
            }
            send(rt, parent, tag::PARTIAL, reductions, &Partial { number, count, route, parts });
        }
        None => match (pending.here, pending.route) {
            (Some(here), Some(route)) => here.finish(rt, reductions, number, pending.count, &route),
            (None, Some(_)) => {
                let what = "a reduction's root has no element any more, and cannot merge".to_string();
                rt.fail(Failure { code: 70, what });
            }
            // All elements are gone: nobody contributed.
            (_, None) => {}
        },
    }
}

/// An element of the subtree is gone, after `contributed` contributions.
pub(super) fn depart(rt: Rt, members: &dyn AnyCollection, contributed: u64) {
    departed(rt, members.reductions(), contributed);
}

fn departed(rt: Rt, reductions: &Reductions, from: u64) {
    reductions.departed.borrow_mut().push(from);
    if let Some(parent) = tree(rt, reductions.root.get()).parent(rt.sched.pe()) {
        send(rt, parent, tag::PARTIAL, reductions, &Partial { number: from, count: 0, route: None, parts: vec![] });
    }
    let open: Vec<u64> = reductions.pending.borrow().range(from..).map(|(number, _)| *number).collect();
    open.into_iter().for_each(|number| advance(rt, reductions, number));
}

/// A message about a collection's reductions has arrived.
pub(super) fn system(rt: Rt, members: &dyn AnyCollection, _: &Header, msg: &Incoming) {
    let reductions = members.reductions();
    let body = &msg.msg[HEADER..];
    let read = match msg.tag {
        tag::COUNTED => wire::unpack::<u64>(body, Vec::new()).map(|elements| counted(rt, reductions, elements)),
        tag::PARTIAL => wire::unpack(body, Vec::new()).map(|partial| arrived(rt, reductions, partial)),
        _ => wire::unpack(body, Vec::new()).map(|(number, value)| result(rt, reductions, number, value)),
    };
    if read.is_err() {
        rt.violation(msg.from, "a reduction's message that cannot be read", u64::from(msg.tag.0));
    }
}

fn arrived(rt: Rt, reductions: &Reductions, partial: Partial) {
    if partial.count == 0 {
        return departed(rt, reductions, partial.number);
    }
    {
        let mut pending = reductions.pending.borrow_mut();
        let pending = pending.entry(partial.number).or_default();
        pending.count += partial.count;
        pending.below.extend(partial.parts);
        pending.route = pending.route.take().or(partial.route);
    }
    advance(rt, reductions, partial.number);
}

/// At the root: sends the result to where the contributors said.
fn deliver<O: Arguments>(rt: Rt, reductions: &Reductions, number: u64, route: &Route, value: &O) {
    let pack = |bytes: &mut Vec<u8>| {
        bytes.extend(postcard::to_extend(value, Vec::new())?);
        Ok::<_, WireError>(())
    };
    let mut bytes = Vec::new();
    let packed = match route {
        Route::Nobody => return,
        Route::Future(to) => return reply_serialized(rt, *to, value),
        Route::Everyone => pack(&mut bytes).map(|()| result(rt, reductions, number, bytes)),
        Route::Entry { collection, method, before, broadcast } => {
            bytes.extend_from_slice(before);
            pack(&mut bytes).map(|()| {
                let mut header = Header::new(collection.0, rt.sched.pe());
                header.method = *method;
                let msg = Msg::fill(rt.sched.slab(), HEADER + bytes.len(), |room| header.fill(&bytes, room));
                let tag = if *broadcast { tag::BROADCAST } else { tag::CALL };
                let from = rt.sched.pe();
                rt.sched.enqueue(Incoming { from, tag, msg, payloads: Payloads::default() }, Class::Default);
            })
        }
    };
    if let Err(error) = packed {
        rt.fail(Failure { code: 1, what: format!("the result of a reduction cannot be sent: {error}") });
    }
}

/// The result for every contributor: passes it on down the tree, and gives it to those that wait here.
fn result(rt: Rt, reductions: &Reductions, number: u64, value: Vec<u8>) {
    let body = (number, value);
    for child in tree(rt, reductions.root.get()).children(rt.sched.pe()) {
        send(rt, child, tag::RESULT, reductions, &body);
    }
    let waiting = reductions.everyone.borrow_mut().remove(&number).unwrap_or_default();
    for to in waiting {
        rt.futures.fulfil_wire(to, &body.1, Vec::new());
    }
}

/// A sink that is an entry method of one argument. For `#[chare]`.
pub fn sink<E: crate::Entry<Args = (V,)>, K: crate::Kind, V>(target: &crate::Target<E::Chare, K>) -> Sink<V> {
    let mut before = Vec::new();
    if K::BROADCAST {
        before.push(super::broadcast::SILENT);
    } else {
        wire::pack(&target.which, &mut before).expect("an index can be packed");
    }
    let (collection, method) = (target.collection, E::info().id());
    Sink::to(Route::Entry { collection, method, before, broadcast: K::BROADCAST })
}
