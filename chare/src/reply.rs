//! Futures: values that arrive later, from a call, a reduction, or whoever holds a [`Promise`].
//!
//! A future is a slot in a table of its PE. Its name (PE, slot, turn) travels with the call; the answer is a message with
//! that name. The turn tells one use of a slot from the next, so an answer to a future that was
//! dropped finds nobody and is dropped too. The value lies in the slot itself if it is small: waiting for a small
//! answer allocates nothing.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use charm4rs_scheduler::WakerKey;
use serde::{Deserialize, Serialize};

use crate::envelope::FutureId;
use crate::moved::{self, Stash};
use crate::registry::MethodInfo;
use crate::runtime::{self, Rt};
use crate::wire::{self, Aside, Packed, WireError};
use crate::{Arguments, CallError};

type Read = Result<(), Box<WireError>>;
type ReadWire = fn(&[u8], Aside, &mut Stash) -> Read;
type ReadList = fn(Vec<Packed>, &mut Stash) -> Read;

/// Reads an answer into a slot, as the type that the future has.
struct Reader {
    /// A value that was moved.
    moved: fn(*const u8, &mut Stash) -> Read,
    /// A serialized one.
    wire: ReadWire,
    /// Results that each are serialized, if the future has a list of them.
    list: Option<ReadList>,
    /// Only that it arrives matters, not the value.
    discard: bool,
}

trait HasReader: Arguments {
    const KEEP: Reader = Reader {
        moved: |body, stash| {
            // SAFETY: the only caller is `Futures::fulfil_moved`, whose caller promises the type.
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
    /// Of a `Vec` of these: what arrives is a list of packed values.
    const LIST: Reader = Reader {
        // SAFETY: as above; the type of what is moved is that of all lists.
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
    /// Nobody waits any more, but the answer is still to come: the slot stays until then, to drop it.
    Abandoned,
    Ready,
    Failed(Box<CallError>),
}

/// What a future waits for: for who reports that it does not come.
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

    /// Ends this use of a slot; what it held is the caller's to drop.
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

    /// How many futures wait for a value.
    pub(crate) fn waiting(&self) -> usize {
        self.table.borrow().slots.iter().filter(|slot| matches!(slot.state, State::Waiting(_))).count()
    }

    /// Who waits for what.
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
            if !matches!(slot.state, State::Waiting(_) | State::Abandoned) {
                return;
            }
            let settled = settle(slot).map_or_else(State::Failed, |()| State::Ready);
            match std::mem::replace(&mut slot.state, settled) {
                State::Waiting(waker) => (waker, None),
                _ => (None, Some(table.free(id))),
            }
        };
        drop(leftover); // outside the borrow: it may be anything of the user's
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// A value made on this PE.
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

    /// Puts a value made on this PE in its place, for [`Futures::release`].
    pub(crate) fn hold<R: 'static>(&self, id: FutureId, value: R) {
        let mut table = self.table.borrow_mut();
        let slot = table.get(id).filter(|slot| matches!(slot.state, State::Waiting(_) | State::Abandoned));
        if let Some(slot) = slot {
            if slot.reader.discard { slot.stash.put(()) } else { slot.stash.put(value) }
        }
    }

    /// The value is there that was put in its place before.
    pub(crate) fn release(&self, id: FutureId) {
        self.settle(id, &mut |_| Ok(()));
    }

    /// Values, packed each by itself, for a list of them.
    pub(crate) fn fulfil_list(&self, id: FutureId, list: Vec<Packed>) {
        let mut list = Some(list);
        self.settle(id, &mut |slot| {
            let Some(read) = slot.reader.list else { return Err(unlike(id)) };
            unread(id, read(list.take().unwrap_or_default(), &mut slot.stash))
        });
    }

    /// A value moved by another PE of this process.
    ///
    /// # Safety
    /// `body` points to a value of the future's type (of a list: `Vec<Packed>`), written by [`moved::write`], that nobody reads again.
    pub(crate) unsafe fn fulfil_moved(&self, id: FutureId, body: *const u8) {
        self.settle(id, &mut |slot| unread(id, (slot.reader.moved)(body, &mut slot.stash)));
    }

    /// A serialized value.
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

    /// Drops all values that nobody has taken.
    pub(crate) fn clear(&self) {
        let values: Vec<Stash> = {
            let mut table = self.table.borrow_mut();
            table.slots.iter_mut().map(|slot| std::mem::replace(&mut slot.stash, Stash::new())).collect()
        };
        drop(values); // outside the borrow
    }

    fn poll<R: 'static>(&self, id: FutureId, waker: &Waker) -> Poll<Result<R, CallError>> {
        let mut value = None;
        let polled = self.poll_by(id, waker, &mut |stash| value = stash.take::<R>());
        polled.map(|polled| polled.and_then(|()| value.ok_or_else(|| unlike(id))).map_err(|error| *error))
    }

    /// [`Futures::poll`], whatever the type: `take` takes the value.
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
            State::Free | State::Abandoned => unreachable!("a reply owns its slot"),
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
        drop(leftover); // outside the borrow, as above
    }
}

/// What comes of an answer that has been read.
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

/// A value that arrives later. Await it on the PE that made it.
///
/// If the call failed (its entry method panicked, its target does not exist), awaiting the reply panics with the
/// [`CallError`]'s text, as joining a thread and unwrapping does; [`Reply::checked`] gives the error instead. Dropping a
/// reply cancels only the wait.
#[must_use = "a reply does nothing unless awaited"]
pub struct Reply<R> {
    id: FutureId,
    rt: Rt,
    item: PhantomData<fn() -> R>,
}

