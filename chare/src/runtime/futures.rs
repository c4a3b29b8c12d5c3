//! A PE's table of futures.
//!
//! A future is a slot in a table of its PE. Its name (PE, slot, turn) travels with the call; the answer is a message with that name. The turn
//! distinguishes uses of the same slot, so an answer to a future that was dropped has no receiver and is dropped too. A small value is stored in the
//! slot itself: waiting for a small answer does not allocate.
//!
//! An [`OpenFuture`] owns its slot. What users see of it is a reply, which is made of one.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use charm4rs_scheduler::{Class, WakerKey};

use super::exit::Failure;
use super::{Rt, guard};
use crate::message::CallError;
use crate::message::envelope::FutureId;
use crate::message::moved::{self, Stash};
use crate::message::wire::{self, Aside, Packed, WireError};
use crate::runtime::chare::Arguments;
use crate::runtime::registry::MethodInfo;

type Read = Result<(), Box<WireError>>;
type ReadWire = fn(&[u8], Aside, &mut Stash) -> Read;
type ReadList = fn(Vec<Packed>, &mut Stash) -> Read;

/// Reads an answer of the future's type into a slot.
struct Reader {
    /// A value that was moved.
    moved: fn(*const u8, &mut Stash) -> Read,
    /// A serialized value.
    wire: ReadWire,
    /// Results of which each is serialized, if the future's value is a list.
    list: Option<ReadList>,
    /// The value is dropped when it arrives.
    discard: bool,
}

trait HasReader: Arguments {
    const KEEP: Reader = Reader {
        moved: |body, stash| {
            // SAFETY: the only caller is `Futures::fulfil_moved`, whose caller guarantees the type.
            stash.put(unsafe { moved::read::<Self>(body) });
            Ok(())
        },
        wire: |bytes, payloads, stash| {
            stash.put(wire::unpack::<Self>(bytes, payloads)?);
            Ok(())
        },
        list: None,
        discard: false,
    };
    const DISCARD: Reader = Reader {
        moved: |body, stash| {
            // SAFETY: as above.
            drop(unsafe { moved::read::<Self>(body) });
            stash.put(());
            Ok(())
        },
        wire: |_, _, stash| {
            stash.put(());
            Ok(())
        },
        list: None,
        discard: true,
    };
    /// The reader of a `Vec` of this type: a list of packed values arrives.
    const LIST: Reader = Reader {
        // SAFETY: as above; all lists are moved as this type.
        moved: |body, stash| unpack_list::<Self>(unsafe { moved::read::<Vec<Packed>>(body) }, stash),
        wire: |bytes, payloads, stash| unpack_list::<Self>(wire::unpack(bytes, payloads)?, stash),
        list: Some(unpack_list::<Self>),
        discard: false,
    };
}
impl<R: Arguments> HasReader for R {}

fn unpack_list<R: Arguments>(list: Vec<Packed>, stash: &mut Stash) -> Read {
    let mut values = Vec::with_capacity(list.len());
    for value in list {
        values.push(value.read::<R>()?);
    }
    stash.put(values);
    Ok(())
}

#[derive(Default)]
enum State {
    #[default]
    Free,
    Waiting(Option<Waker>),
    /// A callback waits; see [`OpenFuture::then`].
    Calls(Box<dyn FnOnce()>),
    /// The reply was dropped, but the answer has not arrived: the slot stays in use until the answer arrives and is dropped.
    Abandoned,
    Ready,
    Failed(Box<CallError>),
}

/// What a future waits for. Reports of deadlocks print it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Awaited {
    /// The end of a call.
    Call(&'static MethodInfo),
    /// The end of a call of all elements.
    Broadcast(&'static MethodInfo),
    /// Something else, in words.
    Other(&'static &'static str),
}

impl Awaited {
    pub(crate) const PROMISE: Self = Self::Other(&"a promise");
    pub(crate) const QUIESCENCE: Self = Self::Other(&"quiescence");
    pub(crate) const REDUCTION: Self = Self::Other(&"a reduction");
    pub(crate) const PUT: Self = Self::Other(&"a put");
    pub(crate) const PUT_WINDOW: Self = Self::Other(&"a put window to be read");
    pub(crate) const CREATION: Self = Self::Other(&"a collection's creation");
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(method) => write!(f, "its call of {}::{}", method.chare, method.name),
            Self::Broadcast(method) => write!(f, "its call of {}::{} to all", method.chare, method.name),
            Self::Other(what) => f.write_str(what),
        }
    }
}

