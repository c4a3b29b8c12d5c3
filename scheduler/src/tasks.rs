//! The PE's executor: a slab of local futures, and wakers for them.
//!
//! # Wakers, and their cost
//! A waker is `Send + Sync`, as the standard library demands, but is almost always used on its own PE. It recognizes its own thread by the address of
//! a thread-local byte (an identity, not a state) and then needs only plain loads and stores: it sets the task's `near` flag and writes the task's
//! name into a ring buffer that only this thread touches. (The flag and the ring are atomics accessed `Relaxed`, which makes the code safe and
//! compiles to the same instructions as plain memory.) On any other thread it swaps the `far` flag and goes through the [`Inbox`].
//!
//! In a simulation many PEs share a thread; each waker names the ring of its own PE, so a wake reaches the right one.
//!
//! # One poll for each wake
//! The PE clears both flags of a task before it polls the task; a name that is popped while neither flag is set is stale and skipped. So a task that
//! was woken twice, from the same or another thread, is polled once. A wake from another thread is never lost: if its swap found the flag clear, it
//! pushes the name. If it found the flag set, the PE has yet to clear it, by a swap, and so polls after it has seen everything that the waking thread
//! did before. (`loom_` test below.)
//!
//! A name is an index and a generation. Names of tasks that are gone are skipped, even if their slot is reused.
//!
//! # Borrows
//! A future is taken out of the slab while it is polled or dropped, so it may spawn, wake and cancel, including itself.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use crate::inbox::{Foreign, Inbox};
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

/// Identifies a task of one PE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TaskId {
    index: u32,
    generation: u32,
}

impl TaskId {
    const fn pack(self) -> u64 {
        ((self.generation as u64) << 32) | self.index as u64
    }

    const fn unpack(name: u64) -> Self {
        const LOW: u64 = u32::MAX as u64;
        #[allow(clippy::cast_possible_truncation, reason = "both halves are masked to 32 bits")]
        Self { index: (name & LOW) as u32, generation: (name >> 32) as u32 }
    }
}

/// Identifies the task that a waker wakes, as far as possible: equal for a waker's clones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WakerKey(usize);

impl WakerKey {
    /// The key of any waker.
    #[must_use]
    pub fn of(waker: &Waker) -> Self {
        Self(waker.data().addr())
    }
}

/// A task that has not been woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suspended {
    /// The task.
    pub id: TaskId,
    /// The key of its wakers.
    pub key: WakerKey,
    /// The number of its wakers.
    pub wakers: usize,
}

/// The calling thread's identity: no two living threads have the same.
fn here() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|byte| std::ptr::from_ref(byte).addr())
}

/// Slots for local wakes; further wakes go through the inbox. A power of two.
const RING: usize = if cfg!(loom) { 2 } else { 1024 };

/// A queue that only the PE's own thread touches; see the module's text.
struct Ring {
    slots: Box<[AtomicU64]>,
    head: AtomicUsize,
    tail: AtomicUsize,
}

impl Ring {
    fn new() -> Self {
        let slots = (0..RING).map(|_| AtomicU64::new(0)).collect();
        Self { slots, head: AtomicUsize::new(0), tail: AtomicUsize::new(0) }
    }

    #[inline]
    fn push(&self, name: u64) -> bool {
        let tail = self.tail.load(Ordering::Relaxed);
        if tail.wrapping_sub(self.head.load(Ordering::Relaxed)) == RING {
            return false;
        }
        self.slots[tail % RING].store(name, Ordering::Relaxed);
        self.tail.store(tail.wrapping_add(1), Ordering::Relaxed);
        true
    }

    #[inline]
    fn pop(&self) -> Option<u64> {
        let head = self.head.load(Ordering::Relaxed);
        if head == self.tail.load(Ordering::Relaxed) {
            return None;
        }
        self.head.store(head.wrapping_add(1), Ordering::Relaxed);
        Some(self.slots[head % RING].load(Ordering::Relaxed))
    }

    #[inline]
    fn len(&self) -> usize {
        self.tail.load(Ordering::Relaxed).wrapping_sub(self.head.load(Ordering::Relaxed))
    }
}

/// The state that the wakers of a PE share.
struct Ready {
    ring: Ring,
    /// The PE's thread; 0 when the PE has ended.
    owner: AtomicUsize,
    inbox: Arc<Inbox>,
}

/// Whether a task has been woken since it was last polled; see the module's text.
struct Flags {
    near: AtomicBool,
    far: AtomicBool,
}

