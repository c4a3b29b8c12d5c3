//! What a PE does when it has nothing to do: it polls for a while, then sleeps.
//!
//! # The trade
//! Who polls sees a message within tens of nanoseconds, and burns its core. Who sleeps costs nothing, and is seen to by
//! the kernel some microseconds after somebody rings. So a PE that has a core to itself polls for about as long as
//! recent waits were worth it; a PE that shares its core must get out of the way of those who have work.
//!
//! # States of a PE, and who moves it
//! ```text
//!            a round found work                 nothing for a while
//!   running <------------------- polling ---------------------------> arming
//!      ^                            ^                                  |  |
//!      |                            | something is there already       |  | nothing: sleep in the kernel
//!      |                            +----------------------------------+  v
//!      +---- (a round) ------------------- woken or time is up -------- asleep
//! ```
//! - *polling → arming*: [`Idle::rest`] says [`Rest::Park`], and the inbox of other threads shows no notice. What
//!   a notice that comes later does is told in `inbox`: it rings, and the ring is kept.
//! - *arming → polling or asleep*: inside the port's `park`. It announces that the PE is about to sleep, to everybody
//!   who may write to it, then looks once more at all places where something may have arrived; a sender writes first
//!   and then looks for the announcement. With a full fence between the two steps on both sides (store, fence,
//!   load), at least one sees the other: the PE finds the message, or the sender rings. This half of the protocol, and
//!   its model, are in the transport's doorbell.
//! - *asleep → polling*: a ring, a readable descriptor, or the deadline of the next timer.
//!
//! Messages to itself, tasks woken by its own code, and timers cannot come up while a PE is polling or arming: its own
//! thread is the only one that makes them.
//!
//! # How long to poll
//! After a sleep that turned out shorter than the longest polling allowed, polling would have paid: the time
//! doubles. After a longer one it halves. With more PEs than cores a PE polls a few times, yields a few times, so that
//! a neighbour's message that is about to come may come, and parks.

use std::time::Duration;

/// How long to poll. Only for PEs that have a core to themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spin {
    /// At least this long.
    pub min: Duration,
    /// At most this long.
    pub max: Duration,
}

impl Default for Spin {
    fn default() -> Self {
        Self { min: Duration::from_micros(20), max: Duration::from_micros(500) }
    }
}

/// What to do before the next round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// Nothing: poll at once.
    Poll,
    /// Tell the processor that this is a waiting loop.
    Pause,
    /// Let other threads run.
    Yield,
    /// Sleep.
    Park,
}

/// Rounds without even a pause: what is on its way now arrives during them.
const POLLS_EAGER: u32 = 256;
/// Rounds between two looks at the clock.
const POLLS_PER_LOOK: u32 = 32;
/// With more PEs than cores: rounds before the first yield, and yields before the sleep.
const POLLS_SHARED: u32 = 4;
const YIELDS_SHARED: u32 = 2;

/// How idle a PE is, and has been.
#[derive(Debug)]
pub struct Idle {
    spin: Spin,
    oversubscribed: bool,
    spin_for: Duration,
    rounds: u32,
    began: Duration,
}

impl Idle {
    /// For a PE that shares its core with others, or not.
    #[must_use]
    pub fn new(spin: Spin, oversubscribed: bool) -> Self {
        Self { spin, oversubscribed, spin_for: spin.max, rounds: 0, began: Duration::ZERO }
    }

    /// A round found work.
    #[inline]
    pub fn worked(&mut self) {
        self.rounds = 0;
    }

    /// A round found nothing. `now` is any clock.
    #[inline]
    pub fn rest(&mut self, now: impl FnOnce() -> Duration) -> Rest {
        self.rounds += 1;
        if self.oversubscribed {
            return match self.rounds {
                0..=POLLS_SHARED => Rest::Poll,
                r if r <= POLLS_SHARED + YIELDS_SHARED => Rest::Yield,
                _ => Rest::Park,
            };
        }
        if self.rounds <= POLLS_EAGER && !self.spin_for.is_zero() {
            return Rest::Poll;
        }
        if self.rounds % POLLS_PER_LOOK == 1 { self.look(now()) } else { Rest::Pause }
    }

    fn look(&mut self, now: Duration) -> Rest {
        if self.rounds <= POLLS_EAGER + POLLS_PER_LOOK {
            self.began = now;
        }
        if now.saturating_sub(self.began) < self.spin_for { Rest::Pause } else { Rest::Park }
    }

    /// The PE has slept for so long.
    pub fn slept(&mut self, time: Duration) {
        self.rounds = 0;
        self.spin_for = if time < self.spin.max { self.spin_for * 2 } else { self.spin_for / 2 };
        self.spin_for = self.spin_for.clamp(self.spin.min, self.spin.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);
    const SPIN: Spin = Spin { min: Duration::from_micros(10), max: Duration::from_micros(100) };

    /// Rounds until the PE parks, each of which takes 0.1 us.
    fn rounds_until_park(idle: &mut Idle) -> u32 {
        (1..).find(|&round| idle.rest(|| US * round / 10) == Rest::Park).unwrap()
    }

    #[test]
    fn a_pe_with_its_own_core_polls_as_long_as_waits_are_short_and_less_when_they_are_long() {
        let mut idle = Idle::new(SPIN, false);
        let long = rounds_until_park(&mut idle);
        assert!((1000..1400).contains(&long), "{long}");
        for _ in 0..10 {
            idle.slept(SPIN.max * 10);
        }
        let short = rounds_until_park(&mut idle);
        assert!((POLLS_EAGER..500).contains(&short), "{short}");
        for _ in 0..10 {
            idle.slept(SPIN.max / 2);
        }
        assert_eq!(rounds_until_park(&mut idle), long);
    }

    #[test]
    fn work_starts_the_wait_anew() {
        let mut idle = Idle::new(SPIN, false);
        for round in 0..10_000 {
            assert_ne!(idle.rest(|| US * round), Rest::Park);
            idle.worked();
        }
    }

    #[test]
    fn a_pe_that_shares_its_core_yields_and_parks_at_once() {
        let mut idle = Idle::new(SPIN, true);
        let rests: Vec<_> = (0..7).map(|_| idle.rest(|| panic!("needs no clock"))).collect();
        assert_eq!(rests[..4], [Rest::Poll; 4]);
        assert_eq!(rests[4..], [Rest::Yield, Rest::Yield, Rest::Park]);
        idle.slept(US);
        assert_eq!(idle.rest(|| US), Rest::Poll);
    }
}
