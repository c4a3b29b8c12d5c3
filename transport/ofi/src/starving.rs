//! Detects that the provider permanently lacks memory or descriptors.
//!
//! `FI_EAGAIN` means "make progress, then try again". Providers also return it when an allocation fails, for example for a new connection (rxm, and
//! tcp below it), and the end that accepts such a connection reports nothing. If the process is at a limit, progress does not help,
//! and retries never end. (The time that a peer needs to make a connection, on the other hand, has no bound: it may be computing.)
//!
//! `errno` distinguishes the two: when an allocation, `mmap` or `socket` fails, the C library leaves the reason there. So in some rounds (all in which
//! something waits to be sent, and one of many others) `errno` is cleared before the provider is called, and checked afterwards. One failure means
//! little: there are allocations that a provider can do without. But if it happens repeatedly, for [`PATIENCE`], while nothing
//! arrives or completes, nothing will.

use std::time::{Duration, Instant};

use super::fi::Errno;

/// How long memory may be lacking.
const PATIENCE: Duration = Duration::from_secs(2);
/// After this long without a failure, memory is available again.
const GAP: Duration = Duration::from_secs(1);
/// Rounds between two checks, if nothing waits to be sent.
const ROUNDS: u32 = 64;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Starving {
    rounds: u32,
    /// The first and the last failure, with no progress in between.
    lack: Option<(Instant, Instant)>,
}

impl Starving {
    /// Called before a round. Returns whether the round is checked.
    #[inline]
    pub(super) fn watches(&mut self, waiting: bool) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        let watches = waiting || self.rounds.is_multiple_of(ROUNDS);
        if watches {
            Errno::forget();
        }
        watches
    }

    /// Called after a round that was checked, with whether anything happened in it. Returns what is permanently lacking.
    pub(super) fn verdict(&mut self, happened: bool) -> Option<Errno> {
        let error = Errno::last();
        if happened {
            self.lack = None;
            return None;
        }
        if !error.is_lack() {
            return None;
        }
        self.lacks(Instant::now()).then_some(error)
    }

    /// An allocation failed at this time. Returns whether that has lasted too long.
    fn lacks(&mut self, now: Instant) -> bool {
        let since = self.lack.filter(|(_, last)| now.duration_since(*last) < GAP).map_or(now, |(since, _)| since);
        self.lack = Some((since, now));
        now.duration_since(since) >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lack_that_persists_while_nothing_happens_is_permanent() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut starving = Starving::default();
        assert!((0..2_000).step_by(100).all(|ms| !starving.lacks(at(ms))));
        assert!(starving.lacks(at(2_000)));
        // Only now and then.
        let mut starving = Starving::default();
        assert!((0..60_000).step_by(1_000).all(|ms| !starving.lacks(at(ms))));
        // Something happens.
        assert!((60_000..61_900).step_by(100).all(|ms| !starving.lacks(at(ms))));
        assert_eq!(starving.verdict(true), None);
        assert!(!starving.lacks(at(62_500)));
    }
}