impl Flags {
    fn new() -> Self {
        Self { near: AtomicBool::new(false), far: AtomicBool::new(false) }
    }

    /// On the PE: returns whether the name must be pushed.
    #[inline]
    fn wake_near(&self) -> bool {
        if self.near.load(Ordering::Relaxed) {
            return false;
        }
        self.near.store(true, Ordering::Relaxed);
        true
    }

    /// On another thread: returns whether the name must be pushed.
    fn wake_far(&self) -> bool {
        !self.far.swap(true, Ordering::AcqRel)
    }

    /// On the PE: returns whether the task must be polled.
    #[inline]
    fn clear(&self) -> bool {
        let near = self.near.load(Ordering::Relaxed);
        let far = self.far.load(Ordering::Relaxed);
        if near {
            self.near.store(false, Ordering::Relaxed);
        }
        if far {
            self.far.swap(false, Ordering::AcqRel);
        }
        near || far
    }
}

/// The state that the wakers of one task share.
struct TaskWaker {
    flags: Flags,
    name: AtomicU64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    #[inline]
    fn wake_by_ref(self: &Arc<Self>) {
        let ready = &self.ready;
        let name = self.name.load(Ordering::Relaxed);
        if ready.owner.load(Ordering::Relaxed) == here() {
            if self.flags.wake_near() && !ready.ring.push(name) {
                ready.inbox.push(Foreign::Wake(name));
            }
        } else if self.flags.wake_far() {
            ready.inbox.push(Foreign::Wake(name));
        }
    }
}

type Future_ = Pin<Box<dyn Future<Output = ()>>>;

struct Slot {
    generation: u32,
    /// The future, unless the slot is free or the task is being polled.
    future: Option<Future_>,
    /// The task's flags and a waker that shares them: kept for the slot's next task if nothing else holds one. The waker is taken out while the task
    /// is polled.
    shared: Arc<TaskWaker>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    live: usize,
}

impl Table {
    fn slot(&mut self, id: TaskId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index as usize).filter(|s| s.generation == id.generation)
    }

    /// Ends the slot's task. The caller drops its future, if the slot has it.
    fn vacate(&mut self, id: TaskId) -> Option<Future_> {
        let slot = self.slot(id)?;
        slot.generation = slot.generation.wrapping_add(1);
        let future = slot.future.take();
        self.free.push(id.index);
        self.live -= 1;
        future
    }
}

/// The tasks of one PE.
pub(crate) struct Tasks {
    table: RefCell<Table>,
    ready: Arc<Ready>,
    /// Names that came through the inbox.
    spill: RefCell<VecDeque<u64>>,
    shut: Cell<bool>,
}

impl Tasks {
    pub(crate) fn new(inbox: Arc<Inbox>) -> Self {
        let ready = Arc::new(Ready { ring: Ring::new(), owner: AtomicUsize::new(here()), inbox });
        Self { table: RefCell::default(), ready, spill: RefCell::default(), shut: Cell::new(false) }
    }

    /// Creates a task that is ready to be polled.
    pub(crate) fn spawn(&self, future: Future_) -> TaskId {
        if self.shut.get() {
            drop(future);
            return TaskId { index: u32::MAX, generation: 0 };
        }
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        let index = table.free.pop().unwrap_or_else(|| {
            table.slots.push(self.slot(0));
            u32::try_from(table.slots.len() - 1).expect("fewer than 2^32 tasks fit into memory")
        });
        let slot = &mut table.slots[index as usize];
        let id = TaskId { index, generation: slot.generation };
        // The slot holds two references. If there are no others, no other code can create one. The fence orders what the last other holders did
        // before what follows.
        let reusable = slot.waker.is_some() && Arc::strong_count(&slot.shared) == 2;
        if reusable {
            fence(Ordering::Acquire);
            slot.shared.flags.clear();
            slot.shared.name.store(id.pack(), Ordering::Relaxed);
        } else {
            *slot = Slot { generation: id.generation, ..self.slot(id.pack()) };
        }
        slot.future = Some(future);
        let waker = slot.shared.clone();
        table.live += 1;
        waker.wake();
        id
    }

    fn slot(&self, name: u64) -> Slot {
        let shared = Arc::new(TaskWaker { flags: Flags::new(), name: AtomicU64::new(name), ready: self.ready.clone() });
        Slot { generation: 0, future: None, waker: Some(shared.clone().into()), shared }
    }

