//! Landings: memory of a chare's into which another one puts, again and again, with no handshake before it.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytemuck::Pod;
use charm4rs_transport::port::{LandingAddress, LandingId, LandingMemory};
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::reduce::IntoSink;
use crate::reply::Checked;
use crate::runtime::{self, Rt, Runtime, landings};
use crate::{Arguments, CallError, Payload, Reply, wire};

/// Memory on this PE into which the one who has its [`PutHandle`] puts, again and again: one write into it, and nothing before
/// that. Made by [`Job::landing`](crate::Job::landing).
///
/// What was put is read as a [`Landed`]; when that is dropped, the putter has its handle back, and may put again. So the two never touch
/// the memory at the same time. Where the putter shall not wait for the reader, give it the handles of two landings.
///
/// ```
/// # use charm4rs::prelude::*;
/// use charm4rs::PutHandle;
///
/// struct Source;
///
/// #[chare(index = Pe)]
/// impl Source {
///     #[init]
///     fn new() -> Self { Self }
///     #[entry]
///     async fn count(this: This<Self>, mut row: PutHandle<f64>) {
///         for step in 1..=3 {
///             let items = vec![f64::from(step); row.len()];
///             row = row.put(items).await;
///         }
///     }
/// }
///
/// # charm4rs::testing::threads(2, |job| async move {
/// let (mut landing, handle) = job.landing::<f64>(1000);
/// job.group::<Source>(()).on(Pe(1)).count(handle);
/// for step in 1..=3 {
///     let row = landing.next().await;
///     assert_eq!(row.iter().sum::<f64>(), 1000.0 * f64::from(step));
/// }
/// # }).unwrap();
/// ```
///
/// A put is not ordered with calls. A landing that is dropped lets whoever puts into it know ([`CallError::LandingGone`]).
pub struct Landing<T: Pod> {
    /// Its PE's, where it stays. (A pointer, since a reference would have the compiler list all that is in there to whoever makes a
    /// landing an argument.)
    rt: *const Runtime,
    id: LandingId,
    memory: LandingMemory,
    item: PhantomData<T>,
}

impl<T: Pod> Landing<T> {
    pub(crate) fn open(rt: Rt, len: usize) -> (Self, PutHandle<T>) {
        const { assert!(align_of::<T>() <= 64, "landings are aligned to 64 bytes") };
        let bytes = len.checked_mul(size_of::<T>()).expect("a landing's size fits the address space");
        let (right, memory) = landings::open(rt, bytes);
        let id = right.address(|address| address.id);
        (Self { rt: std::ptr::from_ref(rt), id, memory, item: PhantomData }, PutHandle { right, item: PhantomData })
    }

    fn rt(&self) -> Rt {
        // SAFETY: a runtime is never freed, and a landing does not leave its thread.
        unsafe { &*self.rt }
    }

    /// How many items it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        // SAFETY: only the slice's length is looked at.
        unsafe { self.memory.bytes() }.len().checked_div(size_of::<T>()).unwrap_or(0)
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Completes when something has been put that was not read; fails with [`CallError::HandleGone`] if nothing ever will.
    pub fn arrival(&self) -> Reply<()> {
        landings::arrival(self.rt(), self.id)
    }

    /// What was put, if anything was since the last look.
    pub fn read(&mut self) -> Option<Landed<'_, T>> {
        if !self.rt().landings.is_here(self.id) {
            return None;
        }
        // SAFETY: the last put has arrived, its putter has not got the right back, and there is no other one (`PutHandle`'s text). It
        // gets it when the guard is dropped, whose borrow ends there.
        let bytes = unsafe { self.memory.bytes() };
        Some(Landed { landing: self, items: bytemuck::cast_slice(bytes) })
    }

    /// Waits for the next put, and gives it to read.
    ///
    /// # Panics
    /// If the put handle was dropped: nothing will be put any more. ([`Landing::arrival`] says so without a panic.)
    pub async fn next(&mut self) -> Landed<'_, T> {
        self.arrival().await;
        self.read().expect("nobody else reads it")
    }

    /// From now on each arrival gives `value` to `sink`: an entry method (`proxy.method_sink()`) that then calls
    /// [`Landing::read`], for example. In place of what was named before.
    pub fn notify<V: Arguments + Clone>(&self, sink: impl IntoSink<V>, value: V) {
        landings::notify(self.rt(), self.id, sink.into_sink(), value);
    }
}

impl<T: Pod> Drop for Landing<T> {
    fn drop(&mut self) {
        landings::drop_landing(self.rt(), self.id);
    }
}

impl<T: Pod> fmt::Debug for Landing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Landing({} items)", self.len())
    }
}

/// What was put into a [`Landing`]. Until it is dropped, nothing is put there.
pub struct Landed<'a, T: Pod> {
    landing: &'a Landing<T>,
    items: &'a [T],
}

impl<T: Pod> Deref for Landed<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.items
    }
}

