//! The ready queue of a PE, in order of urgency.
//!
//! Almost all calls have no priority, so they have a plain double-ended queue of their own; expedited calls have another; only calls with a priority
//! use a heap. The heap holds keys of 24 bytes and the items stay in a slab, so that sifting moves little. The queue does not allocate once it has
//! grown to its working size.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::mem::ManuallyDrop;

use crate::deque::Deque;

/// The order among items of equal priority.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Order {
    /// After the items that are already queued.
    Fifo,
    /// Before them.
    Lifo,
}

/// How urgent a message is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Before all calls with a priority, in the order of arrival.
    Expedited,
    /// Priority 0, first in, first out.
    Default,
    /// Lower values are more urgent: negative priorities run before the default, positive ones after it.
    Priority(i32, Order),
}

type Key = (i32, i64, u32);

/// The queue. `T` is a message; it is moved in once and out once.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    expedited: VecDeque<T>,
    /// `ManuallyDrop`, because a push that has to drop its item if memory runs out first writes the item to memory piece by piece, and the copy from
    /// there into the queue waits for each piece.
    default: Deque<ManuallyDrop<T>>,
    ranked: BinaryHeap<Reverse<Key>>,
    items: Vec<Option<T>>,
    free: Vec<u32>,
    /// Counts the items with a priority since the start: ascending for FIFO, negated for LIFO, so that one key orders both.
    turn: i64,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            expedited: VecDeque::new(),
            default: Deque::with_capacity(64),
            ranked: BinaryHeap::new(),
            items: Vec::new(),
            free: Vec::new(),
            turn: 0,
        }
    }

    #[inline(always)]
    pub(crate) fn push(&mut self, item: T, class: Class) {
        match class {
            Class::Default | Class::Priority(0, Order::Fifo) => self.default.push_back(ManuallyDrop::new(item)),
            Class::Expedited => self.expedited.push_back(item),
            Class::Priority(0, Order::Lifo) => self.default.push_front(ManuallyDrop::new(item)),
            Class::Priority(priority, order) => self.push_ranked(item, priority, order),
        }
    }

    fn push_ranked(&mut self, item: T, priority: i32, order: Order) {
        let at = if let Some(at) = self.free.pop() {
            self.items[at as usize] = Some(item);
            at
        } else {
            self.items.push(Some(item));
            u32::try_from(self.items.len() - 1).expect("fewer than 2^32 messages fit into memory")
        };
        self.turn += 1;
        let turn = if order == Order::Fifo { self.turn } else { -self.turn };
        self.ranked.push(Reverse((priority, turn, at)));
    }

    /// Takes the most urgent item.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.expedited.is_empty() && self.ranked.is_empty() {
            return self.default.pop_front().map(ManuallyDrop::into_inner);
        }
        self.pop_sorted()
    }

    fn pop_sorted(&mut self) -> Option<T> {
        if let Some(item) = self.expedited.pop_front() {
            return Some(item);
        }
        if self.ranked.peek().is_some_and(|Reverse((priority, ..))| *priority < 0) {
            return self.pop_ranked();
        }
        if let Some(item) = self.default.pop_front() {
            return Some(ManuallyDrop::into_inner(item));
        }
        self.pop_ranked()
    }

    fn pop_ranked(&mut self) -> Option<T> {
        let Reverse((_, _, at)) = self.ranked.pop()?;
        self.free.push(at);
        let item = self.items[at as usize].take();
        debug_assert!(item.is_some(), "a key in the heap has its item in the slab");
        item
    }

    pub(crate) fn len(&self) -> usize {
        self.expedited.len() + self.default.len() + self.ranked.len()
    }
}

impl<T> Drop for Queue<T> {
    fn drop(&mut self) {
        while let Some(item) = self.pop() {
            drop(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pushed: &[(char, Class)], expected: &str) {
        let mut queue = Queue::new();
        for &(item, class) in pushed {
            queue.push(item, class);
        }
        assert_eq!(queue.len(), pushed.len());
        assert_eq!(std::iter::from_fn(|| queue.pop()).collect::<String>(), expected);
        assert_eq!(queue.len(), 0);
    }

    const fn fifo(priority: i32) -> Class {
        Class::Priority(priority, Order::Fifo)
    }

    const fn lifo(priority: i32) -> Class {
        Class::Priority(priority, Order::Lifo)
    }

    #[test]
    fn items_come_out_by_urgency() {
        use Class::{Default, Expedited};
        check(&[('a', Default), ('b', Default), ('c', Default)], "abc");
        check(&[('a', Default), ('b', Expedited), ('c', Expedited)], "bca");
        check(&[('a', Default), ('b', fifo(1)), ('c', fifo(-1))], "cab");
        check(&[('a', fifo(-1)), ('b', Expedited)], "ba");
        check(&[('a', fifo(2)), ('b', fifo(1)), ('c', fifo(2))], "bac");
        check(&[('a', lifo(2)), ('b', lifo(2)), ('c', lifo(1))], "cba");
        check(&[('a', fifo(3)), ('b', lifo(3)), ('c', fifo(3))], "bac");
        check(&[('a', Default), ('b', lifo(0)), ('c', fifo(0))], "bac");
        check(&[('a', fifo(i32::MIN)), ('b', fifo(i32::MAX)), ('c', Default)], "acb");
    }

    /// The specification of the queue, without regard to cost: the position of each item in one sorted list.
    fn rank(class: Class, turn: i64) -> (u8, i32, i64) {
        match class {
            Class::Expedited => (0, 0, turn),
            Class::Default => (1, 0, turn),
            Class::Priority(p, Order::Fifo) => (1, p, turn),
            Class::Priority(p, Order::Lifo) => (1, p, -turn),
        }
    }

    fn class() -> impl Strategy<Value = Class> {
        prop_oneof![
            Just(Class::Expedited),
            Just(Class::Default),
            (-3..3, any::<bool>()).prop_map(|(p, l)| if l { lifo(p) } else { fifo(p) }),
        ]
    }

    proptest! {
        #[test]
        fn any_mix_of_pushes_and_pops_gives_what_a_sorted_list_gives(
            steps in prop::collection::vec(prop::option::weighted(0.6, class()), 0..200)
        ) {
            let (mut queue, mut model) = (Queue::new(), Vec::new());
            for (turn, step) in (1..).zip(steps) {
                if let Some(class) = step {
                    queue.push(turn, class);
                    model.push((rank(class, turn), turn));
                } else {
                    model.sort_unstable();
                    let expected = (!model.is_empty()).then(|| model.remove(0).1);
                    prop_assert_eq!(queue.pop(), expected);
                }
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }
}
