//! Puts what arrives from one peer into the order in which it was sent. Knows nothing of what that is.
//!
//! UCX keeps the order only of what travels alike: a message that is collected, or cut to pieces, is overtaken by short ones.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// How far ahead of its turn something may arrive. More than any sender has on its way.
const AHEAD_MAX: u32 = 1 << 20;

/// What arrived, up to the next that is missing.
#[derive(Debug)]
pub(super) struct Sequence<T> {
    /// The number of the next.
    next: u32,
    /// What came ahead of its turn, by its number: as much memory as has come, however far ahead it says it is.
    ahead: BTreeMap<u32, T>,
}

impl<T> Default for Sequence<T> {
    fn default() -> Self {
        Self { next: 0, ahead: BTreeMap::new() }
    }
}

impl<T> Sequence<T> {
    /// Takes what has this number, and gives to `deliver` all whose turn has come. `false`: it was here before, or cannot be.
    #[inline]
    pub(super) fn take(&mut self, number: u32, item: T, mut deliver: impl FnMut(T)) -> bool {
        if self.passes(number) {
            deliver(item);
            return true;
        }
        self.take_ahead(number, item, deliver)
    }

    /// Whether this number is the next, and nothing came ahead: then it counts as taken.
    #[inline]
    pub(super) fn passes(&mut self, number: u32) -> bool {
        let passes = number == self.next && self.ahead.is_empty();
        self.next = self.next.wrapping_add(passes.into());
        passes
    }

    #[cold]
    fn take_ahead(&mut self, number: u32, item: T, mut deliver: impl FnMut(T)) -> bool {
        if number.wrapping_sub(self.next) >= AHEAD_MAX {
            return false;
        }
        let Entry::Vacant(place) = self.ahead.entry(number) else { return false };
        place.insert(item);
        while let Some(item) = self.ahead.remove(&self.next) {
            self.next = self.next.wrapping_add(1);
            deliver(item);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use charm4rs_transport_core::seed::Rng;

    #[test]
    fn whatever_the_order_of_arrival_the_order_of_delivery_is_that_of_sending() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut sequence = Sequence { next: u32::MAX - 20, ahead: BTreeMap::new() };
            let mut numbers: Vec<u32> = (0..200).collect();
            for chunk in numbers.chunks_mut(1 + usize::try_from(seed).unwrap()) {
                rng.shuffle(chunk);
            }
            let mut delivered = Vec::new();
            for number in numbers {
                assert!(sequence.take((u32::MAX - 20).wrapping_add(number), number, |n| delivered.push(n)));
            }
            assert_eq!(delivered, (0..200).collect::<Vec<_>>(), "seed {seed}");
        }
    }

    #[test]
    fn what_comes_twice_or_from_nowhere_is_refused() {
        let mut sequence = Sequence::default();
        let mut delivered = 0;
        let mut take = |number| sequence.take(number, (), |()| delivered += 1);
        assert!(take(0) && take(2));
        for number in [0, 2, u32::MAX, 1 + AHEAD_MAX] {
            assert!(!take(number), "{number}");
        }
        assert!(take(1));
        assert_eq!(delivered, 3);
    }
}
