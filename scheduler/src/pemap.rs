//! Charm++'s `+pemap` syntax: on which CPU each PE runs, as a list of ranges.
//!
//! ```text
//! map   = ["L"] item ("," item)*          L: logical numbers, in the order of nearness
//! item  = [N "x"] FIRST ["-" LAST [":" STRIDE ["." RUN]]] ("+" OFFSET)*
//! ```
//! `0-3` is 0, 1, 2, 3. `0-8:4` takes every fourth: 0, 4, 8; `0-8:4.2` the first two of every four: 0, 1, 4, 5, 8.
//! `0-3+8` follows each number by that number plus 8: 0, 8, 1, 9, 2, 10, 3, 11. `2x5` is 5, 5. PE n of a host gets the n-th number; a map that is too
//! short is repeated.

use std::str::FromStr;

/// Larger numbers are refused as mistakes.
const NUMBER_MAX: u32 = 1 << 16;

/// A parsed map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeMap {
    logical: bool,
    items: Vec<Item>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Item {
    times: u32,
    first: u32,
    last: u32,
    stride: u32,
    run: u32,
    offsets: Vec<u32>,
}

/// An error in a map. `item` counts from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeMapError {
    /// There is nothing between two commas, or nothing at all.
    #[error("item {item} is empty")]
    Empty {
        /// The item.
        item: usize,
    },
    /// A number is expected.
    #[error("item {item}: {what} is not a number")]
    Number {
        /// The item.
        item: usize,
        /// The part of the item.
        what: &'static str,
    },
    /// A number that is larger than any CPU's.
    #[error("item {item}: {what} is {number}, above {NUMBER_MAX}")]
    TooLarge {
        /// The item.
        item: usize,
        /// The part of the item.
        what: &'static str,
        /// The number.
        number: u64,
    },
    /// A range whose end is less than its beginning.
    #[error("item {item}: the range {first}-{last} is the wrong way round")]
    Reversed {
        /// The item.
        item: usize,
        /// The first number.
        first: u32,
        /// The last number.
        last: u32,
    },
    /// A count, stride or run of 0.
    #[error("item {item}: {what} must be at least 1")]
    Zero {
        /// The item.
        item: usize,
        /// The part of the item.
        what: &'static str,
    },
    /// A run longer than its stride.
    #[error("item {item}: a run of {run} does not fit into a stride of {stride}")]
    Run {
        /// The item.
        item: usize,
        /// The run.
        run: u32,
        /// The stride.
        stride: u32,
    },
}

impl PeMap {
    /// Whether the numbers are positions in the order of nearness, rather than the kernel's numbers.
    #[must_use]
    pub fn logical(&self) -> bool {
        self.logical
    }

    /// The numbers for the first `pes` PEs.
    #[must_use]
    pub fn expand(&self, pes: usize) -> Vec<u32> {
        // Each item has at least one number and a map has at least one item, so the cycle does not end.
        self.items.iter().cycle().flat_map(Item::numbers).take(pes).collect()
    }
}

impl Item {
    fn numbers(&self) -> impl Iterator<Item = u32> {
        let starts = (self.first..=self.last).step_by(self.stride as usize);
        let once = starts.flat_map(|start| start..=self.last.min(start + self.run - 1));
        let once = once.flat_map(|n| std::iter::once(n).chain(self.offsets.iter().map(move |o| n + o)));
        std::iter::repeat_n(once, self.times as usize).flatten()
    }
}

/// A parser of one item.
struct Parser {
    item: usize,
}

