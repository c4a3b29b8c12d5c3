//! The indices of elements, and their placement on PEs.

use std::fmt::Debug;
use std::hash::Hash;
use std::ops::Range;

use charm4rs_transport::Pe;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The index of an element in its collection: an integer, a tuple of integers, or any small type of yours.
///
/// Implemented for everything that is `Copy + Ord + Hash + Debug + Send + Serialize + Deserialize`:
///
/// ```
/// # use serde::{Serialize, Deserialize};
/// #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
/// enum Corner { North(u8), South(u8) }
/// fn an_index<I: charm4rs::ElementIndex>() {}
/// an_index::<Corner>();
/// an_index::<(i32, usize, u8)>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the index of a chare",
    label = "not an index",
    note = "an index is `Copy + Ord + Hash + Debug + Send + serde::Serialize + serde::Deserialize`; derive what is missing"
)]
pub trait ElementIndex: Copy + Ord + Hash + Debug + Send + Serialize + DeserializeOwned + 'static {}

#[diagnostic::do_not_recommend]
impl<I: Copy + Ord + Hash + Debug + Send + Serialize + DeserializeOwned + 'static> ElementIndex for I {}

/// An index that can be counted: a bounded array has every element below its extent.
///
/// Implemented for unsigned and signed integers, and for tuples of up to six of them.
#[diagnostic::on_unimplemented(
    message = "an array of `{Self}` has no bounds",
    label = "not an integer, nor a tuple of one to six integers",
    note = "make a sparse array instead: `job.sparse::<T>()`, then `insert` its elements"
)]
pub trait GridIndex: ElementIndex {
    /// The number of elements of an array of this extent; `None` if a side is negative or the product overflows.
    fn volume(extent: &Self) -> Option<u64>;
    /// The position in row-major order; `None` if outside of the extent.
    fn position(&self, extent: &Self) -> Option<u64>;
    /// The index at a position.
    fn at(position: u64, extent: &Self) -> Self;
}

/// An index that a group can have: one element for each PE.
#[diagnostic::on_unimplemented(
    message = "a group's elements are named by their PE, which `{Self}` cannot hold",
    note = "use an integer type, or `Pe`, as the chare's index"
)]
pub trait GroupIndex: ElementIndex {
    /// The index of the element on `pe`.
    fn of(pe: Pe) -> Self;
    /// The PE of an element; `None` if there is no such PE.
    fn pe(&self) -> Option<u32>;
}

macro_rules! integers {
    ($($t:ty)*) => {$(
        impl GridIndex for $t {
            #[inline]
            fn volume(extent: &Self) -> Option<u64> {
                u64::try_from(*extent).ok()
            }
            #[inline]
            fn position(&self, extent: &Self) -> Option<u64> {
                u64::try_from(*self).ok().filter(|_| self < extent)
            }
            #[inline]
            fn at(position: u64, _: &Self) -> Self {
                <$t>::try_from(position).expect("a position below the extent fits its type")
            }
        }
        impl GroupIndex for $t {
            #[track_caller]
            fn of(pe: Pe) -> Self {
                <$t>::try_from(pe.0)
                    .unwrap_or_else(|_| panic!("a group's index of type {} cannot name PE {pe}", stringify!($t)))
            }
            fn pe(&self) -> Option<u32> {
                u32::try_from(*self).ok()
            }
        }
    )*};
}
integers!(u8 u16 u32 u64 usize i8 i16 i32 i64 isize);

impl GroupIndex for Pe {
    fn of(pe: Pe) -> Self {
        pe
    }
    fn pe(&self) -> Option<u32> {
        Some(self.0)
    }
}

macro_rules! tuples {
    ($(($($t:ident $i:tt),+))*) => {$(
        impl<$($t: GridIndex),+> GridIndex for ($($t,)+) {
            fn volume(extent: &Self) -> Option<u64> {
                let mut volume = 1u64;
                $(volume = volume.checked_mul($t::volume(&extent.$i)?)?;)+
                Some(volume)
            }
            #[inline]
            fn position(&self, extent: &Self) -> Option<u64> {
                let mut at = 0u64;
                $(at = at * $t::volume(&extent.$i)? + self.$i.position(&extent.$i)?;)+
                Some(at)
            }
            fn at(position: u64, extent: &Self) -> Self {
                let sides = [$($t::volume(&extent.$i).unwrap_or(1)),+];
                let mut at = [0u64; 0 $(+ { let _ = stringify!($i); 1 })+];
                let mut rest = position;
                for (digit, side) in at.iter_mut().zip(sides).rev() {
                    (*digit, rest) = (rest % side, rest / side);
                }
                ($($t::at(at[$i], &extent.$i),)+)
            }
        }
    )*};
}
tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

/// The index of a single chare (`#[chare]` without an index): its creator, its home, and a serial number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Solo {
    /// The PE on which it lives at first.
    pub(crate) home: Pe,
    pub(crate) creator: Pe,
    /// Counts the chares that the creator made on this home.
    pub(crate) serial: u64,
}

