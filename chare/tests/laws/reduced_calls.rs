//! Calls of all elements whose results are reduced on their way to the caller.

use std::collections::BTreeSet;
use std::time::Duration;

use charm4rs::prelude::*;
use charm4rs::testing::processes;

use crate::law;

struct Sample {
    value: u64,
    kept: Option<Promise<u64>>,
}

#[chare(index = usize)]
impl Sample {
    #[init]
    fn new(cx: &mut Cx<Self>) -> Self {
        Self { value: cx.index() as u64 + 1, kept: None }
    }
    #[entry]
    fn value(&self) -> u64 {
        self.value
    }
    #[entry]
    fn row(&self, len: usize) -> Payload<f64> {
        vec![self.value as f64; len].into()
    }
    #[entry]
    fn described(&self, cx: &mut Cx<Self>) -> ((usize, String), f64) {
        ((cx.index(), format!("no. {}", self.value)), self.value as f64)
    }
    #[entry]
    async fn later(this: This<Self>) -> u64 {
        // They end in another order than they began.
        this.sleep(Duration::from_millis(7 * this.index() as u64 % 5)).await;
        this.with(|sample| sample.value)
    }
    #[entry]
    fn fussy(&self, wrong: u64) -> u64 {
        assert_ne!(self.value, wrong, "not this one");
        self.value
    }
    #[entry]
    fn contributes(&mut self, cx: &mut Cx<Self>, to: Promise<u64>) -> u64 {
        if let Some(kept) = self.kept.replace(to) {
            cx.contribute(self.value, reduce::sum, kept);
        }
        1
    }
    #[entry]
    async fn asks(_this: This<Self>, of: Collection<Sample>) -> u64 {
        of.all().value().reduce(reduce::sum).await
    }
    #[entry]
    fn nothing(&self) {}
}

const N: u64 = 23;
const ELEMENTS: usize = 23;

#[test]
fn the_results_of_a_call_are_reduced_as_a_fold_does() {
    law(|job| async move {
        let samples = job.array::<Sample>(ELEMENTS, ());
        let all = samples.all();
        assert_eq!(all.value().reduce(reduce::sum).await, N * (N + 1) / 2);
        assert_eq!(all.value().reduce(reduce::max).await, N);
        assert_eq!(all.value().reduce(reduce::set).await, (1..=N).collect::<BTreeSet<_>>());
        assert_eq!(all.value().reduce(reduce::with(|a: u64, b: u64| a ^ b)).await, (1..=N).fold(0, |a, b| a ^ b));
        assert_eq!(all.nothing().reduce(reduce::count).await, N);
        all.nothing().reduce(reduce::barrier).await;
        let (rows, statistics) = all.described().reduce((reduce::gather, reduce::statistics)).await;
        assert!(
            rows.into_iter().enumerate().all(|(at, (index, text))| index == at && text == format!("no. {}", at + 1))
        );
        assert_eq!((statistics.count, statistics.max), (N, N as f64));
        for len in [0, 10, 3_000] {
            let sums = all.row(len).reduce(reduce::sum).await;
            assert_eq!(&sums[..], vec![(N * (N + 1) / 2) as f64; len]);
        }
        assert_eq!(all.later().priority(-1).reduce(reduce::sum).await, N * (N + 1) / 2);
        assert_eq!(all.value().reduce(reduce::min).timeout(Duration::from_secs(1_000)).await, Ok(1));
    });
}

#[test]
fn groups_sections_and_sparse_arrays_are_reduced_by_whichever_pe_asks() {
    law(|job| async move {
        let (samples, pes) = (job.array::<Sample>(ELEMENTS, ()), u64::from(job.pes()));
        let group = job.group::<Sample>(());
        assert_eq!(group.all().value().reduce(reduce::sum).await, pes * (pes + 1) / 2);
        let sparse = job.sparse::<Sample>();
        (0..9).for_each(|at| sparse.insert(at * 1_000, ()));
        sparse.done_inserting().await;
        assert_eq!(sparse.all().value().reduce(reduce::max).await, 8_001);
        let odd = samples.section((0..ELEMENTS).filter(|at| at % 2 == 1));
        let sum: u64 = (1..=N).filter(|value| value % 2 == 0).sum();
        assert_eq!(odd.all().value().reduce(reduce::sum).await, sum);
        // Every member of the section asks for its sum, all at once; so does every PE.
        assert_eq!(odd.all().asks(odd).reduce(reduce::set).await, BTreeSet::from([sum]));
        assert_eq!(group.all().asks(samples).reduce(reduce::min).await, N * (N + 1) / 2);
    });
}

