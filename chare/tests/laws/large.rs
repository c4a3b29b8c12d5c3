//! Reductions of large vectors, which are pipelined; and that memory that can be shared or moved is not copied.

use std::collections::{BTreeMap, BTreeSet};

use charm4rs::prelude::*;
use charm4rs::reduce::{ByElement, MergeItems, Reducer, Sink};
use charm4rs::testing::{SimOptions, simulate};
use proptest::prelude::*;

use crate::{law, on_threads, shapes, simulated};

/// The size of a piece; if it changes in the library, the boundaries below are less interesting, not wrong.
const PIECE: usize = 64 << 10;

/// A number that depends on all three arguments, small enough that sums of floating-point numbers are exact.
fn number(seed: u64, element: usize, item: usize) -> u8 {
    let mixed = (seed ^ ((element as u64) << 40) ^ item as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0] % 4
}

/// Folds each column of the rows, in order.
fn fold<T: Copy>(rows: impl Iterator<Item = Vec<T>>, f: impl Fn(T, T) -> T) -> Vec<T> {
    rows.reduce(|a, b| a.iter().zip(&b).map(|(a, b)| f(*a, *b)).collect()).unwrap()
}

struct Rows;

/// Begins allreduces of vectors and payloads, all at once; then compares all results with a fold.
macro_rules! check {
    ($this:ident, $seed:ident, $len:expr, $n:ident: $($reducer:ident $t:ty, |$x:ident| $make:expr, |$a:ident, $b:ident| $op:expr;)*) => {
        $(
            let row = |element: usize| -> Vec<$t> {
                (0..$len(size_of::<$t>())).map(|i| number($seed, element, i)).map(|$x| $make).collect()
            };
            let own = row($this.index());
            let $reducer = ($this.allreduce(own, reduce::$reducer), row);
        )*
        $(
            let (result, row) = $reducer;
            let expected = fold((0..$n).map(row), |$a: $t, $b: $t| $op);
            assert!(result.await == expected, "{} of {} {}", stringify!($reducer), expected.len(), stringify!($t));
        )*
    };
}

/// The mean of each column.
struct Means;

impl MergeItems<f64> for Means {
    fn merge_items(&self, a: f64, b: f64) -> f64 {
        a + b
    }
}

impl Reducer<Payload<f64>> for Means {
    type Partial = Payload<f64>;
    type Output = Payload<f64>;
    fn start(&self, value: Payload<f64>) -> Payload<f64> {
        value
    }
    fn merge(&self, mut a: Payload<f64>, b: Payload<f64>) -> Payload<f64> {
        a.iter_mut().zip(&*b).for_each(|(a, b)| *a += b);
        a
    }
    fn finish(&self, mut partial: Payload<f64>, count: u64) -> Payload<f64> {
        partial.iter_mut().for_each(|sum| *sum /= count as f64);
        partial
    }
    fn by_element() -> Option<ByElement<Self, Payload<f64>>> {
        Some(ByElement::new())
    }
}