struct Slot {
    turn: u32,
    awaits: Awaited,
    state: State,
    stash: Stash,
    reader: &'static Reader,
}

/// A PE's table of futures.
#[derive(Default)]
pub(crate) struct Futures {
    table: RefCell<Table>,
}

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Table {
    fn get(&mut self, id: FutureId) -> Option<&mut Slot> {
        self.slots.get_mut(id.slot as usize).filter(|slot| slot.turn == id.turn)
    }

    /// Ends this use of a slot. The caller drops its value.
    fn free(&mut self, id: FutureId) -> Stash {
        let slot = &mut self.slots[id.slot as usize];
        slot.state = State::Free;
        let stash = std::mem::replace(&mut slot.stash, Stash::new());
        self.free.push(id.slot);
        stash
    }
}

impl Futures {
    fn open(&self, rt: Rt, reader: &'static Reader, awaits: Awaited) -> FutureId {
        let mut table = self.table.borrow_mut();
        let slot = table.free.pop().unwrap_or_else(|| {
            table.slots.push(Slot { turn: 0, awaits, state: State::Free, stash: Stash::new(), reader });
            u32::try_from(table.slots.len() - 1).expect("fewer than 4 billion futures are open at once")
        });
        let entry = &mut table.slots[slot as usize];
        entry.turn = entry.turn.checked_add(1).unwrap_or(1);
        entry.state = State::Waiting(None);
        entry.reader = reader;
        entry.awaits = awaits;
        FutureId { pe: rt.sched.pe(), slot, turn: entry.turn }
    }

    /// The number of futures that wait for a value.
    pub(crate) fn waiting(&self) -> usize {
        let waits = |slot: &&Slot| matches!(slot.state, State::Waiting(_) | State::Calls(_));
        self.table.borrow().slots.iter().filter(waits).count()
    }

    /// The waiting tasks, and what each waits for.
    pub(crate) fn awaited(&self) -> Vec<(WakerKey, Awaited)> {
        let of = |slot: &Slot| match &slot.state {
            State::Waiting(Some(waker)) => Some((WakerKey::of(waker), slot.awaits)),
            _ => None,
        };
        self.table.borrow().slots.iter().filter_map(of).collect()
    }

    fn settle(&self, id: FutureId, settle: &mut dyn FnMut(&mut Slot) -> Result<(), Box<CallError>>) {
        let (waker, leftover) = {
            let mut table = self.table.borrow_mut();
            let Some(slot) = table.get(id) else { return };
            if !matches!(slot.state, State::Waiting(_) | State::Calls(_) | State::Abandoned) {
                return;
            }
            let settled = settle(slot).map_or_else(State::Failed, |()| State::Ready);
            match std::mem::replace(&mut slot.state, settled) {
                State::Waiting(waker) => (waker, None),
                State::Calls(call) => {
                    drop(table); // `call` may take the value, and runs code of the user
                    return call();
                }
                _ => (None, Some(table.free(id))),
            }
        };
        drop(leftover); // outside of the borrow: it may run the user's code
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Calls `call` when the future has an answer.
    fn call_when_settled(&self, id: FutureId, call: Box<dyn FnOnce()>) {
        {
            let mut table = self.table.borrow_mut();
            if let Some(slot) = table.get(id)
                && let State::Waiting(_) = slot.state
            {
                slot.state = State::Calls(call);
                return;
            }
        }
        call();
    }

    /// Completes the future with a value of this PE.
    pub(crate) fn fulfil<R: 'static>(&self, id: FutureId, value: R) {
        let mut value = Some(value);
        self.settle(id, &mut |slot| {
            match value.take() {
                Some(value) if !slot.reader.discard => slot.stash.put(value),
                unread => {
                    value = unread;
                    slot.stash.put(());
                }
            }
            Ok(())
        });
    }

