//! Loom's models of the lock-free protocols: the functions that ship, over loom's atomics. Each protocol is described
//! beside its code.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU64, fence};
use loom::sync::{Arc, Notify};
use loom::thread;

use crate::Imm;
use crate::doorbell::{announce, back, must_ring, rung_clear, rung_set};
use crate::memory::pool::{push, take_all};
use crate::memory::window;
use crate::ring::{Consumer, RecordKind, RingMemory, claim, publish, slots_for};

/// A tiny ring. A record's body is one cell, in which loom detects races, and, in the record's
/// other slots, a word that looks like a commit word of any lap.
struct Tiny {
    tail: AtomicU64,
    head: AtomicU64,
    words: Vec<AtomicU64>,
    cells: Vec<UnsafeCell<u32>>,
}

#[derive(Clone)]
struct Shared(Arc<Tiny>);

impl Shared {
    fn new(slots: usize) -> Self {
        Self(Arc::new(Tiny {
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            words: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            cells: (0..slots).map(|_| UnsafeCell::new(0)).collect(),
        }))
    }

    fn at(&self, slot: u64) -> usize {
        usize::try_from(slot).unwrap() % self.0.words.len()
    }

    fn send(&self, head: &mut u64, value: u32, len: usize) {
        let n = slots_for(len);
        let slot = loop {
            match claim(self, head, n) {
                Some(slot) => break slot,
                None => thread::yield_now(),
            }
        };
        // SAFETY: the slot is claimed.
        self.0.cells[self.at(slot)].with_mut(|cell| unsafe { *cell = value });
        for inner in 1..n {
            self.word(slot + inner).store(u64::MAX - (slot & 1) * (1 << 63), Relaxed);
        }
        publish(self, slot, RecordKind::Message, len, Imm(value));
    }
}

impl RingMemory for Shared {
    type Word = AtomicU64;
    fn slots(&self) -> u64 {
        self.0.words.len() as u64
    }
    fn tail(&self) -> &AtomicU64 {
        &self.0.tail
    }
    fn head(&self) -> &AtomicU64 {
        &self.0.head
    }
    fn word(&self, slot: u64) -> &AtomicU64 {
        &self.0.words[self.at(slot)]
    }
}

/// Reads `count` records, frees each at once, and checks that header and body belong together.
fn receive(consumer: &Consumer<Shared>, count: usize) -> Vec<u32> {
    let mut values = Vec::new();
    while values.len() < count {
        match consumer.take().unwrap() {
            Some(found) => {
                let cell = &consumer.place.0.cells[consumer.place.at(found.slot)];
                // SAFETY: the slot is published and not yet freed.
                let value = cell.with(|cell| unsafe { *cell });
                assert_eq!((found.kind, found.imm), (RecordKind::Message as u8, Imm(value)));
                values.push(value);
                consumer.free(&found);
            }
            None => thread::yield_now(),
        }
    }
    values
}

#[test]
fn loom_records_of_two_senders_arrive_once_and_whole() {
    loom::model(|| {
        let ring = Shared::new(2);
        let senders: Vec<_> = [1, 2]
            .map(|value| {
                let ring = ring.clone();
                thread::spawn(move || ring.send(&mut 0, value, 8))
            })
            .into();
        let mut values = receive(&Consumer::new(ring), 2);
        values.sort_unstable();
        assert_eq!(values, [1, 2]);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

#[test]
fn loom_a_ring_is_used_again_and_again_in_order() {
    loom::model(|| {
        let ring = Shared::new(2);
        let sender = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut head = 0;
                (1..=4).for_each(|value| ring.send(&mut head, value, 8));
            })
        };
        assert_eq!(receive(&Consumer::new(ring), 4), [1, 2, 3, 4]);
        sender.join().unwrap();
    });
}

