//! What has happened at an endpoint and was not asked for yet, in order.

use crate::Event;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Ready(Vec<Event>);

impl Ready {
    #[inline]
    pub(crate) fn push(&mut self, event: Event) {
        self.0.push(event);
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Gives at most `max` events to `out`, and says how many.
    #[inline]
    pub(crate) fn give(&mut self, out: &mut Vec<Event>, max: usize) -> usize {
        if self.0.is_empty() {
            return 0;
        }
        // All of them change hands where they lie: each would otherwise be read soon after it was written, in other pieces than it was, for
        // which a processor waits.
        if out.is_empty() && self.0.len() <= max {
            std::mem::swap(out, &mut self.0);
            return out.len();
        }
        let n = self.0.len().min(max);
        out.extend(self.0.drain(..n));
        n
    }
}

impl Extend<Event> for Ready {
    fn extend<I: IntoIterator<Item = Event>>(&mut self, events: I) {
        self.0.extend(events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pe;

    #[test]
    fn events_come_out_in_order_however_many_are_asked_for() {
        let lost = |n| Event::PeerLost { pe: Pe(n), why: "" };
        let (mut ready, mut out, mut next) = (Ready::default(), Vec::new(), 0);
        for max in [1, 0, 3, 100, 2, 100] {
            ready.extend((next..next + 4).map(lost));
            next += 4;
            let (had, held) = (out.len(), ready.len());
            let n = ready.give(&mut out, max);
            assert_eq!((n, ready.len(), out.len()), (held.min(max), held - n, had + n));
            if max == 2 {
                out.drain(..);
                continue;
            }
        }
        let mut last = None;
        for event in out {
            let Event::PeerLost { pe, .. } = event else { unreachable!("no other was put there") };
            assert!(last < Some(pe));
            last = Some(pe);
        }
        assert_eq!((last, ready.is_empty()), (Some(Pe(next - 1)), true));
    }
}
