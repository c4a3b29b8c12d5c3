//! A PE's part of the object layer: its chares, and the handling of messages for them.
//!
//! The path of a call, down one side and up the other:
//! [`crate::Call`] (dropped) → [`calls::call`] (where does the element live? move or serialize) → scheduler → port → … →
//! port → scheduler → [`Runtime::deliver`](charm4rs_scheduler::Handler::deliver) → [`calls::deliver`] (find the element, read the arguments) →
//! [`execute::run`], the entry method → [`post::reply`].
//!
//! Programs are built often, and with them all code that is generic over their types: so the code that is compiled for each entry method is small
//! (`ci/build-time` checks it), and what does not need the types is a function that is compiled once, here.
//!
//! Everything here belongs to one PE and is reached through a shared reference with cells inside. No borrow is held while user code runs, so an entry
//! method may call anything, including itself.

mod broadcast;
mod calls;
pub(crate) mod chare;
mod collection;
mod context;
mod create;
pub(crate) mod deadlock;
pub(crate) mod element;
mod element_table;
mod execute;
mod exit;
pub(crate) mod front;
mod futures;
mod gone;
mod insertion;
mod intervals;
pub(crate) mod lacking;
mod leaving;
mod local_call;
mod location;
pub(crate) mod mailboxes;
pub(crate) mod payload;
mod post;
pub(crate) mod put_windows;
mod queued;
mod reduction;
pub(crate) mod registry;
pub(crate) mod running;
mod section;
mod shared;
mod solos;
mod span;
pub(crate) mod stack;
pub(crate) mod startup;
pub(crate) mod target;
pub(crate) mod waiting;

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::ops::Range;
use std::rc::Rc;

use charm4rs_scheduler::{Class, Handler, Scheduler, TaskId, Tree};
use charm4rs_transport::port::{Incoming, Offer, Tag};
use charm4rs_transport::{Pe, RegBuf, TransportError};
use hashbrown::HashMap;

pub(crate) use broadcast::{Answer, SILENT, broadcast, call_all};
pub(crate) use calls::{BodyOps, call, deliver, offer};
pub(crate) use collection::Members;
pub use context::{Cx, This};
pub(crate) use create::{
    Shape, create, create_collection, create_solo, destroy, discard_new, insert, is_closed, may_insert, single,
};
pub(crate) use execute::{Start, guard, spawn, spawn_named};
pub use exit::{Failure, Host};
pub(crate) use exit::{exit, install_panic_hook, wrong_usage};
pub(crate) use futures::{Awaited, OpenFuture};
pub(crate) use gone::destroy_collection;
pub(crate) use insertion::census::{census, elements};
pub(crate) use post::{fail_unsent, reply_serialized};
pub use reduction::{ByElement, Reducer};
pub(crate) use reduction::{Merged, Route, known};
pub(crate) use running::IndexLook;
pub(crate) use section::{Membership, allreduce, contribute, section, section_of};

pub(crate) use self::collection::AnyCollection;
use self::futures::Futures;
use crate::message::CollectionId;
use crate::message::envelope::{CallOptions, HEADER, Header, tag};
use crate::runtime::chare::Chare;
use crate::runtime::registry::{Registry, registry};