impl<R: Arguments> Reply<R> {
    pub(crate) fn new(rt: Rt, awaits: Awaited) -> Self {
        Self { id: rt.futures.open(rt, &R::KEEP, awaits), rt, item: PhantomData }
    }
}

impl<R: Arguments> Reply<Vec<R>> {
    /// Of results that arrive packed, each by itself.
    pub(crate) fn list(rt: Rt, awaits: Awaited) -> Self {
        Self { id: rt.futures.open(rt, &R::LIST, awaits), rt, item: PhantomData }
    }
}

impl Reply<()> {
    /// Completes when a value of type `R` arrives, and drops it.
    pub(crate) fn discarding<R: Arguments>(rt: Rt, awaits: Awaited) -> Self {
        Self { id: rt.futures.open(rt, &R::DISCARD, awaits), rt, item: PhantomData }
    }
}

impl<R: 'static> Reply<R> {
    pub(crate) fn id(&self) -> FutureId {
        self.id
    }

    /// The result, or why there is none.
    pub fn checked(self) -> Checked<R> {
        Checked(self)
    }

    /// The result, or [`CallError::TimedOut`] when it does not arrive in time.
    pub async fn timeout(self, limit: Duration) -> Result<R, CallError> {
        let mut sleep = std::pin::pin!(self.rt.sched.sleep(limit));
        let mut checked = std::pin::pin!(self.checked());
        std::future::poll_fn(|cx| match checked.as_mut().poll(cx) {
            Poll::Pending => sleep.as_mut().poll(cx).map(|()| Err(CallError::TimedOut(limit))),
            ready => ready,
        })
        .await
    }
}

impl<R: 'static> Future for Reply<R> {
    type Output = R;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<R> {
        self.rt.futures.poll(self.id, cx.waker()).map(|result| match result {
            Ok(value) => value,
            Err(error) => std::panic::panic_any(error),
        })
    }
}

impl<R> Drop for Reply<R> {
    fn drop(&mut self) {
        self.rt.futures.close(self.id);
    }
}

impl<R> fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reply").field(&self.id).finish()
    }
}

/// A [`Reply`] that gives errors as values; see [`Reply::checked`].
#[derive(Debug)]
#[must_use = "a reply does nothing unless awaited"]
pub struct Checked<R>(Reply<R>);

impl<R: 'static> Future for Checked<R> {
    type Output = Result<R, CallError>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.rt.futures.poll(self.0.id, cx.waker())
    }
}

/// The other end of a [`Reply`] that no call made: whoever holds it, anywhere in the job, gives the value.
///
/// Made by [`Job::promise`](crate::Job::promise). The first value counts.
pub struct Promise<R> {
    pub(crate) id: FutureId,
    item: PhantomData<fn(R)>,
}

impl<R: Arguments> Promise<R> {
    pub(crate) fn of(reply: &Reply<R>) -> Self {
        Self { id: reply.id, item: PhantomData }
    }

    /// Gives the value.
    pub fn send(self, value: R) {
        let rt = runtime::current();
        if self.id.pe == rt.sched.pe() {
            return rt.futures.fulfil(self.id, value);
        }
        // Not moved to another PE of the process: of several values only the first has a receiver.
        runtime::reply_serialized(rt, self.id, value);
    }
}

impl<R> Clone for Promise<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Promise<R> {}
impl<R> fmt::Debug for Promise<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Promise").field(&self.id).finish()
    }
}
impl<R> Serialize for Promise<R> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.id.serialize(serializer)
    }
}
impl<'de, R> Deserialize<'de> for Promise<R> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { id: FutureId::deserialize(deserializer)?, item: PhantomData })
    }
}

/// Waits for all of them: calls, which are sent now, or futures. The results are in the same order.
///
/// ```
/// # use charm4rs::prelude::*;
/// # struct Block;
/// # #[chare(index = usize)]
/// # impl Block {
/// #     #[init]
/// #     fn new() -> Self { Self }
/// #     #[entry]
/// #     fn scale(&mut self, by: f64) -> f64 { by }
/// # }
/// # charm4rs::testing::threads(2, |job| async move {
/// let blocks = job.array::<Block>(8, ());
/// let parts = join_all((0..8).map(|i| blocks.at(i).scale(i as f64))).await;
/// assert_eq!(parts, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
/// # }).unwrap();
/// ```
#[must_use = "a future does nothing unless awaited"]
pub fn join_all<F: IntoFuture>(futures: impl IntoIterator<Item = F>) -> impl Future<Output = Vec<F::Output>> {
    join_started(futures.into_iter().map(|future| Some(Box::pin(future.into_future()))).collect())
}

async fn join_started<F: Future>(mut waiting: Vec<Option<Pin<Box<F>>>>) -> Vec<F::Output> {
    let mut results: Vec<Option<F::Output>> = waiting.iter().map(|_| None).collect();
    std::future::poll_fn(move |cx| {
        let mut all = true;
        for (future, result) in waiting.iter_mut().zip(&mut results) {
            if let Some(running) = future {
                match running.as_mut().poll(cx) {
                    Poll::Ready(value) => (*result, *future) = (Some(value), None),
                    Poll::Pending => all = false,
                }
            }
        }
        if all { Poll::Ready(results.iter_mut().filter_map(Option::take).collect()) } else { Poll::Pending }
    })
    .await
}
