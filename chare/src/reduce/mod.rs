//! Reducers, which merge the parts that elements contribute into one result, and sinks, the destinations of results.
//!
//! | reducer | parts | result |
//! |---|---|---|
//! | [`sum`], [`product`], [`min`], [`max`] | numbers; `Vec`, [`Payload`](crate::Payload) and arrays of them, element by element | the same type |
//! | [`all`], [`any`], [`odd`] | `bool` (odd: logical exclusive or); `Vec` and arrays of them | the same type |
//! | [`bit_and`], [`bit_or`], [`bit_xor`] | integers; `Vec`, `Payload` and arrays of them | the same type |
//! | [`each`]`(f)` | `Vec` and `Payload` | the function merges two items |
//! | [`gather`] | `(K, V)` | `Vec<(K, V)>`, sorted by `K` |
//! | [`set`] | `T: Ord` | `BTreeSet<T>` |
//! | [`count`], [`barrier`] | `()` | the number of contributors; nothing |
//! | [`statistics`] | `f64` | [`Statistics`] |
//! | [`with`]`(f)` | any | the function merges two parts |
//! | `(r, s)` | `(V, W)` | `(result of r, result of s)` |
//!
//! The order in which parts are merged is not determined: the last bits of a floating-point sum may differ from run to run. All contributors of an
//! allreduce get the same result, to the last bit.

mod elements;
pub(crate) mod sink;

use std::collections::BTreeSet;
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

pub use self::elements::{By, Each, Elementwise, MergeItems, Operation, Run, each};
pub use self::sink::{IntoSink, Sink};
use crate::runtime::chare::Arguments;
pub use crate::runtime::{ByElement, Reducer};

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident $op:ident [$($t:ty)*] |$a:ident, $b:ident| $e:expr $(, of none $none:expr)?;)*) => {$(
        #[doc(hidden)]
        #[derive(Debug)]
        pub enum $op {}
        operations!(for $op [$($t)*] |$a, $b| $e $(, of none $none)?);
        $(#[$doc])*
        #[allow(non_upper_case_globals, reason = "reducers read as functions do: `reduce::sum`")]
        pub const $name: By<$op> = By(PhantomData);
    )*};
    (for $op:ident [$($t:ty)*] |$a:ident, $b:ident| $e:expr, of none $none:expr) => {
        $(impl Operation<$t> for $op {
            const OF_NONE: Option<$t> = Some($none);
            #[inline]
            fn apply($a: $t, $b: $t) -> $t {
                $e
            }
        })*
    };
    (for $op:ident [$($t:ty)*] |$a:ident, $b:ident| $e:expr) => {
        $(impl Operation<$t> for $op {
            #[inline]
            fn apply($a: $t, $b: $t) -> $t {
                $e
            }
        })*
    };
}

operations! {
    /// The sum; integers wrap around.
    sum Sum [u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize] |a, b| a.wrapping_add(b), of none 0;
    /// The product; integers wrap around.
    product Product [u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize] |a, b| a.wrapping_mul(b), of none 1;
    /// The smallest value.
    min Min [u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize] |a, b| a.min(b);
    /// The largest value.
    max Max [u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize] |a, b| a.max(b);
    /// Whether all values are true.
    all All [bool] |a, b| a && b, of none true;
    /// Whether any value is true.
    any Any [bool] |a, b| a || b, of none false;
    /// Whether an odd number of values is true.
    odd Odd [bool] |a, b| a ^ b, of none false;
    /// Bitwise and.
    bit_and BitAnd [u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize] |a, b| a & b, of none !0;
    /// Bitwise or.
    bit_or BitOr [u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize] |a, b| a | b, of none 0;
    /// Bitwise exclusive or.
    bit_xor BitXor [u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize] |a, b| a ^ b, of none 0;
}

operations!(for Sum [f32 f64] |a, b| a + b, of none 0.0);
operations!(for Product [f32 f64] |a, b| a * b, of none 1.0);
operations!(for Min [f32 f64] |a, b| a.min(b));
operations!(for Max [f32 f64] |a, b| a.max(b));