type Recent = (CollectionId, &'static dyn Any);
type Later = Box<dyn FnOnce()>;

/// The number of collections that are found without a lookup in the table.
const RECENT: usize = 8;

/// A PE's runtime. It lives until the process ends, so that proxies, replies and tasks can name it.
pub type Rt = &'static Runtime;

/// See the [module's text](self).
pub struct Runtime {
    pub(crate) sched: Rc<Scheduler>,
    pub(crate) futures: Futures,
    pub(crate) host: Rc<dyn Host>,
    registry: &'static Registry,
    /// The PEs of this process.
    process: Range<u32>,
    collections: RefCell<HashMap<CollectionId, &'static dyn AnyCollection, foldhash::fast::FixedState>>,
    /// The collections used last, by the low bits of their identifiers.
    recent: [Cell<Option<Recent>>; RECENT],
    /// Messages for collections whose creation has not arrived yet.
    early: RefCell<HashMap<CollectionId, Vec<Incoming>>>,
    /// Contributions to sections that this PE does not know yet.
    awaiting: RefCell<HashMap<CollectionId, Vec<Later>>>,
    /// The futures that creators can wait for.
    created: RefCell<HashMap<CollectionId, OpenFuture<()>>>,
    serials: Cell<u32>,
    section_serials: Cell<u32>,
    solos: solos::Solos,
    gone: gone::Gone,
    next_home: Cell<u32>,
    waves: RefCell<HashMap<crate::message::envelope::FutureId, Rc<broadcast::Wave>>>,
    /// Reused for serialization.
    scratch: Cell<Vec<u8>>,
    /// The task that is the program's `main`.
    pub(crate) main: Cell<Option<TaskId>>,
    pub(crate) running: running::Running,
    pub(crate) deadlock: deadlock::Search,
    /// The front in another language, if this PE has one.
    pub(crate) front: OnceCell<Box<dyn front::Front>>,
    pub(crate) put_windows: put_windows::PutWindows,
    queued: queued::Queued,
    pub(crate) startup: startup::Startup,
    /// The number of payloads that were copied because they had more than one holder.
    copies: Cell<u64>,
}

thread_local! {
    static CURRENT: Cell<Option<Rt>> = const { Cell::new(None) };
}

/// The runtime of the PE that runs on this thread.
///
/// # Panics
/// Outside a job.
#[inline]
#[track_caller]
pub(crate) fn current() -> Rt {
    try_current().unwrap_or_else(|| no_pe())
}

#[cold]
#[track_caller]
fn no_pe() -> Rt {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    panic!(
        "only inside a job: in its main, in an entry method, or in a task of a PE. This thread ({name}) is not a PE; another thread gives its \
         work in a job (including calls through proxies) to a PE with `Job::remote()`"
    )
}

#[inline]
pub(crate) fn try_current() -> Option<Rt> {
    CURRENT.get()
}

/// A copy of a payload, which is counted if this thread is a PE.
pub(crate) fn copy(payload: &[u8]) -> RegBuf {
    try_current().map_or_else(|| RegBuf::copy_of(payload), |rt| rt.copy(payload))
}

impl Runtime {
    /// A runtime for a PE. It is never freed, but [`Runtime::clear`] empties it.
    pub(crate) fn new(sched: Rc<Scheduler>, host: Rc<dyn Host>) -> Rt {
        let next_home = Cell::new(sched.pe().0);
        let process = sched.layout().pes_of(sched.layout().process_of(sched.pe()));
        Box::leak(Box::new(Self {
            sched,
            futures: Futures::default(),
            host,
            registry: registry(),
            process,
            collections: RefCell::default(),
            recent: [const { Cell::new(None) }; RECENT],
            early: RefCell::default(),
            awaiting: RefCell::default(),
            created: RefCell::default(),
            serials: Cell::new(0),
            section_serials: Cell::new(0),
            solos: solos::Solos::default(),
            gone: gone::Gone::default(),
            next_home,
            waves: RefCell::default(),
            scratch: Cell::default(),
            main: Cell::new(None),
            running: running::Running::default(),
            deadlock: deadlock::Search::default(),
            front: OnceCell::new(),
            put_windows: put_windows::PutWindows::default(),
            queued: queued::Queued::default(),
            startup: startup::Startup::new(registry()),
            copies: Cell::new(0),
        }))
    }

    /// Runs `f` as this PE.
    #[inline]
    pub(crate) fn enter<R>(&'static self, f: impl FnOnce() -> R) -> R {
        struct Restore(Option<Rt>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self)));
        f()
    }

    /// Drops all chares, the messages that wait for them, and those that have arrived and will not be delivered.
    pub(crate) fn clear(&'static self) {
        let early = std::mem::take(&mut *self.early.borrow_mut());
        early.into_values().flatten().for_each(|msg| self.discard(msg));
        self.startup.take_held().into_iter().for_each(|msg| self.discard(msg));
        while let Some(msg) = self.sched.take_undelivered() {
            self.discard(msg);
        }
        let collections: Vec<_> = self.collections.borrow().values().copied().collect();
        collections.into_iter().for_each(|members| members.clear(self));
        drop((self.awaiting.take(), self.created.take(), self.waves.take()));
        self.put_windows.clear();
    }

    /// Drops a message that will not be delivered, and the value that was moved into it.
    pub(crate) fn discard(&'static self, msg: Incoming) {
        let Some(header) = Header::of(&msg).filter(|header| header.is_moved() && self.same_process(msg.from)) else {
            return;
        };
        let method = usize::from(header.method);
        match msg.tag {
            tag::CALL => calls::discard_call(self.registry.methods[method], &header, &msg),
            tag::SOLO | tag::INSERT => (self.registry.chares[method].discard)(&header, msg),
            tag::REPLY => post::settle(self, &header, msg),
            tag if shared::is_shared(tag) => drop(shared::Opened::new(&header, msg)),
            _ => {}
        }
    }

    /// This PE's members of a collection; `None` if its creation has not arrived here yet, or it holds other chares.
    #[inline]
    pub(crate) fn collection<T: Chare>(&self, id: CollectionId) -> Option<&'static Members<T>> {
        match self.recent[id.low_bits() % RECENT].get() {
            Some((recent, members)) if recent == id => members.downcast_ref(),
            _ => self.find_collection(id),
        }
    }

    #[cold]
    fn find_collection<T: Chare>(&self, id: CollectionId) -> Option<&'static Members<T>> {
        let members = match self.any_collection(id) {
            Some(members) => members.as_any(),
            None if id == CollectionId::solo(T::info().id()) => {
                let members = Members::<T>::solo(id)?;
                self.register(members);
                members
            }
            None => return None,
        };
        self.recent[id.low_bits() % RECENT].set(Some((id, members)));
        members.downcast_ref()
    }

    fn register(&self, members: &'static dyn AnyCollection) {
        self.collections.borrow_mut().insert(members.common().id(), members);
    }

    fn any_collection(&self, id: CollectionId) -> Option<&'static dyn AnyCollection> {
        self.collections.borrow().get(&id).copied()
    }

    /// A collection that ends is no longer found here.
    fn unregister(&self, id: CollectionId) {
        self.collections.borrow_mut().remove(&id);
        let recent = &self.recent[id.low_bits() % RECENT];
        recent.set(recent.get().filter(|(other, _)| *other != id));
        self.created.borrow_mut().remove(&id);
    }

    /// Keeps a message until its collection is known here.
    fn keep(&'static self, id: CollectionId, msg: Incoming) {
        if self.gone.has(id) {
            return gone::too_late(self, id, msg);
        }
        // The collection of a type's single chares always exists; if the collection exists, the message names the wrong chare type.
        if id.creator().is_none_or(|pe| pe.0 >= self.sched.pes()) || self.any_collection(id).is_some() {
            return self.violation(msg.from, "a collection that cannot exist", id.0);
        }
        self.hold(id, msg);
    }

    /// Keeps a message until [`Runtime::release`].
    fn hold(&self, id: CollectionId, msg: Incoming) {
        self.early.borrow_mut().entry(id).or_default().push(msg);
    }

    /// Runs `then` when this PE knows a collection.
    fn when_known(&self, id: CollectionId, then: impl FnOnce() + 'static) {
        self.awaiting.borrow_mut().entry(id).or_default().push(Box::new(then));
    }

    /// This PE now knows a collection: runs what waited for that.
    fn became_known(&self, id: CollectionId) {
        let waiting = self.awaiting.borrow_mut().remove(&id).unwrap_or_default();
        waiting.into_iter().for_each(|then| then());
    }

    /// Delivers the messages that were kept for a collection: at once, since later messages of the same senders may be in the queue. It runs user
    /// code, so its callers do it last.
    fn release(&'static self, id: CollectionId) {
        let kept = self.early.borrow_mut().remove(&id).unwrap_or_default();
        kept.into_iter().for_each(|msg| Dispatcher(self).deliver(msg));
    }

    /// The memory of a payload that leaves this PE.
    pub(crate) fn leaving(&'static self, memory: std::sync::Arc<RegBuf>) -> RegBuf {
        shared::leaving(self, memory)
    }

    /// A copy of a payload that has more than one holder, in memory from which a send needs no further copy.
    fn copy(&self, payload: &[u8]) -> RegBuf {
        self.copies.set(self.copies.get() + 1);
        let mut buf = self.sched.alloc(payload.len());
        buf.copy_from_slice(payload);
        buf
    }

    /// The number of payloads that this PE has copied, here and in its port.
    pub(crate) fn copies(&self) -> u64 {
        self.copies.get() + self.sched.with_port(|port| port.counters().copies).unwrap_or_default()
    }

    /// The number of messages that this PE has sent to others.
    pub(crate) fn messages(&self) -> u64 {
        let sent = self.sched.with_port(|port| port.counters().sent);
        sent.map_or(0, |sent| sent.iter().skip(1).map(|flow| flow.messages).sum())
    }

    /// Calls `f` with the scratch buffer for serialization.
    fn with_scratch<R>(&self, f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        let mut bytes = self.scratch.take();
        bytes.clear();
        let result = f(&mut bytes);
        self.scratch.set(bytes);
        result
    }

    /// Whether values can be moved to `to`.
    #[inline]
    fn same_process(&self, to: Pe) -> bool {
        self.process.contains(&to.0)
    }

    /// A peer broke the protocol: the job ends.
    pub(crate) fn violation(&self, from: Pe, what: &'static str, detail: u64) {
        self.fail(Failure::from(&TransportError::Protocol { from, what, detail }));
    }

    /// The job ends with an error.
    pub(crate) fn fail(&self, failure: Failure) {
        self.host.fail(self.sched.pe(), failure);
        self.sched.stop(i32::from(u8::MAX));
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").field("pe", &self.sched.pe()).finish_non_exhaustive()
    }
}

