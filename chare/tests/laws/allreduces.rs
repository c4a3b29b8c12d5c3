//! Small results for every contributor, which PEs compute by exchanging their parts.

use charm4rs::prelude::*;
use charm4rs::testing::simulate;

use crate::{law, shapes, simulated};

/// Floating-point numbers whose sum depends on the order in which they are added.
fn rough(element: u64, round: u64) -> f64 {
    let mixed = (element << 32 | round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    f64::from(1 + u32::try_from(mixed >> 33).unwrap()) * 10f64.powi(i32::try_from(mixed % 31).unwrap() - 15)
}

struct Number;

#[chare(index = u64)]
impl Number {
    #[init]
    fn new() -> Self {
        Self
    }
    /// The bits of the results of many rounds, all of which are in progress at once.
    #[entry]
    async fn sums(this: This<Self>, part: Option<Collection<Self>>, rounds: u64) -> Vec<u64> {
        let over = part.unwrap_or(this.collection());
        let give = |round| this.allreduce_in(&over, rough(this.index(), round), reduce::sum);
        let sums: Vec<_> = (0..rounds).map(give).collect();
        let mut bits = Vec::new();
        for sum in sums {
            bits.push(sum.await.to_bits());
        }
        bits
    }
    /// Leaves after this many rounds.
    #[entry]
    async fn some(this: This<Self>, rounds: u64) -> Vec<(u64, u64)> {
        let give = |round| this.allreduce((1u64, rough(this.index(), round)), (reduce::sum, reduce::sum));
        let sums: Vec<_> = (0..rounds).map(give).collect();
        let mut results = Vec::new();
        for sum in sums {
            let (count, sum) = sum.await;
            results.push((count, sum.to_bits()));
        }
        this.destroy();
        results
    }
    /// Long rows, for a reducer that only concatenates them.
    #[entry]
    async fn rows(this: This<Self>, rounds: u64) -> Vec<Payload<u64>> {
        let longer = |a: Payload<u64>, b: Payload<u64>| a.iter().chain(&*b).copied().collect::<Payload<u64>>();
        let mut results = Vec::new();
        for _ in 0..rounds {
            let row: Payload<u64> = vec![this.index(); 200].into();
            results.push(this.allreduce(row, reduce::with(longer)).await);
        }
        this.destroy();
        results
    }
    #[entry]
    async fn counted(this: This<Self>) -> u64 {
        this.allreduce((), reduce::count).await
    }
    #[entry]
    async fn unlike(this: This<Self>, how: u8) {
        let odd = this.index() % 2 == 1;
        match (how, odd) {
            (0, true) => drop(this.allreduce(vec![1u64; 1_000], reduce::sum).await),
            (0, false) => drop(this.allreduce(vec![1u64; 10], reduce::sum).await),
            (1, true) => drop(this.allreduce(String::from("a"), reduce::with(|a, _| a)).await),
            (1, false) => drop(this.allreduce(vec![1.5f64; 3], reduce::sum).await),
            (2, true) => drop(this.allreduce(vec![1.5f64; 2], reduce::sum).await),
            _ => drop(this.allreduce(vec![1.5f64; 3], reduce::sum).await),
        }
    }
}

fn numbers(job: &Job, count: u64) -> Collection<Number> {
    job.array::<Number>(count, ())
}

#[test]
fn all_contributors_get_the_same_bits_in_any_order_of_arrival() {
    law(|job| async move {
        for count in [1, 6, 24, 60] {
            let all = numbers(&job, count);
            let bits = all.all().sums(None, 5).await;
            assert_eq!(bits.len() as u64, count);
            for (round, bit) in bits[0].iter().enumerate() {
                let sum: f64 = (0..count).map(|element| rough(element, round as u64)).sum();
                assert!((f64::from_bits(*bit) / sum - 1.0).abs() < 1e-12);
            }
            assert!(bits.iter().all(|other| *other == bits[0]));
        }
    });
}

#[test]
fn pes_without_elements_forward_values_that_they_cannot_merge() {
    simulated(240, |job| async move {
        let count = 26u64;
        let all = numbers(&job, count);
        // Rounds that empty neighbouring PEs, others, and in the end all but one.
        let rounds = |element: u64| match element {
            0..8 => element % 3,
            8..16 => 4,
            16..22 => 0,
            25 => 7,
            _ => 5,
        };
        let replies: Vec<_> = (0..count).map(|element| all.at(element).some(rounds(element)).call()).collect();
        let results = join_all(replies).await;
        for round in 0..7u64 {
            let there: Vec<u64> = (0..count).filter(|&element| rounds(element) > round).collect();
            let sum: f64 = there.iter().map(|&element| rough(element, round)).sum();
            let first = results[usize::try_from(there[0]).unwrap()][usize::try_from(round).unwrap()];
            assert_eq!(first.0, there.len() as u64);
            assert!((f64::from_bits(first.1) / sum - 1.0).abs() < 1e-12);
            for element in there {
                assert_eq!(results[usize::try_from(element).unwrap()][usize::try_from(round).unwrap()], first);
            }
        }
    });
}

#[test]
fn payloads_are_exchanged_too_and_forwarded_by_pes_without_elements() {
    simulated(120, |job| async move {
        let all = numbers(&job, 25);
        let replies: Vec<_> = (0..25).map(|element| all.at(element).rows((element + 1) / 10).call()).collect();
        let mut rows = join_all(replies).await;
        rows.retain(|rows| !rows.is_empty());
        assert_eq!(rows.len(), 16);
        let of = |row: &Payload<u64>| {
            let mut row: Vec<u64> = row.to_vec();
            row.sort_unstable();
            row
        };
        let expected = |from: u64| (from..25).flat_map(|element| vec![element; 200]).collect::<Vec<_>>();
        let first = &rows[15];
        assert_eq!((of(&first[0]), of(&first[1])), (expected(9), expected(19)));
        for other in &rows {
            assert!(other.iter().zip(first).all(|(a, b)| a[..] == b[..]));
        }
    });
}

#[test]
fn sections_exchange_among_their_own_pes() {
    simulated(120, |job| async move {
        let all = numbers(&job, 30);
        // The creator, PE 0, has no element of the second.
        let parts = [(0..30).step_by(3).collect::<Vec<_>>(), (17..29).collect()].map(|part| all.section(part));
        for part in parts {
            let bits = part.all().sums(Some(part), 3).await;
            assert!(bits.iter().all(|other| *other == bits[0]), "{bits:?}");
        }
        assert!(all.all().counted().await.into_iter().all(|count| count == 30));
        let sparse = job.sparse::<Number>();
        (0..9).for_each(|index| sparse.insert(index * index, ()));
        sparse.done_inserting().await;
        assert!(sparse.all().counted().await.into_iter().all(|count| count == 9));
    });
}

#[test]
fn contributions_that_cannot_be_merged_end_the_job() {
    for how in 0..3 {
        for options in shapes(48) {
            let outcome = simulate(&options, move |job| async move {
                numbers(&job, 48).all().unlike(how);
                job.promise::<()>().1.await;
            });
            let failure = outcome.unwrap_err();
            assert_eq!(failure.code, 1, "{failure}");
            assert!(failure.what.contains("vectors of different lengths"), "{options:?}: {failure}");
        }
    }
}

#[test]
fn a_reduction_with_different_receivers_ends_the_job() {
    struct Divided;

    #[chare(index = u64)]
    impl Divided {
        #[init]
        fn new() -> Self {
            Self
        }
        #[entry]
        async fn divided(this: This<Self>, to: Promise<u64>) {
            if this.index().is_multiple_of(2) {
                this.contribute(1u64, reduce::sum, to);
            } else {
                this.allreduce(1u64, reduce::sum).await;
            }
        }
    }

    for options in shapes(48) {
        let outcome = simulate(&options, |job| async move {
            let (to, sum) = job.promise();
            job.array::<Divided>(48, ()).all().divided(to);
            sum.await;
        });
        let failure = outcome.unwrap_err();
        assert!(failure.what.contains("for different receivers"), "{options:?}: {failure}");
    }
}