    /// Drops a task's future, at once unless it is being polled.
    pub(crate) fn cancel(&self, id: TaskId) -> bool {
        let mut table = self.table.borrow_mut();
        let known = table.slot(id).is_some();
        let future = table.vacate(id);
        drop(table);
        drop(future);
        known
    }

    /// Takes a name that came through the inbox.
    pub(crate) fn admit(&self, name: u64) {
        self.spill.borrow_mut().push_back(name);
    }

    /// The number of queued names, stale ones included.
    #[inline]
    pub(crate) fn ready(&self) -> usize {
        self.ready.ring.len() + self.spill.borrow().len()
    }

    /// How many tasks there are.
    pub(crate) fn len(&self) -> usize {
        self.table.borrow().live
    }

    /// The tasks that have not been woken.
    pub(crate) fn suspended(&self) -> Vec<Suspended> {
        let table = self.table.borrow();
        let of = |(index, slot): (u32, &Slot)| {
            let waker = slot.waker.as_ref().filter(|_| slot.future.is_some())?;
            let id = TaskId { index, generation: slot.generation };
            // Two of the references are the slot's.
            Some(Suspended { id, key: WakerKey::of(waker), wakers: Arc::strong_count(&slot.shared).saturating_sub(2) })
        };
        (0..).zip(&table.slots).filter_map(of).collect()
    }

    /// Resumes the next ready task. Returns `false` if there is none.
    pub(crate) fn poll_one(&self) -> bool {
        let name = self.ready.ring.pop().or_else(|| self.spill.borrow_mut().pop_front());
        let Some(name) = name else { return false };
        let id = TaskId::unpack(name);
        let mut table = self.table.borrow_mut();
        let Some(slot) = table.slot(id) else { return true };
        if !slot.shared.flags.clear() {
            return true;
        }
        let (Some(mut future), Some(waker)) = (slot.future.take(), slot.waker.take()) else { return true };
        drop(table);
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut table = self.table.borrow_mut();
        let Some(slot) = table.slot(id) else {
            // It was cancelled while it ran.
            drop(table);
            drop((future, waker));
            return true;
        };
        slot.waker = Some(waker);
        if !done {
            slot.future = Some(future);
            return true;
        }
        table.vacate(id);
        drop(table);
        drop(future);
        true
    }

    /// Drops all tasks. From now on new tasks are dropped at once, and wakers do nothing.
    pub(crate) fn shut(&self) {
        self.shut.set(true);
        loop {
            let mut table = self.table.borrow_mut();
            let living = (0..).zip(&table.slots).find(|(_, slot)| slot.future.is_some());
            let Some((index, slot)) = living else { break };
            let id = TaskId { index, generation: slot.generation };
            let future = table.vacate(id);
            drop(table);
            drop(future);
        }
        self.ready.owner.store(0, Ordering::Relaxed);
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("live", &self.len()).field("ready", &self.ready()).finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;
    use crate::sync::Bell;

    /// One task that waits until `others` threads have each set their bit; each wakes it, and its own PE once.
    fn model(others: u64) {
        let bell = Bell::new();
        let inbox = Arc::new(Inbox::new(bell.clone()));
        let flags = Arc::new(Flags::new());
        let bits = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..others)
            .map(|n| {
                let (inbox, flags, bits) = (inbox.clone(), flags.clone(), bits.clone());
                thread::spawn(move || {
                    bits.fetch_add(1 << n, Ordering::Relaxed);
                    if flags.wake_far() {
                        inbox.push(Foreign::Wake(0));
                    }
                })
            })
            .collect();
        let ring = Ring::new();
        assert!(flags.wake_near() && !flags.wake_near() && ring.push(0));
        let (mut spill, mut polls) = (0, 0);
        loop {
            inbox.drain(8, |_| {
                spill += 1;
                inbox.close();
            });
            let queued = if ring.pop().is_some() {
                true
            } else {
                let some = spill > 0;
                spill -= u32::from(some);
                some
            };
            if queued {
                if flags.clear() {
                    polls += 1;
                    if bits.load(Ordering::Relaxed) == (1 << others) - 1 {
                        break;
                    }
                }
            } else if !inbox.notified() {
                bell.park();
            }
        }
        assert!(polls <= others + 1, "no more polls than wakes");
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn loom_a_wake_from_another_thread_is_followed_by_a_poll_that_sees_its_cause() {
        loom::model(|| model(1));
    }

    #[test]
    fn loom_wakes_from_two_threads_are_followed_by_a_poll_that_sees_both() {
        loom::model(|| model(2));
    }
}