/// The handler of the scheduler.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatcher(pub(crate) Rt);

impl Handler for Dispatcher {
    #[inline]
    fn class(&self, msg: &Incoming) -> Class {
        match msg.tag {
            tag::CALL | tag::BROADCAST => Header::of(msg).map_or(Class::Default, |header| class_of(&header)),
            // A chare is created before it is called, however urgent the call is.
            tag::REPLY | tag::FAILURE | tag::READ | tag::SOLO => Class::Expedited,
            _ => Class::Default,
        }
    }

    fn refused(&self, to: Pe, tag: Tag, head: &[u8], bytes: u64) {
        let header = head.get(..HEADER).map(bytemuck::pod_read_unaligned);
        post::refused(self.0, to, tag, header, bytes);
    }

    fn offer(&self, offer: &Offer) -> Vec<Option<RegBuf>> {
        let header: Option<Header> = offer.head.get(..HEADER).map(bytemuck::pod_read_unaligned);
        let method = header.and_then(|header| self.0.registry.methods.get(usize::from(header.method)));
        match (header, method.and_then(|method| method.offer)) {
            (Some(header), Some(destinations)) if offer.tag == tag::CALL => destinations(self.0, &header, offer),
            _ => offer.sizes.iter().map(|_| None).collect(),
        }
    }

