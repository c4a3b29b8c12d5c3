//! Restores the order in which one peer sent what arrives. Knows nothing of what that is.
//!
//! libfabric's and UCX's providers keep the order only of messages that travel alike: a long one is overtaken by short ones. So a backend numbers what it sends,
//! modulo 2^32, and delivers by number. What comes ahead of its turn waits here. Memory grows with what has arrived, not with the numbers that a peer claims.

use std::collections::BTreeMap;

/// What arrived, up to the next that is missing.
#[derive(Debug)]
pub struct InOrder<T> {
    /// The number of the next.
    next: u32,
    /// What came ahead of its turn, by its number.
    ahead: BTreeMap<u32, T>,
}

/// Why a number is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutOfOrder {
    /// It has arrived before.
    Repeated,
    /// It is further ahead than any sender can be.
    TooFarAhead,
}

impl OutOfOrder {
    /// For the error that ends the job.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Repeated => "a message that had arrived already",
            Self::TooFarAhead => "a message is missing",
        }
    }
}

/// How far ahead of its turn something may arrive: more than any sender has on its way.
const AHEAD_MAX: u32 = 1 << 20;

impl<T> Default for InOrder<T> {
    fn default() -> Self {
        Self { next: 0, ahead: BTreeMap::new() }
    }
}

impl<T> InOrder<T> {
    /// How many have been taken in order, modulo 2^32.
    #[must_use]
    pub fn taken(&self) -> u32 {
        self.next
    }

    /// Whether this number is the next, and nothing came ahead of it. Then it counts as taken.
    #[inline]
    pub fn passes(&mut self, number: u32) -> bool {
        let passes = number == self.next && self.ahead.is_empty();
        self.next = self.next.wrapping_add(passes.into());
        passes
    }

    /// Takes what has this number, and gives to `deliver` everything whose turn has come.
    ///
    /// # Errors
    /// If it was here before, or cannot be.
    #[inline]
    pub fn take(&mut self, number: u32, item: T, mut deliver: impl FnMut(T)) -> Result<(), OutOfOrder> {
        if self.passes(number) {
            deliver(item);
            return Ok(());
        }
        self.keep(number, item)?;
        while let Some(item) = self.next() {
            deliver(item);
        }
        Ok(())
    }

    /// Keeps what has this number until [`InOrder::next`] returns it.
    ///
    /// # Errors
    /// If it was here before, or cannot be.
    #[cold]
    pub fn keep(&mut self, number: u32, item: T) -> Result<(), OutOfOrder> {
        let ahead = number.wrapping_sub(self.next);
        if ahead > u32::MAX / 2 || self.ahead.contains_key(&number) {
            return Err(OutOfOrder::Repeated);
        }
        if ahead >= AHEAD_MAX {
            return Err(OutOfOrder::TooFarAhead);
        }
        self.ahead.insert(number, item);
        Ok(())
    }

    /// The next, if it is here.
    #[expect(clippy::should_implement_trait, reason = "it does not end: more may arrive")]
    pub fn next(&mut self) -> Option<T> {
        if self.ahead.is_empty() {
            return None;
        }
        let item = self.ahead.remove(&self.next)?;
        self.next = self.next.wrapping_add(1);
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Rng;

    #[test]
    fn whatever_the_order_of_arrival_the_order_of_delivery_is_that_of_sending() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut queue = InOrder { next: u32::MAX - 20, ahead: BTreeMap::new() };
            let mut numbers: Vec<u32> = (0..200).collect();
            for chunk in numbers.chunks_mut(1 + usize::try_from(seed).unwrap()) {
                rng.shuffle(chunk);
            }
            let mut delivered = Vec::new();
            for number in numbers {
                queue.take((u32::MAX - 20).wrapping_add(number), number, |n| delivered.push(n)).unwrap();
            }
            assert_eq!(delivered, (0..200).collect::<Vec<_>>(), "seed {seed}");
            assert_eq!(queue.taken(), 179);
        }
    }

    #[test]
    fn a_number_that_comes_twice_or_cannot_be_is_refused() {
        let mut queue = InOrder::default();
        let mut delivered = 0;
        let mut take = |number| queue.take(number, (), |()| delivered += 1);
        assert_eq!((take(0), take(2)), (Ok(()), Ok(())));
        for number in [0, 2, u32::MAX] {
            assert_eq!(take(number), Err(OutOfOrder::Repeated), "{number}");
        }
        assert_eq!(take(1 + AHEAD_MAX), Err(OutOfOrder::TooFarAhead));
        assert_eq!(take(1), Ok(()));
        assert_eq!(delivered, 3);
    }
}
