//! A double-ended queue whose fast paths are inlined. The standard library's `push_back` is a call: the item is first written to memory piece by
//! piece and then copied. For a message that costs as much as everything else that the queue does.

/// Items in order, in a ring buffer whose size is a power of two. It grows and never shrinks.
#[derive(Debug)]
pub(crate) struct Deque<T> {
    /// The `len` slots from `head` on hold an item.
    places: Box<[Option<T>]>,
    head: usize,
    len: usize,
}

impl<T> Deque<T> {
    /// An empty queue with slots for `capacity` items, a power of two.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        assert!(capacity.is_power_of_two());
        Self { places: (0..capacity).map(|_| None).collect(), head: 0, len: 0 }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline(always)]
    pub(crate) fn push_back(&mut self, item: T) {
        if self.len == self.places.len() {
            self.grow();
        }
        let at = self.head.wrapping_add(self.len) & (self.places.len() - 1);
        self.len += 1;
        self.places[at] = Some(item);
    }

    pub(crate) fn push_front(&mut self, item: T) {
        if self.len == self.places.len() {
            self.grow();
        }
        self.head = self.head.wrapping_sub(1) & (self.places.len() - 1);
        self.len += 1;
        self.places[self.head] = Some(item);
    }

    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let at = self.head & (self.places.len() - 1);
        let item = self.places[at].take()?;
        self.head = at + 1;
        self.len -= 1;
        Some(item)
    }

    /// Doubles the number of slots.
    #[cold]
    fn grow(&mut self) {
        let mut places = std::mem::take(&mut self.places).into_vec();
        let first = self.head & (places.len() - 1);
        places.rotate_left(first);
        self.head = 0;
        places.resize_with(places.len() * 2, || None);
        self.places = places.into();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Back,
        Front,
        Pop,
    }

    proptest! {
        #[test]
        fn it_does_what_the_standard_one_does(
            acts in prop::collection::vec(prop_oneof![3 => Just(Act::Back), 1 => Just(Act::Front), 3 => Just(Act::Pop)], 0..500)
        ) {
            let (mut ours, mut theirs) = (Deque::with_capacity(4), VecDeque::new());
            for (number, act) in acts.into_iter().enumerate() {
                let item = number.to_string();
                match act {
                    Act::Back => (ours.push_back(item.clone()), theirs.push_back(item)),
                    Act::Front => (ours.push_front(item.clone()), theirs.push_front(item)),
                    Act::Pop => {
                        prop_assert_eq!(ours.pop_front(), theirs.pop_front());
                        ((), ())
                    }
                };
                prop_assert_eq!(ours.len(), theirs.len());
            }
            prop_assert_eq!(std::iter::from_fn(|| ours.pop_front()).collect::<Vec<_>>(), Vec::from(theirs));
        }
    }
}
