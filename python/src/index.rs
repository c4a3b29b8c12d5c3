//! The index of an element of a Python collection: up to six integers.

use std::fmt;

use charm4rs::{GridIndex, GroupIndex, Pe};
use pyo3::exceptions::{PyIndexError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use serde::{Deserialize, Serialize};

/// Dimensions of an array.
pub(crate) const DIMS_MAX: usize = 6;

/// Marks the index of a single chare: the PE where it is created, the PE that created it, and how many that PE had created there before.
const SINGLE: u8 = 7;
/// Marks the index of an element of a group on some PEs only.
const ON_PE: u8 = 8;

/// What kind of collection a proxy names, or names an element of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Shape {
    /// One element on every PE.
    Group,
    /// One element on each of some PEs.
    PartialGroup,
    #[default]
    Array,
    /// A single chare. All single chares of a PE's making are elements of one collection.
    Single,
}

impl Shape {
    pub(crate) fn is_group(self) -> bool {
        matches!(self, Self::Group | Self::PartialGroup)
    }

    /// The engine's index for a program's index.
    pub(crate) fn index(self, index: Index) -> Index {
        match self {
            Self::PartialGroup if index.dims == 1 => Index { dims: ON_PE, ..index },
            _ => index,
        }
    }
}

/// The index of an element; a group's has one dimension.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Index {
    dims: u8,
    at: [i32; DIMS_MAX],
}

/// As Python shows it.
impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_slice() {
            [at] => write!(f, "{at}"),
            several => {
                let several: Vec<String> = several.iter().map(ToString::to_string).collect();
                write!(f, "({})", several.join(", "))
            }
        }
    }
}

impl Index {
    pub(crate) fn of(at: &[i32]) -> Option<Self> {
        let mut index = Self { dims: u8::try_from(at.len()).ok()?, at: [0; DIMS_MAX] };
        index.at.get_mut(..at.len())?.copy_from_slice(at);
        Some(index)
    }

    pub(crate) fn one(at: i32) -> Self {
        Self { dims: 1, at: [at, 0, 0, 0, 0, 0] }
    }

    pub(crate) fn single(home: Pe, maker: Pe, number: i32) -> Self {
        let pe = |pe: Pe| i32::try_from(pe.0).expect("a job has fewer than 2^31 PEs");
        Self { dims: SINGLE, at: [pe(home), pe(maker), number, 0, 0, 0] }
    }

    pub(crate) fn as_slice(&self) -> &[i32] {
        match self.dims {
            SINGLE => &self.at[..3],
            ON_PE => &self.at[..1],
            dims => &self.at[..usize::from(dims).min(DIMS_MAX)],
        }
    }

    /// The PE that the index itself names, independent of the map.
    pub(crate) fn fixed(&self) -> Option<Pe> {
        let pe = u32::try_from(self.at[0]).ok().map(Pe);
        pe.filter(|_| self.dims == SINGLE || self.dims == ON_PE)
    }

    /// The PE that created a single chare, and how many it had created before on the same PE.
    pub(crate) fn once(&self) -> Option<(Pe, u64)> {
        let [_, maker, number, ..] = self.at;
        let (maker, number) = (u32::try_from(maker).ok()?, u64::try_from(number).ok()?);
        (self.dims == SINGLE).then_some((Pe(maker), number))
    }

    /// From an integer, or a sequence of one to six.
    pub(crate) fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        let wrong = |error: PyErr| {
            if error.is_instance_of::<PyOverflowError>(value.py()) {
                PyIndexError::new_err(format!("an index is between -2^31 and 2^31, not {value}"))
            } else {
                PyTypeError::new_err(format!("an index is an int or a tuple of ints, not {value}"))
            }
        };
        match value.extract() {
            Ok(number) => return Ok(Self::one(number)),
            Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => return Err(wrong(error)),
            Err(_) => {}
        }
        let at: Vec<i32> = value.extract().map_err(wrong)?;
        Self::of(&at)
            .filter(|index| index.dims > 0)
            .ok_or_else(|| PyValueError::new_err(format!("an index has 1 to {DIMS_MAX} dimensions, not {}", at.len())))
    }

    /// As the program sees it: an integer in groups, a tuple otherwise.
    pub(crate) fn to_python<'py>(self, py: Python<'py>, shape: Shape) -> PyResult<Bound<'py, PyAny>> {
        Ok(match shape {
            Shape::Group | Shape::PartialGroup => self.at[0].into_pyobject(py)?.into_any(),
            Shape::Single => PyTuple::new(py, [0])?.into_any(),
            Shape::Array => PyTuple::new(py, self.as_slice())?.into_any(),
        })
    }
}

impl GridIndex for Index {
    fn volume(extent: &Self) -> Option<u64> {
        let side = |&side: &i32| u64::try_from(side).ok();
        extent.as_slice().iter().try_fold(1u64, |volume, i| volume.checked_mul(side(i)?))
    }

    fn position(&self, extent: &Self) -> Option<u64> {
        if self.dims != extent.dims {
            return None;
        }
        let pairs = self.as_slice().iter().zip(extent.as_slice());
        let mut position = 0u64;
        for (&at, &side) in pairs {
            let at = u64::try_from(at).ok().filter(|_| at < side)?;
            position = position * u64::try_from(side).ok()? + at;
        }
        Some(position)
    }

    fn at(position: u64, extent: &Self) -> Self {
        let mut index = *extent;
        let mut rest = position;
        for (at, &side) in index.at[..extent.as_slice().len()].iter_mut().zip(extent.as_slice()).rev() {
            let side = u64::try_from(side).unwrap_or(1).max(1);
            *at = i32::try_from(rest % side).expect("less than a side");
            rest /= side;
        }
        index
    }
}

impl GroupIndex for Index {
    fn of(pe: Pe) -> Self {
        Self::one(i32::try_from(pe.0).expect("a job has fewer than 2^31 PEs"))
    }

    fn pe(&self) -> Option<u32> {
        if self.dims == 1 { u32::try_from(self.at[0]).ok() } else { None }
    }
}
