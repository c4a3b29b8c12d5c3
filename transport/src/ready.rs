//! What has happened at an endpoint and was not asked for yet, in order.

use std::collections::VecDeque;

use crate::Event;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    events: Vec<Event>,
    /// Earlier ones, of which more came at a time than were asked for. They stay where they are until it is their turn: a
    /// socket brings thousands at a time.
    left: VecDeque<Event>,
}

impl Ready {
    #[inline]
    pub(crate) fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.left.len() + self.events.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.left.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.left.clear();
        self.events.clear();
    }

    /// Gives at most `max` events to `out`, and says how many.
    #[inline]
    pub(crate) fn give(&mut self, out: &mut Vec<Event>, max: usize) -> usize {
        if self.is_empty() {
            return 0;
        }
        // All of them change hands where they lie: each would otherwise be read soon after it was written, in other pieces than it was, for
        // which a processor waits.
        if self.left.is_empty() && out.is_empty() && self.events.len() <= max {
            std::mem::swap(out, &mut self.events);
            return out.len();
        }
        self.give_in_parts(out, max)
    }

    #[cold]
    fn give_in_parts(&mut self, out: &mut Vec<Event>, max: usize) -> usize {
        let mut given = 0;
        while given < max && !self.is_empty() {
            if self.left.is_empty() {
                // The two exchange their memory, whatever is in it.
                let empty = std::mem::take(&mut self.left);
                self.left = std::mem::replace(&mut self.events, empty.into()).into();
            }
            let part = self.left.len().min(max - given);
            out.extend(self.left.drain(..part));
            given += part;
        }
        given
    }
}

impl Extend<Event> for Ready {
    fn extend<I: IntoIterator<Item = Event>>(&mut self, events: I) {
        self.events.extend(events);
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

    #[test]
    fn what_is_not_asked_for_yet_is_not_moved() {
        let (mut ready, mut out) = (Ready::default(), Vec::new());
        ready.extend((0..1000).map(|n| Event::PeerLost { pe: Pe(n), why: "" }));
        let at = |ready: &Ready| ready.left.front().map(std::ptr::from_ref).map(<*const Event>::addr);
        ready.give(&mut out, 1);
        let first = at(&ready).unwrap();
        for asked in 1..=100 {
            out.clear();
            assert_eq!(ready.give(&mut out, 1), 1);
            assert_eq!(at(&ready), Some(first + asked * size_of::<Event>()));
        }
    }
}
