//! Open reductions, by number.

use std::collections::VecDeque;

/// A map in the order of its numbers, which mostly grow by one and are removed in that order: then nothing is moved or allocated.
#[derive(Debug)]
pub(super) struct ByNumber<T>(VecDeque<(u64, T)>);

impl<T> Default for ByNumber<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> ByNumber<T> {
    #[inline]
    fn find(&self, number: u64) -> Result<usize, usize> {
        // Numbers mostly have no gaps: then the distance from the first one is the position.
        let guess = self.0.front().and_then(|&(first, _)| usize::try_from(number.checked_sub(first)?).ok());
        if let Some(guess) = guess.filter(|&guess| self.0.get(guess).is_some_and(|&(found, _)| found == number)) {
            return Ok(guess);
        }
        self.0.binary_search_by_key(&number, |&(number, _)| number)
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.find(number).ok().map(|at| &self.0[at].1)
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.find(number).ok().map(|at| &mut self.0[at].1)
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.find(number).is_ok()
    }

    /// The entry, or a new one.
    pub(super) fn get_or_new(&mut self, number: u64) -> &mut T
    where
        T: Default,
    {
        self.get_or_insert_with(number, T::default)
    }

    /// The entry, or the value of `make`.
    #[inline]
    pub(super) fn get_or_insert_with(&mut self, number: u64, make: impl FnOnce() -> T) -> &mut T {
        let at = self.find(number).unwrap_or_else(|at| {
            self.0.insert(at, (number, make()));
            at
        });
        &mut self.0[at].1
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        match self.find(number).ok()? {
            0 => self.0.pop_front(),
            at => self.0.remove(at),
        }
        .map(|(_, open)| open)
    }

    /// The smallest number.
    pub(super) fn first(&self) -> Option<u64> {
        self.0.front().map(|&(number, _)| number)
    }

    /// All numbers from this one on.
    pub(super) fn from(&self, number: u64) -> impl Iterator<Item = u64> {
        let (Ok(at) | Err(at)) = self.find(number);
        self.0.range(at..).map(|&(number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_in_the_order_of_its_numbers(steps in prop::collection::vec((0u64..20, any::<bool>()), 0..100)) {
            let (mut map, mut model) = (ByNumber::<u32>::default(), BTreeMap::<u64, u32>::new());
            for (number, goes) in steps {
                if goes {
                    prop_assert_eq!(map.remove(number), model.remove(&number));
                } else {
                    *map.get_or_new(number) += 1;
                    *model.entry(number).or_default() += 1;
                }
                prop_assert_eq!(map.get(number), model.get(&number));
                prop_assert_eq!(map.contains(number), model.contains_key(&number));
                prop_assert_eq!(map.first(), model.keys().next().copied());
                prop_assert!(map.from(number).eq(model.range(number..).map(|(number, _)| *number)));
            }
        }
    }
}