#[test]
fn loom_the_inside_of_a_long_record_never_passes_for_a_record() {
    loom::model(|| {
        let ring = Shared::new(4);
        let sender = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut head = 0;
                for (value, len) in [(1, 8), (2, 100), (3, 8), (4, 100), (5, 8)] {
                    ring.send(&mut head, value, len);
                }
            })
        };
        assert_eq!(receive(&Consumer::new(ring), 5), [1, 2, 3, 4, 5]);
        sender.join().unwrap();
    });
}

/// Both fences are full ones here: the kernel guarantees that `membarrier` makes the light one sufficient.
#[test]
fn loom_a_sleeper_is_woken_by_what_is_published() {
    loom::model(|| {
        let (sleep, record, event) =
            (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let sender = {
            let (sleep, record, event) = (sleep.clone(), record.clone(), event.clone());
            thread::spawn(move || {
                record.store(1, Relaxed);
                fence(SeqCst);
                if must_ring(&*sleep) {
                    event.notify();
                }
            })
        };
        while record.load(Relaxed) == 0 {
            announce(&*sleep);
            fence(SeqCst);
            if record.load(Relaxed) == 0 {
                // A lost wake is a deadlock, which loom reports.
                event.wait();
            }
            back(&*sleep);
        }
        sender.join().unwrap();
    });
}

#[test]
fn loom_a_wake_is_never_lost() {
    loom::model(|| {
        let (rung, work, event) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let wakers: Vec<_> = [1, 2]
            .map(|bit| {
                let (rung, work, event) = (rung.clone(), work.clone(), event.clone());
                thread::spawn(move || {
                    work.fetch_or(bit, Relaxed);
                    if rung_set(&*rung) {
                        event.notify();
                    }
                })
            })
            .into();
        let mut seen = work.load(Relaxed);
        while seen != 3 {
            event.wait();
            rung_clear(&*rung);
            seen = work.load(Relaxed);
        }
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    });
}

#[test]
fn loom_blocks_come_back_once() {
    loom::model(|| {
        let top = Arc::new(AtomicU64::new(0));
        let links: Arc<Vec<AtomicU64>> = Arc::new((0..2).map(|_| AtomicU64::new(7)).collect());
        let returners: Vec<_> = [0, 1]
            .map(|unit: usize| {
                let (top, links) = (top.clone(), links.clone());
                thread::spawn(move || push(&*top, unit as u64, |old| links[unit].store(old, Relaxed)))
            })
            .into();
        let mut back = Vec::new();
        while back.len() < 2 {
            let mut link = take_all(&*top);
            if link == 0 {
                thread::yield_now();
            }
            while link != 0 {
                back.push(link - 1);
                link = links[usize::try_from(link - 1).unwrap()].load(Relaxed);
            }
        }
        back.sort_unstable();
        assert_eq!(back, [0, 1]);
        returners.into_iter().for_each(|returner| returner.join().unwrap());
    });
}

#[test]
fn loom_no_peer_writes_into_a_window_that_was_taken_back() {
    loom::model(|| {
        let (state, memory) = (Arc::new(AtomicU64::new(0)), Arc::new(UnsafeCell::new(0)));
        let generation = window::open(&*state);
        let origin = {
            let (state, memory) = (state.clone(), memory.clone());
            thread::spawn(move || {
                if window::enter(&*state, generation) {
                    // SAFETY: the caller is inside the window, so the owner waits.
                    memory.with_mut(|memory| unsafe { *memory = 1 });
                    window::leave(&*state);
                }
            })
        };
        window::close(&*state, || {
            thread::yield_now();
            true
        });
        // SAFETY: no peer is inside, and none can enter.
        let once = memory.with(|memory| unsafe { *memory });
        assert_ne!(window::open(&*state), generation);
        assert!(!window::enter(&*state, generation));
        origin.join().unwrap();
        // SAFETY: this is the only thread.
        assert_eq!(memory.with(|memory| unsafe { *memory }), once);
    });
}