#[chare(index = usize)]
impl Rows {
    #[init]
    fn new() -> Self {
        Self
    }
    /// Every reducer, on vectors of about `bytes` bytes and `more` items.
    #[entry]
    async fn every(this: This<Self>, n: usize, bytes: usize, more: isize, seed: u64) {
        let len = |size: usize| (bytes / size).saturating_add_signed(more);
        check! { this, seed, len, n:
            sum f64, |x| f64::from(x), |a, b| a + b;
            product u128, |x| u128::from(x), |a, b| a.wrapping_mul(b);
            min i16, |x| i16::from(x) - 2, |a, b| a.min(b);
            max f32, |x| f32::from(x), |a, b| a.max(b);
            all bool, |x| x > 0, |a, b| a && b;
            any bool, |x| x > 2, |a, b| a || b;
            odd bool, |x| x > 1, |a, b| a ^ b;
            bit_and u8, |x| x | 8, |a, b| a & b;
            bit_or u32, |x| u32::from(x) << 20, |a, b| a | b;
            bit_xor i64, |x| i64::from(x) - 1, |a, b| a ^ b;
        }
        let row = |element| (0..len(8)).map(|i| f64::from(number(seed, element, i))).collect::<Vec<_>>();
        let cubes = |element| (0..len(24)).map(|i| [f64::from(number(seed, element, i)); 3]).collect::<Payload<_>>();
        let sums = fold((0..n).map(row), |a, b| a + b);
        let (sum, means) = (
            this.allreduce(Payload::from(row(this.index())), reduce::sum),
            this.allreduce(Payload::from(row(this.index())), Means),
        );
        let greatest = |a: [f64; 3], b: [f64; 3]| [a[0].max(b[0]), a[1].min(b[1]), a[2] + b[2]];
        let each = this.allreduce(cubes(this.index()), reduce::each(greatest));
        assert!(*sum.await == *sums);
        assert!(*means.await == *sums.iter().map(|sum| sum / n as f64).collect::<Vec<_>>());
        assert!(*each.await == *fold((0..n).map(|element| cubes(element).to_vec()), greatest));
    }
    #[entry]
    fn to_promises(&self, cx: &mut Cx<Self>, vec: Promise<Vec<u64>>, payload: Promise<Payload<u64>>, len: usize) {
        cx.contribute(vec![cx.index() as u64; len], reduce::sum, vec);
        cx.contribute(Payload::from(vec![cx.index() as u64; len]), reduce::max, payload);
    }
    /// Reductions of these lengths, one after the other, to one sink.
    #[entry]
    fn lengths(&self, cx: &mut Cx<Self>, lengths: Vec<usize>, sink: Sink<Payload<u32>>) {
        for len in lengths {
            cx.contribute(Payload::from(vec![1u32; len]), reduce::sum, sink.clone());
        }
    }
    #[entry]
    fn leave(&self, cx: &mut Cx<Self>) {
        cx.destroy();
    }
    #[entry]
    async fn total(this: This<Self>, len: usize) -> Vec<u64> {
        this.allreduce(vec![this.index() as u64; len], reduce::sum).await
    }
    /// Whether a result has the memory of the contribution.
    #[entry]
    async fn in_place(this: This<Self>, len: usize) -> (bool, bool) {
        let vec = vec![1.0; len];
        let payload = Payload::<u8>::zeroed(len);
        let (vec_at, payload_at) = (vec.as_ptr(), payload.as_ptr());
        let (vec, payload) = (this.allreduce(vec, reduce::sum), this.allreduce(payload, reduce::bit_or));
        let (vec, payload) = (vec.await, payload.await);
        (vec.as_ptr() == vec_at, payload.as_ptr() == payload_at)
    }
    #[entry]
    fn unlike(&self, cx: &mut Cx<Self>, lengths: (usize, usize), to: Promise<Vec<f64>>) {
        let len = if cx.index() == 2 { lengths.1 } else { lengths.0 };
        cx.contribute(vec![0.0; len], reduce::sum, to);
    }
    #[entry]
    fn reducers_differ(&self, cx: &mut Cx<Self>, len: usize, to: Promise<Vec<f64>>) {
        if cx.index() == 2 {
            cx.contribute(vec![0.0; len], reduce::max, to);
        } else {
            cx.contribute(vec![0.0; len], reduce::sum, to);
        }
    }
    #[entry]
    fn place(&self, cx: &mut Cx<Self>, row: Payload<u8>) -> (u32, usize) {
        (cx.job().layout().process_of(cx.pe()), row.as_ptr().addr())
    }
}

struct Ear {
    heard: Vec<usize>,
}

#[chare(index = usize)]
impl Ear {
    #[init]
    fn new() -> Self {
        Self { heard: Vec::new() }
    }
    #[entry]
    fn hear(&mut self, row: Payload<u32>) {
        assert!(row.iter().all(|&x| x == 5));
        self.heard.push(row.len());
    }
    #[entry]
    fn heard(&self) -> Vec<usize> {
        self.heard.clone()
    }
}

struct Keeper {
    kept: Payload<u64>,
}

#[chare(index = usize)]
impl Keeper {
    #[init]
    fn new(cx: &mut Cx<Self>, len: usize) -> Self {
        Self { kept: vec![cx.index() as u64; len].into() }
    }
    #[entry]
    fn give(&self) -> Payload<u64> {
        self.kept.clone()
    }
    #[entry]
    fn take(&mut self, row: Payload<u64>) {
        self.kept = row;
    }
    #[entry]
    fn place(&self) -> usize {
        self.kept.as_ptr().addr()
    }
}

