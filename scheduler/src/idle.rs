//! What a PE does when it has no work: it polls for a while, then sleeps.
//!
//! # Polling or sleeping
//! A polling PE sees a message within tens of nanoseconds, and uses its whole core. A sleeping PE uses nothing, but the kernel takes some
//! microseconds to wake it after a ring. Therefore a PE that has a core to itself polls for about as long as polling would have paid in recent waits;
//! a PE that shares its core must leave the core to the threads that have work.
//!
//! # States of a PE, and the transitions
//! ```text
//!            a round found work                 nothing for a while
//!   running <------------------- polling ---------------------------> arming
//!      ^                            ^                                  |  |
//!      |                            | something is there already       |  | nothing: sleep in the kernel
//!      |                            +----------------------------------+  v
//!      +---- (a round) ------------------- woken or time is up -------- asleep
//! ```
//! - *polling → arming*: [`Idle::rest`] returns [`Rest::Park`], and the inbox of other threads shows no notice. `inbox` explains what happens to a
//!   notice that comes later: it rings, and the ring is kept.
//! - *arming → polling or asleep*: inside the port's `park`. It announces to every PE that may write to it that it is about to sleep, then looks once
//!   more at all places where something may have arrived; a sender writes first and then looks for the announcement. With a full fence between the
//!   two steps on both sides (store, fence, load), at least one sees the other: the PE finds the message, or the sender rings. This half of the
//!   protocol, and its model, are in the transport's doorbell.
//! - *asleep → polling*: a ring, a readable descriptor, or the deadline of the next timer.
//!
//! A PE's messages to itself, tasks woken by its own code, and timers cannot appear while it is polling or arming: only its own thread makes them.
//!
//! # How long to poll
//! After a sleep shorter than the longest allowed polling time, polling would have paid: the time doubles. After a longer sleep it halves. With more
//! PEs than cores, a PE polls a few times and then yields between its polls. The same rule sets for how long, with a lower limit ([`SHARED`]): if the
//! other threads of its core sleep, yielding amounts to polling and the PE answers within a microsecond or two; if they have work, they run at once.

use std::time::Duration;

/// The time to poll, for PEs that have a core to themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spin {
    /// The minimum.
    pub min: Duration,
    /// The maximum.
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
    /// Poll at once.
    Poll,
    /// Execute the processor's hint for a waiting loop.
    Pause,
    /// Let other threads run.
    Yield,
    /// Sleep.
    Park,
}

/// Rounds without a pause, for messages that are already on their way.
const POLLS_EAGER: u32 = 256;
/// Rounds between two readings of the clock.
const POLLS_PER_LOOK: u32 = 32;
/// With more PEs than cores: rounds before the first yield, and yields between two readings of the clock.
const POLLS_SHARED: u32 = 4;
const YIELDS_PER_LOOK: u32 = 4;
/// How long to yield with more PEs than cores: at most the time of about two wake-ups by the kernel, because many yielding threads delay the threads
/// that have work.
const SHARED: Spin = Spin { min: Duration::from_micros(2), max: Duration::from_micros(50) };

/// How long a PE has been idle, and how long to poll next time.
#[derive(Debug)]
pub struct Idle {
    spin: Spin,
    oversubscribed: bool,
    spin_for: Duration,
    rounds: u32,
    began: Duration,
}

impl Idle {
    /// `oversubscribed`: the PE shares its core with others.
    #[must_use]
    pub fn new(spin: Spin, oversubscribed: bool) -> Self {
        let spin = if oversubscribed { SHARED } else { spin };
        Self { spin, oversubscribed, spin_for: spin.max, rounds: 0, began: Duration::ZERO }
    }

    /// A round found work.
    #[inline]
    pub fn worked(&mut self) {
        self.rounds = 0;
    }

    /// A round found nothing. `now` reads any clock.
    #[inline]
    pub fn rest(&mut self, now: impl FnOnce() -> Duration) -> Rest {
        self.rounds += 1;
        if self.oversubscribed {
            let Some(yields) = self.rounds.checked_sub(POLLS_SHARED + 1) else { return Rest::Poll };
            return match yields % YIELDS_PER_LOOK {
                0 => self.look(yields == 0, now(), Rest::Yield),
                _ => Rest::Yield,
            };
        }
        if self.rounds <= POLLS_EAGER && !self.spin_for.is_zero() {
            return Rest::Poll;
        }
        let is_first = self.rounds <= POLLS_EAGER + POLLS_PER_LOOK;
        if self.rounds % POLLS_PER_LOOK == 1 { self.look(is_first, now(), Rest::Pause) } else { Rest::Pause }
    }

    /// Reads the clock: returns `rest` while polling goes on.
    fn look(&mut self, is_first: bool, now: Duration, rest: Rest) -> Rest {
        if is_first {
            self.began = now;
        }
        if now.saturating_sub(self.began) < self.spin_for { rest } else { Rest::Park }
    }

    /// The PE has slept for this time.
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

    /// The number of rounds until the PE parks, if each takes 0.1 us.
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
    fn a_pe_that_shares_its_core_yields_as_long_as_waits_are_short_and_hardly_when_they_are_long() {
        let mut idle = Idle::new(SPIN, true);
        let rests: Vec<_> = (0..6).map(|_| idle.rest(|| US)).collect();
        assert_eq!(rests, [Rest::Poll, Rest::Poll, Rest::Poll, Rest::Poll, Rest::Yield, Rest::Yield]);
        idle.worked();
        let long = rounds_until_park(&mut idle);
        assert!((500..520).contains(&long), "{long}");
        for _ in 0..10 {
            idle.slept(SHARED.max * 10);
        }
        let short = rounds_until_park(&mut idle);
        assert!((POLLS_SHARED..40).contains(&short), "{short}");
        for _ in 0..10 {
            idle.slept(SHARED.max / 2);
        }
        assert_eq!(rounds_until_park(&mut idle), long);
    }
}
