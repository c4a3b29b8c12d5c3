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
//! doubles. After a longer one it halves. With more PEs than cores a PE polls a few times, then yields between its polls, and the same rule
//! tells for how long, with a lower limit ([`SHARED`]): where the others of its core sleep, that is polling, and answers within a
//! microsecond or two; where they work, they do so at once.

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
/// With more PEs than cores: rounds before the first yield, and yields between two looks at the clock.
const POLLS_SHARED: u32 = 4;
const YIELDS_PER_LOOK: u32 = 4;
/// How long to yield with more PEs than cores: no longer than about two wake-ups by the kernel take, for a crowd that yields
/// keeps those who work waiting.
const SHARED: Spin = Spin { min: Duration::from_micros(2), max: Duration::from_micros(50) };

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
        let spin = if oversubscribed { SHARED } else { spin };
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

    /// Looks at the clock: whether to go on with `rest`.
    fn look(&mut self, is_first: bool, now: Duration, rest: Rest) -> Rest {
        if is_first {
            self.began = now;
        }
        if now.saturating_sub(self.began) < self.spin_for { rest } else { Rest::Park }
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