impl Debug for Solo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}.{}", self.creator, self.home, self.serial)
    }
}

/// Decides on which PE an element is created: a chare's `map` (`#[chare(index = usize, map = RoundRobin)]`).
///
/// The value given at creation ([`Job::array_by`](crate::Job::array_by), [`Job::sparse_by`](crate::Job::sparse_by)) is copied to every PE, and must give the
/// same results everywhere. Without a value, `Default` provides it.
///
/// ```
/// use charm4rs::{IndexMap, Places, Pe};
/// #[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
/// struct RoundRobin;
/// impl IndexMap<usize> for RoundRobin {
///     fn pe(&self, index: &usize, places: &Places) -> Pe { Pe(*index as u32 % places.pes) }
/// }
/// ```
pub trait IndexMap<I: ElementIndex>: Clone + Send + Serialize + DeserializeOwned + 'static {
    /// The PE for `index`, below `places.pes`.
    fn pe(&self, index: &I, places: &Places) -> Pe;

    /// The positions of a bounded array of `count` elements that `pe` gets, if they are contiguous: saves a call for each position.
    #[doc(hidden)]
    fn block(&self, pe: Pe, pes: u32, count: u64) -> Option<Range<u64>> {
        let _ = (pe, pes, count);
        None
    }

    /// For an index that is given out only once: the PE that gave it out, and how many others with the same home that PE has given out before. Then
    /// gone elements need little memory.
    #[doc(hidden)]
    fn once(&self, index: &I) -> Option<(Pe, u64)> {
        let _ = index;
        None
    }
}

/// The information that a map may use.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// Number of PEs of the job.
    pub pes: u32,
    /// The element's position in row-major order and the number of elements, in a bounded array.
    pub position: Option<(u64, u64)>,
}

/// The default map of an array: contiguous blocks of a bounded array, a hash otherwise.
#[derive(Clone, Copy, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct DefaultMap;

impl<I: ElementIndex> IndexMap<I> for DefaultMap {
    #[inline]
    fn pe(&self, index: &I, places: &Places) -> Pe {
        let pes = u64::from(places.pes);
        let pe = match places.position {
            Some((position, count)) => block_owner(position, count, pes),
            None => {
                use std::hash::BuildHasher;
                foldhash::fast::FixedState::default().hash_one(index) % pes
            }
        };
        Pe(u32::try_from(pe).expect("a PE's number has 32 bits"))
    }

    fn block(&self, pe: Pe, pes: u32, count: u64) -> Option<Range<u64>> {
        let (size, larger) = (count / u64::from(pes), count % u64::from(pes));
        let start = |pe: u64| pe * size + pe.min(larger);
        Some(start(u64::from(pe.0))..start(u64::from(pe.0) + 1))
    }
}

/// The owner of `position` when `count` items go to `pes` owners in contiguous blocks whose sizes differ by at most one.
fn block_owner(position: u64, count: u64, pes: u64) -> u64 {
    let (size, larger) = (count / pes, count % pes);
    let boundary = larger * (size + 1);
    if position < boundary { position / (size + 1) } else { larger + (position - boundary) / size.max(1) }
}

/// What a chare type's index supports beyond [`ElementIndex`]: determined by [`naming!`](crate::naming).
#[doc(hidden)]
#[derive(Debug)]
pub struct Naming<I> {
    pub grid: Option<Grid<I>>,
    pub group: Option<GroupNames<I>>,
    pub solo: Option<SoloNames<I>>,
}

/// The parts of [`Solo`] as functions.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct SoloNames<I> {
    pub(crate) home: fn(&I) -> Pe,
    /// The creator, and the serial number of the chare among those that it created there.
    pub(crate) origin: fn(&I) -> (Pe, u64),
}

/// [`GridIndex`] as functions.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Grid<I> {
    pub(crate) volume: fn(&I) -> Option<u64>,
    pub(crate) position: fn(&I, &I) -> Option<u64>,
    pub(crate) at: fn(u64, &I) -> I,
}

/// [`GroupIndex`] as functions.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct GroupNames<I> {
    pub(crate) of: fn(Pe) -> I,
    pub(crate) pe: fn(&I) -> Option<u32>,
}

/// The bounds of an array.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds<I> {
    pub(crate) extent: I,
    pub(crate) volume: u64,
    pub(crate) grid: Grid<I>,
}

impl<I> Bounds<I> {
    #[inline]
    pub(crate) fn position(&self, index: &I) -> Option<u64> {
        (self.grid.position)(index, &self.extent)
    }
}

impl<I: GridIndex> Grid<I> {
    pub(crate) const THIS: Self = Self { volume: I::volume, position: I::position, at: I::at };
}

/// Determines what an index type supports: if a trait is not implemented, method resolution falls back to the reference, whose methods return `None`.
#[doc(hidden)]
#[derive(Debug)]
pub struct Probe<I>(pub std::marker::PhantomData<I>);