#[test]
fn vectors_of_every_length_are_reduced_like_a_fold() {
    for (bytes, more) in [
        (0, 0),
        (0, 1),
        (1 << 10, -1),
        (1 << 10, 0),
        (PIECE, -1),
        (PIECE, 0),
        (PIECE, 1),
        (2 * PIECE, 0),
        (3 * PIECE, 77),
    ] {
        let job = move |job: Job| async move {
            job.array::<Rows>(5, ()).all().every(5, bytes, more, 1).done().await;
        };
        on_threads(job);
        simulated(6, job);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_reductions_equal_a_fold(
        (pes, ppn, n) in (1u32..12, 1u32..5, 1usize..9),
        (bytes, more) in (prop_oneof![0..3000usize, (1..4usize).prop_map(|n| n * PIECE), 0..4 * PIECE], -2isize..3),
        seed: u64,
    ) {
        let outcome = simulate(&SimOptions::new(pes, seed).ppn(ppn), |job| async move {
            job.array::<Rows>(n, ()).all().every(n, bytes, more, seed).done().await;
        });
        prop_assert_eq!(outcome.unwrap(), 0);
    }
}

#[test]
fn a_large_result_goes_to_promises_as_a_vector_and_as_a_payload() {
    law(|job| async move {
        for len in [127, 8_192, 30_000] {
            let ((a, vec), (b, payload)) = (job.promise(), job.promise());
            job.array::<Rows>(4, ()).all().to_promises(a, b, len);
            assert_eq!(vec.await, vec![6; len]);
            assert_eq!(*payload.await, *vec![3; len]);
        }
    });
}

#[test]
fn results_of_any_size_reach_a_sink_in_the_order_of_their_reductions() {
    simulated(120, |job| async move {
        let (rows, ears) = (job.array::<Rows>(5, ()), job.array::<Ear>(3, ()));
        let lengths = vec![40_000, 1, 300, 0, 20_000, 16_384, 2];
        rows.all().lengths(lengths.clone(), ears.at(0).hear_sink());
        rows.all().lengths(lengths.clone(), ears.all().hear_sink());
        job.quiescence().await;
        let heard = ears.all().heard().await;
        // On the root's PE: on their way to other PEs, small results may overtake large ones.
        assert_eq!(heard[0], [&lengths[..], &lengths].concat());
        assert_eq!((heard[1].len(), heard[2].len()), (7, 7));
    });
}

#[test]
fn a_root_without_elements_lets_another_pe_end_its_large_reductions() {
    simulated(120, |job| async move {
        let rows = job.array::<Rows>(9, ());
        rows.at(0).leave();
        rows.at(1).leave();
        let sums: Vec<_> = (2..9).map(|i| rows.at(i).total(20_000).call()).collect();
        for sum in sums {
            assert_eq!(sum.await, vec![35; 20_000]);
        }
        let ((a, vec), (b, payload)) = (job.promise(), job.promise());
        (2..9).for_each(|i| drop(rows.at(i).to_promises(a, b, 10_000)));
        assert_eq!((vec.await, &*payload.await), (vec![35; 10_000], &*vec![8; 10_000]));
    });
}

#[test]
fn a_single_contribution_and_its_result_have_the_same_memory() {
    for ppn in [1, 3] {
        simulate(&SimOptions::new(3, 1).ppn(ppn), |job| async move {
            for len in [2_000, PIECE, 5 * PIECE + 3] {
                assert_eq!(job.array::<Rows>(1, ()).at(0).in_place(len).await, (true, true));
            }
        })
        .unwrap();
    }
}

#[test]
fn vectors_of_different_lengths_and_different_reducers_end_the_job_with_an_error_that_names_them() {
    let piece = PIECE / 8;
    for options in shapes(24) {
        for lengths in [(piece, piece + 1), (3 * piece, piece), (1, 2 * piece), (2 * piece, 0), (200, 201)] {
            let failure = simulate(&options, move |job| async move {
                let (to, sum) = job.promise();
                job.array::<Rows>(6, ()).all().unlike(lengths, to);
                sum.await;
            });
            let failure = failure.unwrap_err();
            assert!(failure.code == 1 && failure.what.contains("different lengths"), "{failure} {options:?}");
        }
        let failure = simulate(&options, |job| async move {
            let (to, sum) = job.promise();
            job.array::<Rows>(6, ()).all().reducers_differ(20_000, to);
            sum.await;
        });
        let failure = failure.unwrap_err();
        assert!(failure.code == 1 && failure.what.contains("different types"), "{failure} {options:?}");
    }
}

#[test]
fn all_elements_of_a_process_share_a_broadcasts_payload() {
    simulated(36, |job| async move {
        let rows = job.array::<Rows>(40, ());
        let row = Payload::<u8>::zeroed(100_000);
        let places = rows.all().place(row.clone()).await;
        let by_process: BTreeMap<u32, BTreeSet<usize>> =
            places.iter().fold(BTreeMap::new(), |mut map, (process, at)| {
                map.entry(*process).or_default().insert(*at);
                map
            });
        assert!(by_process.values().all(|places| places.len() == 1), "{by_process:?}");
        assert!(by_process[&0].contains(&row.as_ptr().addr()), "the caller's process shares the caller's");
    });
}

#[test]
fn results_of_a_broadcast_keep_the_elements_memory_inside_a_process() {
    law(|job| async move {
        let keepers = job.array::<Keeper>(10, 10_000);
        let rows = keepers.all().give().await;
        assert!(rows.iter().enumerate().all(|(i, row)| **row == *vec![i as u64; 10_000]));
        if job.layout().processes() == 1 {
            let places: Vec<usize> = rows.iter().map(|row| row.as_ptr().addr()).collect();
            assert_eq!(places, keepers.all().place().await);
        }
    });
}

#[test]
fn a_job_may_end_while_payloads_are_on_their_way() {
    law(|job| async move {
        let keepers = job.array::<Keeper>(10, 50_000);
        keepers.all().take(Payload::zeroed(50_000));
        job.exit(0);
    });
}