    fn sleep(&self, sleep: &mut dyn FnMut()) {
        self.0.host.sleep(sleep);
    }

    fn deliver(&self, msg: Incoming) {
        let rt = self.0;
        let Some(header) = Header::of(&msg) else {
            return rt.violation(msg.from, "a message without a header", msg.msg.len() as u64);
        };
        if header.is_moved() && !rt.same_process(msg.from) {
            return rt.violation(msg.from, "a moved value from another process", u64::from(header.flags));
        }
        if header.reply().pe.0 >= rt.sched.pes() {
            return rt.violation(msg.from, "a future of a PE that does not exist", u64::from(header.reply().pe.0));
        }
        match msg.tag {
            tag::CALL | tag::BROADCAST => match rt.registry.methods.get(usize::from(header.method)) {
                Some(method) if msg.tag == tag::CALL => (method.deliver)(rt, method, &header, msg),
                Some(method) => (method.broadcast)(rt, method, &header, msg),
                None => rt.violation(msg.from, "an entry method that does not exist", u64::from(header.method)),
            },
            tag::REPLY | tag::FAILURE | tag::IN_TURN => post::settle(rt, &header, msg),
            tag::CREATE | tag::SOLO | tag::INSERT | tag::SECTION => {
                if !rt.startup.is_open() {
                    return startup::hold(rt, msg);
                }
                match rt.registry.chares.get(usize::from(header.method)) {
                    Some(chare) if msg.tag == tag::CREATE => (chare.create)(rt, &header, msg),
                    Some(chare) if msg.tag == tag::SECTION => section::step(rt, chare, &header, msg),
                    Some(chare) => (chare.solo)(rt, &header, msg),
                    None => rt.violation(msg.from, "a chare type that does not exist", u64::from(header.method)),
                }
            }
            tag::WAVE => broadcast::answer(rt, &header, msg),
            tag::DESTROY if !rt.startup.is_open() => startup::hold(rt, msg),
            tag::DESTROY => gone::step(rt, &header, msg),
            tag::START => startup::arrived(rt, &header, msg),
            tag::LOCATION
            | tag::COUNTED
            | tag::PARTIAL
            | tag::RESULT
            | tag::PIECE
            | tag::RESULT_PIECE
            | tag::EXCHANGE
            | tag::CENSUS => match rt.any_collection(header.collection()) {
                Some(members) => match msg.tag {
                    tag::LOCATION => members.told(rt, msg),
                    tag::CENSUS => insertion::census::step(rt, members, &header, &msg),
                    _ => reduction::system(rt, &members.common().reductions, &header, msg),
                },
                None => rt.keep(header.collection(), msg),
            },
            tag::PUT => put_windows::arrived(rt, &header, msg),
            tag::READ => put_windows::read(rt, &header, &msg),
            tag::UNUSED => put_windows::unused(rt, &header, &msg),
            tag::EXIT => exit::arrived(rt, &header),
            tag::DEADLOCK => deadlock::step(rt, &msg),
            other => rt.violation(msg.from, "a message of unknown kind", u64::from(other.0)),
        }
    }
}

#[inline]
fn class_of(header: &Header) -> Class {
    CallOptions { flags: header.flags, priority: header.priority() }.class()
}

/// The number of children of a PE in the trees of broadcasts and reductions.
const FANOUT: u32 = 4;

/// The tree of the job's PEs that is rooted at `root`.
fn tree(rt: Rt, root: Pe) -> Tree<'static> {
    Tree::new(rt.sched.layout(), root, FANOUT)
}