#[test]
fn a_collection_without_elements_gives_the_reducers_result_of_nothing() {
    law(|job| async move {
        let none = job.array::<Sample>(0, ());
        let sparse = job.sparse::<Sample>();
        sparse.done_inserting().await;
        for all in [none.all(), sparse.all(), job.array::<Sample>(5, ()).section([]).all()] {
            assert_eq!(all.value().reduce(reduce::sum).await, 0);
            assert_eq!(all.value().reduce(reduce::product).await, 1);
            assert_eq!(all.nothing().reduce(reduce::count).await, 0);
            all.nothing().reduce(reduce::barrier).await;
            assert!(all.value().reduce(reduce::set).await.is_empty());
            let error = all.value().reduce(reduce::max).checked().await.unwrap_err();
            assert!(matches!(&error, CallError::NoResults { entry, .. } if entry == "value"), "{error}");
            let by = 2;
            let error = all.value().reduce(reduce::with(move |a, b| a * by + b)).checked().await.unwrap_err();
            assert!(matches!(error, CallError::NoResults { .. }), "{error}");
        }
    });
}

#[test]
fn a_reducer_with_state_is_used_by_its_caller() {
    law(|job| async move {
        let samples = job.array::<Sample>(ELEMENTS, ());
        let modulus = u64::from(job.pes()) + 7;
        let sum = samples.all().value().reduce(reduce::with(move |a: u64, b| (a + b) % modulus)).await;
        assert_eq!(sum, N * (N + 1) / 2 % modulus);
    });
}

#[test]
fn an_element_or_a_reducer_that_fails_fails_the_reduction_alone() {
    law(|job| async move {
        let samples = job.array::<Sample>(ELEMENTS, ());
        let error = samples.all().fussy(7).reduce(reduce::sum).checked().await.unwrap_err();
        assert!(error.to_string().contains("not this one"), "{error}");
        let picky = reduce::with(|a: u64, b: u64| if a.max(b) == N { panic!("too much") } else { a.max(b) });
        let error = samples.all().value().reduce(picky).checked().await.unwrap_err();
        assert!(matches!(&error, CallError::Panicked { message, .. } if message.contains("too much")), "{error}");
        assert_eq!(samples.all().fussy(0).reduce(reduce::sum).await, N * (N + 1) / 2);
        samples.destroy();
        job.quiescence().await;
        let error = samples.all().value().reduce(reduce::sum).checked().await.unwrap_err();
        assert!(matches!(error, CallError::Destroyed { .. }), "{error}");
    });
}

#[test]
fn what_elements_contribute_themselves_is_another_reduction() {
    law(|job| async move {
        let samples = job.array::<Sample>(ELEMENTS, ());
        let mut sums = Vec::new();
        let mut counts = Vec::new();
        for _ in 0..5 {
            let (to, sum) = job.promise();
            counts.push(samples.all().contributes(to).reduce(reduce::sum));
            sums.push(sum);
        }
        assert_eq!(join_all(counts).await, [N; 5]);
        drop(sums.pop()); // the promise of the last call is kept, and not sent to
        assert_eq!(join_all(sums).await, [N * (N + 1) / 2; 4]);
    });
}

#[test]
fn results_are_merged_between_processes() {
    let job = |job: Job| async move {
        let samples = job.array::<Sample>(ELEMENTS, ());
        assert_eq!(samples.all().row(50_000).reduce(reduce::sum).await[49_999], (N * (N + 1) / 2) as f64);
    };
    for transport in ["shm", "tcp"] {
        assert_eq!(processes(4, transport, job).unwrap(), 0);
    }
}
