//! Restores the order in which one peer sent its messages (or puts). Knows nothing of their contents.
//!
//! libfabric's and UCX's providers keep the order only of messages of one kind: short ones overtake a long one. So a backend numbers its messages modulo
//! 2^32, and delivers by number. A message that comes ahead of its turn waits here. Memory grows with what has arrived, not with the numbers that a peer
//! claims.

use std::collections::BTreeMap;

/// The messages that have arrived, up to the first that is missing.
#[derive(Debug)]
pub struct InOrder<T> {
    /// The number of the next message.
    next: u32,
    /// Messages that came ahead of their turn, by number.
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
    /// The text for the error that ends the job.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Repeated => "a message that had arrived already",
            Self::TooFarAhead => "a message is missing",
        }
    }
}

/// How far ahead of its turn a message may arrive: more than any sender has in flight.
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

    /// Takes the message of this number, and passes to `deliver` all messages whose turn has come.
    ///
    /// # Errors
    /// If the number has arrived before, or is impossible.
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

    /// Keeps the message of this number until [`InOrder::next`] returns it.
    ///
    /// # Errors
    /// If the number has arrived before, or is impossible.
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

    /// The next message, if it has arrived.
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
    fn messages_are_delivered_in_the_order_of_sending_whatever_the_order_of_arrival() {
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
    fn a_repeated_or_impossible_number_is_refused() {
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
