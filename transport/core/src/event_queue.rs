//! The events of an endpoint that its user has not fetched yet, in order.

use std::collections::VecDeque;

use crate::Event;

/// See the module's text.
#[derive(Debug, Default)]
pub struct EventQueue {
    events: Vec<Event>,
    /// Older events, left over when more arrived at once than the user fetched. They are not moved again before they are fetched: a socket may bring
    /// thousands at once.
    left: VecDeque<Event>,
}

impl EventQueue {
    /// Adds an event behind all others.
    #[inline]
    pub fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    /// The number of events.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.left.len() + self.events.len()
    }

    /// Whether there is no event.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.left.is_empty()
    }

    /// Drops all events, with their buffers.
    pub fn clear(&mut self) {
        self.left.clear();
        self.events.clear();
    }

    /// Moves at most `max` events to the end of `out` and returns their number.
    #[inline]
    pub fn give(&mut self, out: &mut Vec<Event>, max: usize) -> usize {
        if self.is_empty() {
            return 0;
        }
        // The two vectors swap their buffers. A copy would read each event right after it was written, with loads of another size than the stores: the
        // processor cannot forward such stores and stalls.
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
                // The two swap their buffers, whatever is in them.
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

impl Extend<Event> for EventQueue {
    fn extend<I: IntoIterator<Item = Event>>(&mut self, events: I) {
        self.events.extend(events);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pe;

    #[test]
    fn events_come_out_in_order_for_any_batch_size() {
        let lost = |n| Event::PeerLost { pe: Pe(n), why: "" };
        let (mut ready, mut out, mut next) = (EventQueue::default(), Vec::new(), 0);
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
            let Event::PeerLost { pe, .. } = event else { unreachable!("the queue holds no other event") };
            assert!(last < Some(pe));
            last = Some(pe);
        }
        assert_eq!((last, ready.is_empty()), (Some(Pe(next - 1)), true));
    }

    #[test]
    fn events_that_are_not_asked_for_are_not_moved() {
        let (mut ready, mut out) = (EventQueue::default(), Vec::new());
        ready.extend((0..1000).map(|n| Event::PeerLost { pe: Pe(n), why: "" }));
        let at = |ready: &EventQueue| ready.left.front().map(std::ptr::from_ref).map(<*const Event>::addr);
        ready.give(&mut out, 1);
        let first = at(&ready).unwrap();
        for asked in 1..=100 {
            out.clear();
            assert_eq!(ready.give(&mut out, 1), 1);
            assert_eq!(at(&ready), Some(first + asked * size_of::<Event>()));
        }
    }
}
