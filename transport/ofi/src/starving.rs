//! Whether the provider gets no memory, or no descriptors, any more.
//!
//! `FI_EAGAIN` means "make progress, then try again". Providers also answer it when an allocation fails, as one for a new connection (rxm, and
//! tcp below it); and the end that accepts such a connection says nothing at all. Then no progress ever helps, if the process is at a limit, and
//! trying again never ends. (How long a peer needs to make a connection, on the other hand, has no bound: it may compute.)
//!
//! The C library tells them apart: where an allocation, `mmap` or `socket` fails it leaves the reason in `errno`. So in some rounds (all in which
//! something waits to be sent, and one of many others) `errno` is cleared before the provider is called, and looked at afterwards. Once is no
//! reason to worry: there are allocations that a provider can do without. But if it happens again and again, for [`PATIENCE`], while nothing
//! arrives or completes, then nothing will.

use std::time::{Duration, Instant};

use super::fi::Errno;

/// How long memory may be missing.
const PATIENCE: Duration = Duration::from_secs(2);
/// Without a failure for so long, memory is there again.
const GAP: Duration = Duration::from_secs(1);
/// Rounds from one look to the next, if nothing waits to be sent.
const ROUNDS: u32 = 64;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Starving {
    rounds: u32,
    /// Since when, and when last, with nothing getting on in between.
    lack: Option<(Instant, Instant)>,
}

impl Starving {
    /// Before a round: whether it is looked at.
    #[inline]
    pub(super) fn watches(&mut self, waiting: bool) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        let watches = waiting || self.rounds.is_multiple_of(ROUNDS);
        if watches {
            Errno::forget();
        }
        watches
    }

    /// After a round that was looked at, in which something happened or not: what is missing for good.
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

    /// An allocation failed at this time. Whether that has gone on for too long.
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
    fn only_what_is_missing_all_the_time_while_nothing_happens_is_missing_for_good() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut starving = Starving::default();
        assert!((0..2_000).step_by(100).all(|ms| !starving.lacks(at(ms))));
        assert!(starving.lacks(at(2_000)));
        // Now and then.
        let mut starving = Starving::default();
        assert!((0..60_000).step_by(1_000).all(|ms| !starving.lacks(at(ms))));
        // Something happens.
        assert!((60_000..61_900).step_by(100).all(|ms| !starving.lacks(at(ms))));
        assert_eq!(starving.verdict(true), None);
        assert!(!starving.lacks(at(62_500)));
    }
}
