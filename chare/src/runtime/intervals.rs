//! A set of numbers that are nearly consecutive: its size is the number of gaps.

use std::collections::BTreeMap;

/// See the [module's text](self).
#[derive(Default, Debug)]
pub(super) struct Intervals {
    /// For each run, its first number and the number after its last one.
    runs: BTreeMap<u64, u64>,
}

impl Intervals {
    /// The first number after the run that contains `number`.
    pub(super) fn end(&self, number: u64) -> Option<u64> {
        let (_, &end) = self.runs.range(..=number).next_back()?;
        (number < end).then_some(end)
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.end(number).is_some()
    }

    pub(super) fn insert(&mut self, number: u64) {
        if self.contains(number) {
            return;
        }
        let end = self.runs.remove(&(number + 1)).unwrap_or(number + 1);
        match self.runs.range_mut(..number).next_back() {
            Some((_, before)) if *before == number => *before = end,
            _ => drop(self.runs.insert(number, end)),
        }
    }

    /// Inserts all numbers below this one.
    pub(super) fn insert_below(&mut self, number: u64) {
        let behind = self.runs.split_off(&(number + 1));
        let last = std::mem::replace(&mut self.runs, behind).into_values().max();
        self.runs.insert(0, last.unwrap_or(0).max(number));
    }

    /// Removes the run that begins with this number; returns the number after it.
    pub(super) fn take_run(&mut self, first: u64) -> Option<u64> {
        self.runs.remove(&first)
    }

    /// The number of runs.
    #[cfg(test)]
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_numbers_are_one_run_in_any_order_of_insertion() {
        let mut set = Intervals::default();
        for number in [5, 1, 0, 3, 9, 4, 4] {
            set.insert(number);
        }
        let inside: Vec<u64> = (0..12).filter(|number| set.contains(*number)).collect();
        assert_eq!((inside, set.runs()), (vec![0, 1, 3, 4, 5, 9], 3));
        let mut below = Intervals::default();
        below.insert_below(2);
        assert_eq!((below.end(0), below.runs()), (Some(2), 1));
        [4, 5, 7].into_iter().for_each(|number| below.insert(number));
        below.insert_below(4);
        assert_eq!((below.end(0), below.contains(6), below.contains(7), below.runs()), (Some(6), false, true, 2));
        below.insert_below(3);
        assert_eq!((below.end(0), below.runs()), (Some(6), 2));
        set.insert(2);
        assert_eq!(set.runs(), 2);
        assert!(set.contains(2) && !set.contains(6));
        assert_eq!((set.take_run(0), set.take_run(0), set.take_run(9), set.runs()), (Some(6), None, Some(10), 0));
    }
}