impl Parser {
    fn number(&self, text: &str, what: &'static str) -> Result<u32, PeMapError> {
        let item = self.item;
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(PeMapError::Number { item, what });
        }
        let number = text.parse().unwrap_or(u64::MAX);
        u32::try_from(number).ok().filter(|&n| n <= NUMBER_MAX).ok_or(PeMapError::TooLarge { item, what, number })
    }

    fn positive(&self, text: &str, what: &'static str) -> Result<u32, PeMapError> {
        match self.number(text, what)? {
            0 => Err(PeMapError::Zero { item: self.item, what }),
            n => Ok(n),
        }
    }

    fn item(&self, text: &str) -> Result<Item, PeMapError> {
        let item = self.item;
        if text.is_empty() {
            return Err(PeMapError::Empty { item });
        }
        let (times, text) = match text.split_once(['x', 'X']) {
            Some((times, rest)) => (self.positive(times, "the count")?, rest),
            None => (1, text),
        };
        let mut parts = text.split('+');
        let range = parts.next().unwrap_or_default();
        let offsets = parts.map(|o| self.number(o, "the offset")).collect::<Result<_, _>>()?;
        let (range, stride) = range.split_once(':').map_or((range, None), |(r, s)| (r, Some(s)));
        let (stride, run) = match stride.map(|s| s.split_once('.').map_or((s, None), |(s, r)| (s, Some(r)))) {
            Some((stride, run)) => {
                let run = run.map_or(Ok(1), |r| self.positive(r, "the run"))?;
                (self.positive(stride, "the stride")?, run)
            }
            None => (1, 1),
        };
        if run > stride {
            return Err(PeMapError::Run { item, run, stride });
        }
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (self.number(first, "the first CPU")?, self.number(last, "the last CPU")?);
        if first > last {
            return Err(PeMapError::Reversed { item, first, last });
        }
        Ok(Item { times, first, last, stride, run, offsets })
    }
}

impl FromStr for PeMap {
    type Err = PeMapError;

    fn from_str(text: &str) -> Result<Self, PeMapError> {
        let (logical, text) = text.strip_prefix('L').map_or((false, text), |rest| (true, rest));
        let items = (1..).zip(text.split(',')).map(|(item, text)| Parser { item }.item(text.trim()));
        Ok(Self { logical, items: items.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(map: &str, pes: usize, expected: &[u32]) {
        assert_eq!(map.parse::<PeMap>().unwrap().expand(pes), expected, "{map}");
    }

    #[test]
    fn maps_mean_what_they_mean_in_charm() {
        check("3", 1, &[3]);
        check("0-3", 4, &[0, 1, 2, 3]);
        check("0-8:2,16,20-24", 11, &[0, 2, 4, 6, 8, 16, 20, 21, 22, 23, 24]);
        check("0-3,8-15:2.1", 8, &[0, 1, 2, 3, 8, 10, 12, 14]);
        check("0-11:6.3", 6, &[0, 1, 2, 6, 7, 8]);
        check("0-7:4.3", 6, &[0, 1, 2, 4, 5, 6]);
        check("0-8:4.2", 5, &[0, 1, 4, 5, 8]);
        check("0-2+8+16", 9, &[0, 8, 16, 1, 9, 17, 2, 10, 18]);
        check("2x0-1,5", 5, &[0, 1, 0, 1, 5]);
        check("L0-1", 2, &[0, 1]);
    }

    #[test]
    fn a_map_that_is_too_short_starts_again() {
        check("1,3", 5, &[1, 3, 1, 3, 1]);
    }

    #[test]
    fn mistakes_are_named() {
        use PeMapError::{Empty, Number, Reversed, Run, TooLarge, Zero};
        let check = |map: &str, expected| assert_eq!(map.parse::<PeMap>(), Err(expected), "{map}");
        check("", Empty { item: 1 });
        check("0,,1", Empty { item: 2 });
        check("0-3,x", Number { item: 2, what: "the count" });
        check("0-", Number { item: 1, what: "the last CPU" });
        check("-1", Number { item: 1, what: "the first CPU" });
        check("0-3:", Number { item: 1, what: "the stride" });
        check("0-3:2.", Number { item: 1, what: "the run" });
        check("0-3+", Number { item: 1, what: "the offset" });
        check("0-3:0", Zero { item: 1, what: "the stride" });
        check("0-3:1.0", Zero { item: 1, what: "the run" });
        check("0x1", Zero { item: 1, what: "the count" });
        check("3-1", Reversed { item: 1, first: 3, last: 1 });
        check("0-7:2.3", Run { item: 1, run: 3, stride: 2 });
        check("0-99999999", TooLarge { item: 1, what: "the last CPU", number: 99_999_999 });
        check("99999999999999999999", TooLarge { item: 1, what: "the first CPU", number: u64::MAX });
    }

    proptest! {
        #[test]
        fn any_text_is_a_map_or_an_error(text in "[L0-9x:.+, -]{0,24}") {
            if let Ok(map) = text.parse::<PeMap>() {
                prop_assert_eq!(map.expand(100).len(), 100);
            }
        }
    }
}