macro_rules! reducers {
    ($($(#[$doc:meta])* $name:ident $kind:ident [$($g:tt)*] $v:ty => $p:ty => $o:ty,
        start |$s:ident| $start:expr, merge |$a:ident, $b:ident| $merge:expr, finish |$f:ident, $n:ident| $finish:expr
        $(, of none $none:expr)?;)*) => {$(
        #[doc(hidden)]
        #[derive(Clone, Copy, Debug)]
        pub struct $kind;
        $(#[$doc])*
        #[allow(non_upper_case_globals, reason = "reducers read as functions do: `reduce::sum`")]
        pub const $name: $kind = $kind;
        impl<$($g)*> Reducer<$v> for $kind {
            type Partial = $p;
            type Output = $o;
            fn start(&self, $s: $v) -> $p {
                $start
            }
            fn merge(&self, $a: $p, $b: $p) -> $p {
                $merge
            }
            fn finish(&self, $f: $p, $n: u64) -> $o {
                $finish
            }
            $(fn empty(&self) -> Option<$o> {
                Some($none)
            })?
        }
    )*};
}

reducers! {
    /// All parts, sorted by their keys. An element's index is the natural key.
    gather Gather [K: Arguments + Ord, V: Arguments] (K, V) => Vec<(K, V)> => Vec<(K, V)>,
        start |pair| vec![pair],
        merge |a, b| { let mut a = a; a.extend(b); a },
        finish |p, _n| { let mut p = p; p.sort_by(|x, y| x.0.cmp(&y.0)); p }, of none Vec::new();
    /// The set of all parts.
    set Set [T: Arguments + Ord] T => BTreeSet<T> => BTreeSet<T>,
        start |value| BTreeSet::from([value]),
        merge |a, b| { let mut a = a; a.extend(b); a },
        finish |p, _n| p, of none BTreeSet::new();
    /// The number of contributors.
    count Count [] () => () => u64,
        start |_value| (), merge |_a, _b| (), finish |_p, n| n, of none 0;
    /// No value: the result arrives when all have contributed.
    barrier Barrier [] () => () => (),
        start |_value| (), merge |_a, _b| (), finish |_p, _n| (), of none ();
    /// Count, mean, variance and extremes of numbers.
    statistics Describe [] f64 => Statistics => Statistics,
        start |x| Statistics { count: 1, mean: x, sum_of_squares: 0.0, min: x, max: x },
        merge |a, b| a.with(&b),
        finish |p, _n| p;
}

/// The result of [`statistics`].
///
/// ```
/// use charm4rs::reduce::{self, Reducer};
/// let parts = [1.0, 2.0, 3.0].map(|x| reduce::statistics.start(x));
/// let all = parts.into_iter().reduce(|a, b| reduce::statistics.merge(a, b)).unwrap();
/// assert_eq!((all.count, all.mean, all.variance()), (3, 2.0, 1.0));
/// ```
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Statistics {
    /// The number of numbers.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// The sum of the squares of their distances from the mean.
    pub sum_of_squares: f64,
    /// The smallest number.
    pub min: f64,
    /// The largest number.
    pub max: f64,
}

impl Statistics {
    /// The sample variance; 0 for fewer than two numbers.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a count of elements is far below 2^52")]
    pub fn variance(&self) -> f64 {
        if self.count < 2 { 0.0 } else { self.sum_of_squares / (self.count - 1) as f64 }
    }

    /// Merges two samples (Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm, 1979).
    #[allow(clippy::cast_precision_loss, reason = "a count of elements is far below 2^52")]
    fn with(&self, other: &Self) -> Self {
        let (a, b) = (self.count as f64, other.count as f64);
        let distance = other.mean - self.mean;
        Self {
            count: self.count + other.count,
            mean: self.mean + distance * b / (a + b),
            sum_of_squares: self.sum_of_squares + other.sum_of_squares + distance * distance * a * b / (a + b),
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

/// A reducer of your own; see [`with`].
#[derive(Clone, Copy, Debug)]
pub struct With<F>(F);

/// Merges parts by a function, which must be associative and commutative.
///
/// ```
/// # use charm4rs::prelude::*;
/// struct Runner;
///
/// #[chare(index = usize)]
/// impl Runner {
///     #[init]
///     fn new() -> Self { Self }
///     #[entry]
///     fn last_name(&mut self, cx: &mut Cx<Self>, to: Promise<String>) {
///         let name = ["Ada", "Grace", "Edsger"][cx.index()].to_string();
///         cx.contribute(name, reduce::with(|a: String, b| a.max(b)), to);
///     }
/// }
/// # charm4rs::testing::threads(2, |job| async move {
///
/// let (promise, last) = job.promise();
/// job.array::<Runner>(3, ()).all().last_name(promise);
/// assert_eq!(last.await, "Grace");
/// # }).unwrap();
/// ```
pub fn with<V, F: Fn(V, V) -> V + 'static>(merge: F) -> With<F> {
    With(merge)
}

impl<V: Arguments, F: Fn(V, V) -> V + 'static> Reducer<V> for With<F> {
    type Partial = V;
    type Output = V;
    fn start(&self, value: V) -> V {
        value
    }
    fn merge(&self, a: V, b: V) -> V {
        (self.0)(a, b)
    }
    fn finish(&self, partial: V, _: u64) -> V {
        partial
    }
}

impl<V, W, R: Reducer<V>, S: Reducer<W>> Reducer<(V, W)> for (R, S) {
    type Partial = (R::Partial, S::Partial);
    type Output = (R::Output, S::Output);
    fn start(&self, (v, w): (V, W)) -> Self::Partial {
        (self.0.start(v), self.1.start(w))
    }
    fn merge(&self, a: Self::Partial, b: Self::Partial) -> Self::Partial {
        (self.0.merge(a.0, b.0), self.1.merge(a.1, b.1))
    }
    fn finish(&self, (p, q): Self::Partial, n: u64) -> Self::Output {
        (self.0.finish(p, n), self.1.finish(q, n))
    }
    fn empty(&self) -> Option<Self::Output> {
        Some((self.0.empty()?, self.1.empty()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold<V, R: Reducer<V>>(reducer: R, values: impl IntoIterator<Item = V>) -> R::Output {
        let parts: Vec<_> = values.into_iter().map(|v| reducer.start(v)).collect();
        let n = parts.len() as u64;
        let merged = parts.into_iter().reduce(|a, b| reducer.merge(a, b)).unwrap();
        reducer.finish(merged, n)
    }

    #[test]
    fn reducers_do_what_their_names_say() {
        assert_eq!(fold(sum, [1, 2, 3]), 6);
        assert_eq!(fold(sum, [[1.5, 0.0], [1.0, 2.0]]), [2.5, 2.0]);
        assert_eq!(fold(product, [vec![2u8, 3], vec![5, 7]]), [10, 21]);
        assert_eq!(fold(min, [3i64, -1, 2]), -1);
        assert_eq!(fold(max, [0.5f32, 0.25]), 0.5);
        assert!(!fold(all, [true, false]) && fold(any, [true, false]) && fold(odd, [true, false]));
        assert_eq!(fold(bit_or, [1u8, 6]), 7);
        assert_eq!(fold(gather, [(2, 'b'), (1, 'a')]), [(1, 'a'), (2, 'b')]);
        assert_eq!(fold(set, [2, 1, 2]), BTreeSet::from([1, 2]));
        assert_eq!(fold(count, [(), (), ()]), 3);
        assert_eq!(fold((sum, max), [(1, 5), (2, 4)]), (3, 5));
        assert_eq!(fold(with(|a: String, b| a + &b), ["x".into(), "y".into()]), "xy");
    }

    #[test]
    fn statistics_do_not_depend_on_how_the_parts_are_merged() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i * i % 17)).collect();
        let whole = fold(statistics, values.clone());
        let (left, right) = values.split_at(31);
        let halves = statistics.merge(fold(statistics, left.iter().copied()), fold(statistics, right.iter().copied()));
        assert!((whole.variance() - halves.variance()).abs() < 1e-9 && (whole.mean - halves.mean).abs() < 1e-9);
        assert_eq!((whole.min, whole.max, whole.count), (halves.min, halves.max, 100));
    }
}