    /// Stores a value of this PE in the slot; [`Futures::release`] completes the future with it.
    pub(crate) fn hold<R: 'static>(&self, id: FutureId, value: R) {
        let mut table = self.table.borrow_mut();
        let slot = table.get(id).filter(|slot| matches!(slot.state, State::Waiting(_) | State::Abandoned));
        if let Some(slot) = slot {
            if slot.reader.discard { slot.stash.put(()) } else { slot.stash.put(value) }
        }
    }

    /// Completes the future with the value that [`Futures::hold`] stored.
    pub(crate) fn release(&self, id: FutureId) {
        self.settle(id, &mut |_| Ok(()));
    }

    /// Completes the future with a list of values, each packed separately.
    pub(crate) fn fulfil_list(&self, id: FutureId, list: Vec<Packed>) {
        let mut list = Some(list);
        self.settle(id, &mut |slot| {
            let Some(read) = slot.reader.list else { return Err(unlike(id)) };
            unread(id, read(list.take().unwrap_or_default(), &mut slot.stash))
        });
    }

    /// Completes the future with a value that another PE of this process moved.
    ///
    /// # Safety
    /// `body` points to a value of the future's type (for a list: `Vec<Packed>`), written by [`moved::write`]. No other code reads it afterwards.
    pub(crate) unsafe fn fulfil_moved(&self, id: FutureId, body: *const u8) {
        self.settle(id, &mut |slot| unread(id, (slot.reader.moved)(body, &mut slot.stash)));
    }

    /// Completes the future with a serialized value.
    pub(crate) fn fulfil_wire(&self, id: FutureId, bytes: &[u8], payloads: Aside) {
        let mut payloads = Some(payloads);
        self.settle(id, &mut |slot| {
            unread(id, (slot.reader.wire)(bytes, payloads.take().unwrap_or_default(), &mut slot.stash))
        });
    }

    pub(crate) fn fail(&self, id: FutureId, error: CallError) {
        let mut error = Some(error);
        self.settle(id, &mut |_| error.take().map_or(Ok(()), |error| Err(Box::new(error))));
    }

    /// Drops all values that have not been taken.
    pub(crate) fn clear(&self) {
        let mut calls = Vec::new();
        let values: Vec<Stash> = {
            let mut table = self.table.borrow_mut();
            let slots = table.slots.iter_mut().map(|slot| {
                if let State::Calls(_) = slot.state {
                    calls.push(std::mem::replace(&mut slot.state, State::Waiting(None)));
                }
                std::mem::replace(&mut slot.stash, Stash::new())
            });
            slots.collect()
        };
        drop((calls, values)); // outside of the borrow
    }

    pub(crate) fn poll<R: 'static>(&self, id: FutureId, waker: &Waker) -> Poll<Result<R, CallError>> {
        let mut value = None;
        let polled = self.poll_by(id, waker, &mut |stash| value = stash.take::<R>());
        polled.map(|polled| polled.and_then(|()| value.ok_or_else(|| unlike(id))).map_err(|error| *error))
    }

    /// The part of [`Futures::poll`] that does not depend on the type: `take` takes the value.
    fn poll_by(
        &self,
        id: FutureId,
        waker: &Waker,
        take: &mut dyn FnMut(&mut Stash),
    ) -> Poll<Result<(), Box<CallError>>> {
        let mut table = self.table.borrow_mut();
        let slot = table.get(id).expect("a reply is polled while it owns its slot");
        match &mut slot.state {
            State::Waiting(kept) => {
                if kept.as_ref().is_none_or(|kept| !kept.will_wake(waker)) {
                    *kept = Some(waker.clone());
                }
                Poll::Pending
            }
            State::Failed(error) => Poll::Ready(Err(error.clone())),
            State::Ready => {
                assert!(!slot.stash.is_empty(), "a reply is not polled after its end");
                take(&mut slot.stash);
                Poll::Ready(Ok(()))
            }
            State::Free | State::Abandoned | State::Calls(_) => unreachable!("a reply owns its slot"),
        }
    }

    fn close(&self, id: FutureId) {
        let leftover = {
            let mut table = self.table.borrow_mut();
            let Some(slot) = table.get(id) else { return };
            if let State::Waiting(_) = slot.state {
                slot.state = State::Abandoned;
                return;
            }
            table.free(id)
        };
        drop(leftover); // outside of the borrow, as above
    }
}