#[doc(hidden)]
pub mod probe {
    use super::{Grid, GridIndex, GroupIndex, GroupNames, Probe, Solo, SoloNames};

    pub trait IsGrid<I> {
        fn grid(&self) -> Option<Grid<I>>;
    }
    impl<I: GridIndex> IsGrid<I> for Probe<I> {
        fn grid(&self) -> Option<Grid<I>> {
            Some(Grid::THIS)
        }
    }
    pub trait NoGrid<I> {
        fn grid(&self) -> Option<Grid<I>>;
    }
    impl<I> NoGrid<I> for &Probe<I> {
        fn grid(&self) -> Option<Grid<I>> {
            None
        }
    }
    pub trait IsGroup<I> {
        fn group(&self) -> Option<GroupNames<I>>;
    }
    impl<I: GroupIndex> IsGroup<I> for Probe<I> {
        fn group(&self) -> Option<GroupNames<I>> {
            Some(GroupNames { of: I::of, pe: I::pe })
        }
    }
    pub trait NoGroup<I> {
        fn group(&self) -> Option<GroupNames<I>>;
    }
    impl<I> NoGroup<I> for &Probe<I> {
        fn group(&self) -> Option<GroupNames<I>> {
            None
        }
    }
    pub trait IsSolo<I> {
        fn solo(&self) -> Option<SoloNames<I>>;
    }
    impl IsSolo<Solo> for Probe<Solo> {
        fn solo(&self) -> Option<SoloNames<Solo>> {
            Some(SoloNames { home: |solo| solo.home, origin: |solo| (solo.creator, solo.serial) })
        }
    }
    pub trait NoSolo<I> {
        fn solo(&self) -> Option<SoloNames<I>>;
    }
    impl<I> NoSolo<I> for &Probe<I> {
        fn solo(&self) -> Option<SoloNames<I>> {
            None
        }
    }
}

/// What an index type supports, as a [`Naming`]. For `#[chare]`.
#[doc(hidden)]
#[macro_export]
macro_rules! naming {
    ($index:ty) => {{
        #[allow(unused_imports, reason = "which of each pair is used depends on the index type")]
        use $crate::index::probe::*;
        let probe = &$crate::index::Probe::<$index>(::std::marker::PhantomData);
        $crate::index::Naming { grid: probe.grid(), group: probe.group(), solo: probe.solo() }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_indices_are_inverse_in_every_dimension() {
        fn check<I: GridIndex>(extent: I, count: u64) {
            assert_eq!(I::volume(&extent), Some(count));
            for position in 0..count {
                assert_eq!(I::at(position, &extent).position(&extent), Some(position));
            }
        }
        check(7usize, 7);
        check((3i32,), 3);
        check((3u8, 5u64), 15);
        check((2usize, 3i8, 4u16), 24);
        check((2, 1, 3, 2), 12);
        check((2, 1, 3, 2, 2), 24);
        check((1, 2, 1, 3, 2, 2), 24);
    }

    #[test]
    fn a_probe_determines_what_an_index_supports() {
        let integer = crate::naming!(u32);
        assert!(integer.grid.is_some() && integer.group.is_some() && integer.solo.is_none());
        let pair = crate::naming!((u32, i8));
        assert!(pair.grid.is_some() && pair.group.is_none());
        let other = crate::naming!(char);
        assert!(other.grid.is_none() && other.group.is_none());
        assert!(crate::naming!(Solo).solo.is_some());
    }

    #[test]
    fn an_index_outside_of_the_extent_has_no_position() {
        assert_eq!((1, 5).position(&(3, 5)), None);
        assert_eq!((-1, 0).position(&(3, 5)), None);
        assert_eq!(i32::volume(&-1), None);
        assert_eq!(<(u64, u64)>::volume(&(u64::MAX, 2)), None);
    }

    #[test]
    fn blocks_are_contiguous_and_even() {
        for (count, pes) in [(0u64, 3u64), (1, 4), (10, 4), (64, 2), (7, 7), (1000, 13)] {
            let owners: Vec<u64> = (0..count).map(|p| block_owner(p, count, pes)).collect();
            assert!(owners.is_sorted() && owners.iter().all(|&o| o < pes));
            for pe in 0..pes {
                let pe = Pe(pe.try_into().unwrap());
                let block = IndexMap::<u64>::block(&DefaultMap, pe, pes.try_into().unwrap(), count).unwrap();
                assert!(block.clone().all(|at| owners[usize::try_from(at).unwrap()] == u64::from(pe.0)));
                assert_eq!(block.count(), owners.iter().filter(|&&o| o == u64::from(pe.0)).count());
            }
            let sizes: Vec<usize> = (0..pes).map(|pe| owners.iter().filter(|&&o| o == pe).count()).collect();
            assert!(sizes.iter().max().unwrap_or(&0) - sizes.iter().min().unwrap_or(&0) <= 1);
        }
    }
}
