//! Put windows: memory of a chare that another chare puts into repeatedly, without a handshake before each put.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytemuck::Pod;
use charm4rs_transport::port::{PutWindowId, PutWindowMemory};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::reduce::IntoSink;
use crate::reply::Checked;
use crate::runtime::put_windows::{self, Right};
use crate::runtime::{self, Rt, Runtime};
use crate::{Arguments, CallError, Payload, Reply};

/// Memory on this PE that the owner of its [`PutHandle`] puts into repeatedly. A put is one write, without a handshake. Made by
/// [`Job::put_window`](crate::Job::put_window).
///
/// The window's owner reads a put through a [`ReceivedPut`]. When that is dropped, the handle returns to the other chare, which may put again. So the two
/// never access the memory at the same time. For puts that overlap with reads, use two put windows.
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
/// let (mut window, handle) = job.put_window::<f64>(1000);
/// job.group::<Source>(()).on(Pe(1)).count(handle);
/// for step in 1..=3 {
///     let row = window.next().await;
///     assert_eq!(row.iter().sum::<f64>(), 1000.0 * f64::from(step));
/// }
/// # }).unwrap();
/// ```
///
/// Puts are not ordered with calls. A put into a window that was dropped fails with [`CallError::WindowGone`].
pub struct PutWindow<T: Pod> {
    /// The runtime of its PE, where it stays. (A pointer, because with a reference the compiler would list all its contents in the error for a put
    /// window as an argument.)
    rt: *const Runtime,
    id: PutWindowId,
    memory: PutWindowMemory,
    item: PhantomData<T>,
}

impl<T: Pod> PutWindow<T> {
    pub(crate) fn open(rt: Rt, len: usize) -> (Self, PutHandle<T>) {
        const { assert!(align_of::<T>() <= 64, "put windows are aligned to 64 bytes") };
        let bytes = len.checked_mul(size_of::<T>()).expect("a put window's size fits the address space");
        let (right, memory) = put_windows::open(rt, bytes);
        let id = right.address(|address| address.id);
        (Self { rt: std::ptr::from_ref(rt), id, memory, item: PhantomData }, PutHandle { right, item: PhantomData })
    }

    fn rt(&self) -> Rt {
        // SAFETY: a runtime is never freed, and a put window does not leave its thread.
        unsafe { &*self.rt }
    }

    /// The number of items.
    #[must_use]
    pub fn len(&self) -> usize {
        // SAFETY: only the slice's length is read.
        unsafe { self.memory.bytes() }.len().checked_div(size_of::<T>()).unwrap_or(0)
    }

    /// Whether it has no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Completes when there is a put that was not read. Fails with [`CallError::HandleGone`] if the handle was dropped.
    pub fn arrival(&self) -> Reply<()> {
        Reply(put_windows::arrival(self.rt(), self.id))
    }

    /// Returns the last put, unless it was read before.
    pub fn read(&mut self) -> Option<ReceivedPut<'_, T>> {
        if !self.rt().put_windows.is_here(self.id) {
            return None;
        }
        // SAFETY: the last put has arrived, its putter has not got the handle back, and there is no other handle (`PutHandle`'s text). The putter
        // gets it when the guard is dropped, whose borrow ends there.
        let bytes = unsafe { self.memory.bytes() };
        Some(ReceivedPut { put_window: self, items: bytemuck::cast_slice(bytes) })
    }

    /// Waits for the next put and returns it.
    ///
    /// # Panics
    /// If the put handle was dropped: there will be no further put. ([`PutWindow::arrival`] reports this without a panic.)
    pub async fn next(&mut self) -> ReceivedPut<'_, T> {
        self.arrival().await;
        self.read().expect("only this task reads it")
    }

    /// From now on each arrival gives `value` to `sink`: for example to an entry method (`proxy.method_sink()`) that then calls [`PutWindow::read`].
    /// Replaces the previous sink.
    pub fn notify<V: Arguments + Clone>(&self, sink: impl IntoSink<V>, value: V) {
        put_windows::notify(self.rt(), self.id, sink.into_sink().route, value);
    }
}

impl<T: Pod> Drop for PutWindow<T> {
    fn drop(&mut self) {
        put_windows::drop_put_window(self.rt(), self.id);
    }
}

impl<T: Pod> fmt::Debug for PutWindow<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PutWindow({} items)", self.len())
    }
}

/// The content of a put into a [`PutWindow`]. Until it is dropped, there is no further put.
pub struct ReceivedPut<'a, T: Pod> {
    put_window: &'a PutWindow<T>,
    items: &'a [T],
}

impl<T: Pod> Deref for ReceivedPut<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.items
    }
}

impl<T: Pod> Drop for ReceivedPut<'_, T> {
    fn drop(&mut self) {
        put_windows::give_back(self.put_window.rt(), self.put_window.id);
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for ReceivedPut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.items.fmt(f)
    }
}

/// The handle that allows puts into a put window. There is exactly one at any time: it is given to another chare as an argument of a call of one
/// element, or as a result; it cannot be cloned, nor given to several chares; a put consumes it, and returns it when its owner has read.
///
/// If it is dropped, the put window's owner is told ([`CallError::HandleGone`]).
pub struct PutHandle<T: Pod> {
    right: Right,
    item: PhantomData<fn(T)>,
}

impl<T: Pod> PutHandle<T> {
    /// The number of items of the put window.
    #[must_use]
    pub fn len(&self) -> usize {
        let bytes = self.right.address(|address| usize::try_from(address.len).unwrap_or(usize::MAX));
        bytes.checked_div(size_of::<T>()).unwrap_or(0)
    }

    /// Whether the put window has no items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts items at the put window's beginning; see [`PutHandle::put_at`].
    ///
    /// # Panics
    /// If there are more items than the put window has.
    #[track_caller]
    pub fn put(self, items: impl Into<Payload<T>>) -> Put<T> {
        self.put_at(0, items)
    }

    /// Puts items into the put window, the first one at position `at`; the other items of the window stay as they are. Sends at once; the future
    /// returns the handle when the put window's owner has read the items. If that future is dropped, so is the handle.
    ///
    /// The memory of a [`Payload`] that is not shared is not copied before the put.
    ///
    /// # Panics
    /// If an item would be outside of the put window. Nothing is written then.
    #[track_caller]
    pub fn put_at(self, at: usize, items: impl Into<Payload<T>>) -> Put<T> {
        let (items, len) = (items.into(), self.len());
        assert!(
            at.checked_add(items.len()).is_some_and(|end| end <= len),
            "a put of {} items at {at} of a put window of {len}",
            items.len()
        );
        let rt = runtime::current();
        let address = self.right.take().expect("a handle that was not used has its address");
        let offset = (at * size_of::<T>()) as u64;
        let back = put_windows::put(rt, address, offset, rt.leaving(items.into_memory()));
        Put { reply: Reply(back), item: PhantomData }
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

/// A put in progress: returns its handle when the items have been read.
#[must_use = "without its future, the handle of a put is dropped"]
pub struct Put<T: Pod> {
    reply: Reply<Right>,
    item: PhantomData<fn(T)>,
}

impl<T: Pod> Put<T> {
    /// The handle, or [`CallError::WindowGone`].
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