/// The outcome of reading an answer.
#[inline]
fn unread(id: FutureId, read: Read) -> Result<(), Box<CallError>> {
    read.map_err(|error| of_sender(id, error.to_string()))
}

#[cold]
fn unlike(id: FutureId) -> Box<CallError> {
    of_sender(id, "an answer of another type".to_owned())
}

fn of_sender(id: FutureId, why: String) -> Box<CallError> {
    Box::new(CallError::Wire { entry: "the sender".into(), pe: id.pe, why })
}

impl fmt::Debug for Futures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Futures").field("waiting", &self.waiting()).finish()
    }
}

/// An open future of this PE, whose value has the type `R`. (Code that depends on `R` is compiled with each user's program, so there is little.)
pub(crate) struct OpenFuture<R> {
    pub(crate) slot: OwnedSlot,
    item: PhantomData<fn() -> R>,
}

/// The owner of a future's slot.
pub(crate) struct OwnedSlot {
    pub(crate) id: FutureId,
    pub(crate) rt: Rt,
}

impl OwnedSlot {
    fn open(rt: Rt, reader: &'static Reader, awaits: Awaited) -> Self {
        Self { id: rt.futures.open(rt, reader, awaits), rt }
    }
}

impl Drop for OwnedSlot {
    fn drop(&mut self) {
        self.rt.futures.close(self.id);
    }
}

impl<R: Arguments> OpenFuture<R> {
    pub(crate) fn new(rt: Rt, awaits: Awaited) -> Self {
        Self { slot: OwnedSlot::open(rt, &R::KEEP, awaits), item: PhantomData }
    }
}

impl<R: Arguments> OpenFuture<Vec<R>> {
    /// A future for a list of results, which arrive packed separately.
    pub(crate) fn list(rt: Rt, awaits: Awaited) -> Self {
        Self { slot: OwnedSlot::open(rt, &R::LIST, awaits), item: PhantomData }
    }
}

impl OpenFuture<()> {
    /// Completes when a value of type `R` arrives, and drops it.
    pub(crate) fn discarding<R: Arguments>(rt: Rt, awaits: Awaited) -> Self {
        Self { slot: OwnedSlot::open(rt, &R::DISCARD, awaits), item: PhantomData }
    }
}

impl<R> OpenFuture<R> {
    pub(crate) fn id(&self) -> FutureId {
        self.slot.id
    }
}

impl<R: 'static> OpenFuture<R> {
    /// Calls `then` with the result, on this PE, between two calls.
    pub(crate) fn then(mut self, then: impl FnOnce(Result<R, CallError>) + 'static) {
        let (rt, id) = (self.slot.rt, self.id());
        // The answer may arrive in the middle of a method of this PE, so `then` has to wait for its end.
        let call = move || {
            rt.sched.call_self(Class::Expedited, move || {
                let polled = Pin::new(&mut self).poll(&mut Context::from_waker(Waker::noop()));
                drop(self);
                let Poll::Ready(result) = polled else { unreachable!("the reply has its answer") };
                if let Err(panic) = guard(|| then(result)) {
                    rt.fail(Failure::panic("a callback of a reply", &panic));
                }
            });
        };
        rt.futures.call_when_settled(id, Box::new(call));
    }
}

impl<R: 'static> Future for OpenFuture<R> {
    type Output = Result<R, CallError>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.slot.rt.futures.poll(self.slot.id, cx.waker())
    }
}