impl<T: Pod> Drop for Landed<'_, T> {
    fn drop(&mut self) {
        landings::give_back(self.landing.rt(), self.landing.id);
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for Landed<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.items.fmt(f)
    }
}

/// The right to put into a landing. There is one of each, at any time: it is given to another chare as an argument of a call of one
/// element, or as a result; it cannot be cloned, nor given to several; a put consumes it, and gives it back when its owner has read.
///
/// Whoever drops it lets the landing's owner know ([`CallError::HandleGone`]).
pub struct PutHandle<T: Pod> {
    right: Right,
    item: PhantomData<fn(T)>,
}

impl<T: Pod> PutHandle<T> {
    /// How many items the landing holds.
    #[must_use]
    pub fn len(&self) -> usize {
        let bytes = self.right.address(|address| usize::try_from(address.len).unwrap_or(usize::MAX));
        bytes.checked_div(size_of::<T>()).unwrap_or(0)
    }

    /// Whether the landing holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts items at the landing's beginning; see [`PutHandle::put_at`].
    ///
    /// # Panics
    /// If they are more than the landing holds.
    #[track_caller]
    pub fn put(self, items: impl Into<Payload<T>>) -> Put<T> {
        self.put_at(0, items)
    }

    /// Puts items into the landing, the first one at place `at`; the others stay as they are. Sends at once; the future gives the handle
    /// back when the landing's owner has read it. If that future is dropped, so is the handle.
    ///
    /// The memory of a [`Payload`] that nobody shares is read where it is.
    ///
    /// # Panics
    /// If an item would lie outside of the landing. Nothing is written then.
    #[track_caller]
    pub fn put_at(self, at: usize, items: impl Into<Payload<T>>) -> Put<T> {
        let (items, len) = (items.into(), self.len());
        assert!(
            at.checked_add(items.len()).is_some_and(|end| end <= len),
            "a put of {} items at {at} of a landing of {len}",
            items.len()
        );
        let rt = runtime::current();
        let address = self.right.take().expect("whoever has a handle has its right");
        let offset = (at * size_of::<T>()) as u64;
        Put { reply: landings::put(rt, address, offset, rt.leaving(items.into_memory())), item: PhantomData }
    }
}

impl<T: Pod> fmt::Debug for PutHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.right.fmt(f)
    }
}

impl<T: Pod> Serialize for PutHandle<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.right.serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for PutHandle<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Right::deserialize(deserializer).map(|right| Self { right, item: PhantomData })
    }
}

/// A put on its way: gives its handle back when it has been read.
#[must_use = "without its future, the handle of a put is dropped"]
pub struct Put<T: Pod> {
    reply: Reply<Right>,
    item: PhantomData<fn(T)>,
}

impl<T: Pod> Put<T> {
    /// The handle, or [`CallError::LandingGone`].
    pub async fn checked(self) -> Result<PutHandle<T>, CallError> {
        let checked: Checked<Right> = self.reply.checked();
        checked.await.map(|right| PutHandle { right, item: PhantomData })
    }
}

impl<T: Pod> Future for Put<T> {
    type Output = PutHandle<T>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<PutHandle<T>> {
        let reply = Pin::new(&mut self.get_mut().reply);
        reply.poll(cx).map(|right| PutHandle { right, item: PhantomData })
    }
}

impl<T: Pod> fmt::Debug for Put<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Put({:?})", self.reply)
    }
}

/// What a [`PutHandle`] is, whatever its items: an address that is used by one, and moves. Empty once it was used or serialized.
pub(crate) struct Right(Cell<Option<Box<LandingAddress>>>);

impl Right {
    pub(crate) fn of(address: Box<LandingAddress>) -> Self {
        Self(Cell::new(Some(address)))
    }

    fn take(&self) -> Option<Box<LandingAddress>> {
        self.0.take()
    }

    fn address<R>(&self, look: impl FnOnce(&LandingAddress) -> R) -> R {
        let address = self.0.take().expect("whoever has a handle has its right");
        let seen = look(&address);
        self.0.set(Some(address));
        seen
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        if let (Some(address), Some(rt)) = (self.take(), runtime::try_current()) {
            landings::give_up(rt, &address);
        }
    }
}

impl fmt::Debug for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.take();
        let shown = match &address {
            Some(address) => write!(f, "PutHandle({} bytes on PE {})", address.len, address.owner),
            None => f.write_str("PutHandle(given away)"),
        };
        self.0.set(address);
        shown
    }
}

/// Serializing it gives it away, so that whoever reads it is the only one who has it.
impl Serialize for Right {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        wire::is_once("a put handle goes to one chare, in a call or as a result").map_err(S::Error::custom)?;
        let address = self.take().ok_or_else(|| S::Error::custom("a put handle that was given away"))?;
        address.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Right {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::is_once("a put handle comes in a call or as a result").map_err(D::Error::custom)?;
        LandingAddress::deserialize(deserializer).map(|address| Self::of(address.into()))
    }
}
