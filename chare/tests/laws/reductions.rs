//! Reductions: every reducer, every sink, many at once.

use std::collections::BTreeSet;

use charm4rs::prelude::*;
use charm4rs::reduce::{Sink, Statistics};

use crate::{law, simulated};

type Several = (i64, (i64, (i64, (bool, (u64, u64)))));

struct Part {
    heard: Vec<i64>,
}

#[chare(index = usize)]
impl Part {
    #[init]
    fn new() -> Self {
        Self { heard: Vec::new() }
    }

    #[entry]
    fn numbers(&self, cx: &mut Cx<Self>, to: Promise<Several>) {
        let i = cx.index() as i64;
        let value = (i, (i + 1, (i, (i >= 0, (1u64 << i, 1u64 << i)))));
        use reduce::{all, bit_or, bit_xor, max, product, sum};
        cx.contribute(value, (sum, (product, (max, (all, (bit_or, bit_xor))))), to);
    }
    #[entry]
    fn gathered(&self, cx: &mut Cx<Self>, to: Promise<Vec<(usize, String)>>) {
        cx.contribute((cx.index(), cx.index().to_string()), reduce::gather, to);
    }
    #[entry]
    fn others(
        &self,
        cx: &mut Cx<Self>,
        set: Promise<BTreeSet<usize>>,
        (count, barrier): (Promise<u64>, Promise<()>),
        describe: Promise<Statistics>,
        words: Promise<String>,
        vectors: Promise<Vec<f64>>,
    ) {
        let i = cx.index();
        cx.contribute(i / 2, reduce::set, set);
        cx.contribute((), reduce::count, count);
        cx.contribute((), reduce::barrier, barrier);
        cx.contribute(i as f64, reduce::statistics, describe);
        cx.contribute(i.to_string(), reduce::with(|a: String, b: String| a.max(b)), words);
        cx.contribute(vec![i as f64, 1.0], reduce::sum, vectors);
    }
    #[entry]
    fn to_sink(&self, cx: &mut Cx<Self>, sink: Sink<i64>) {
        cx.contribute(1i64, reduce::sum, sink);
    }
    #[entry]
    fn hear(&mut self, x: i64) {
        self.heard.push(x);
    }
    #[entry]
    fn to_large_sink(&self, cx: &mut Cx<Self>, sink: Sink<Payload<i64>>) {
        cx.contribute(Payload::from(vec![1i64; 3_000]), reduce::sum, sink);
    }
    #[entry]
    fn hear_large(
        &self,
        first: Payload<u8>,
        text: String,
        to: Promise<(Vec<u8>, String, Vec<i64>)>,
        sum: Payload<i64>,
    ) {
        to.send((first.to_vec(), text, sum.to_vec()));
    }
    #[entry]
    fn hear_in_step(&self, cx: &mut Cx<Self>, step: i64, to: Promise<i64>, x: i64) {
        cx.contribute(step * x, reduce::sum, to);
    }
    #[entry]
    fn heard(&self) -> Vec<i64> {
        self.heard.clone()
    }
    #[entry]
    async fn rounds(this: This<Self>, rounds: i64) -> i64 {
        let mut x = this.index() as i64;
        for _ in 0..rounds {
            x = this.allreduce(x, reduce::max).await + 1;
        }
        x
    }
    #[entry]
    fn many(&self, cx: &mut Cx<Self>, to: Vec<Promise<i64>>) {
        for (n, to) in to.into_iter().enumerate() {
            cx.contribute(n as i64, reduce::sum, to);
        }
    }
    #[entry]
    fn once_then_leave(&self, cx: &mut Cx<Self>, times: usize, to: Vec<Promise<i64>>) {
        for to in to.into_iter().take(times) {
            cx.contribute(1i64, reduce::sum, to);
        }
        cx.destroy();
    }
    #[entry]
    fn unlike(&self, cx: &mut Cx<Self>, to: Promise<Vec<f64>>) {
        cx.contribute(vec![0.0; 1 + cx.index() % 2], reduce::sum, to);
    }
    #[entry]
    fn large(&self, cx: &mut Cx<Self>, to: Promise<Vec<u64>>) {
        cx.contribute(vec![cx.index() as u64; 20_000], reduce::sum, to);
    }
}

#[test]
fn every_reducer_reduces_the_parts_of_all_elements() {
    law(|job| async move {
        let parts = job.array::<Part>(9, ());
        let (to, several) = job.promise();
        parts.all().numbers(to);
        assert_eq!(several.await, (36, (362_880, (8, (true, (511, 511))))));
        let (to, gathered) = job.promise();
        parts.all().gathered(to);
        assert_eq!(gathered.await, (0..9).map(|i| (i, i.to_string())).collect::<Vec<_>>());
        let ((a, set), (b, count), (c, barrier)) = (job.promise(), job.promise(), job.promise());
        let ((d, describe), (e, words), (f, vectors)) = (job.promise(), job.promise(), job.promise());
        parts.all().others(a, (b, c), d, e, f);
        barrier.await;
        assert_eq!((set.await, count.await), ((0..5).collect(), 9));
        let describe = describe.await;
        assert_eq!((describe.count, describe.min, describe.max), (9, 0.0, 8.0));
        assert!((describe.mean - 4.0).abs() < 1e-9 && (describe.variance() - 7.5).abs() < 1e-9);
        assert_eq!((words.await, vectors.await), ("8".to_string(), vec![36.0, 9.0]));
        let (to, large) = job.promise();
        parts.all().large(to);
        assert_eq!(large.await, vec![36; 20_000]);
    });
}

#[test]
fn a_result_goes_to_a_promise_an_element_all_elements_or_nowhere() {
    simulated(60, |job| async move {
        let parts = job.array::<Part>(6, ());
        let (to, sum) = job.promise();
        parts.all().to_sink(to.into());
        parts.all().to_sink(Sink::nowhere());
        parts.all().to_sink(parts.at(4).hear_sink());
        parts.all().to_sink(parts.all().hear_sink());
        assert_eq!(sum.await, 6);
        job.quiescence().await;
        let expected = (0..6).map(|i| vec![6; if i == 4 { 2 } else { 1 }]).collect::<Vec<_>>();
        assert_eq!(parts.all().heard().await, expected);
    });
}

#[test]
fn a_sink_holds_the_arguments_before_the_result() {
    law(|job| async move {
        let parts = job.array::<Part>(6, ());
        let (told, heard) = job.promise();
        let (large, text) = (Payload::from(vec![7u8; 5_000]), "step".to_owned());
        parts.all().to_large_sink(parts.at(5).hear_large_sink(large.clone(), text.clone(), told));
        assert_eq!(heard.await, (large.to_vec(), text, vec![6; 3_000]));
        let (told, heard) = job.promise();
        parts.all().to_sink(parts.all().hear_in_step_sink(3, told));
        assert_eq!(heard.await, 3 * 6 * 6);
    });
}

#[test]
fn allreduce_gives_every_contributor_the_result_of_every_round() {
    simulated(60, |job| async move {
        let (a, b) = (job.array::<Part>(7, ()), job.array::<Part>(3, ()));
        let (x, y) = (a.all().rounds(10).call(), b.all().rounds(15).call());
        assert_eq!((x.await, y.await), (vec![16; 7], vec![17; 3]));
    });
}

#[test]
fn many_reductions_of_several_collections_are_under_way_at_once() {
    simulated(60, |job| async move {
        let collections = [job.array::<Part>(5, ()), job.array::<Part>(1, ()), job.array::<Part>(11, ())];
        let mut replies = Vec::new();
        for (parts, size) in collections.iter().zip([5, 1, 11]) {
            let (to, sums): (Vec<_>, Vec<_>) = (0..30).map(|_| job.promise::<i64>()).unzip();
            parts.all().many(to);
            replies.push((size, sums));
        }
        for (size, sums) in replies {
            let sums = join_all(sums).await;
            assert_eq!(sums, (0..30).map(|n| n * size).collect::<Vec<_>>());
        }
    });
}

#[test]
fn an_element_counts_in_the_reductions_to_which_it_contributed_before_its_end() {
    simulated(120, |job| async move {
        let parts = job.array::<Part>(8, ());
        let (to, sums): (Vec<_>, Vec<_>) = (0..5).map(|_| job.promise::<i64>()).unzip();
        for i in 0..7 {
            parts.at(7 - i).once_then_leave(i, to.clone());
        }
        parts.at(0).once_then_leave(5, to.clone());
        // Element 7 - i gives i parts, element 0 five: part n comes from all that give more than n.
        assert_eq!(join_all(sums).await, [7, 6, 5, 4, 3]);
    });
}

#[test]
fn a_reducer_that_panics_ends_the_job_with_its_message() {
    for options in crate::shapes(24) {
        let outcome = charm4rs::testing::simulate(&options, |job| async move {
            let parts = job.array::<Part>(8, ());
            let (to, sum) = job.promise();
            parts.all().unlike(to);
            sum.await;
        });
        let failure = outcome.unwrap_err();
        assert_eq!(failure.code, 1);
        assert!(failure.what.contains("different lengths"), "{failure}");
    }
}

/// Asserts a panic of the second contributor, which is on the PE of the first.
fn refused(job: impl Fn(charm4rs::Collection<Odd>) + Copy + 'static, says: &'static [&'static str]) {
    let end = charm4rs::testing::threads(1, move |here| async move {
        job(here.array::<Odd>(2, ()));
        here.promise::<()>().1.await;
    });
    let failure = end.expect_err("the second contribution does not fit");
    assert!(says.iter().all(|part| failure.what.contains(part)), "{says:?} is not in {failure}");
    // The user's line, not the runtime's.
    assert!(failure.what.contains(" at chare/tests/laws/reductions.rs:"), "{failure}");
}

/// The second element contributes a different value than the first.
struct Odd;

#[chare(index = usize)]
impl Odd {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    fn of_another_type(&self, cx: &mut Cx<Self>) {
        if cx.index() == 0 {
            cx.contribute(1u64, reduce::sum, Sink::nowhere());
        } else {
            cx.contribute(1.5, reduce::max, Sink::nowhere());
        }
    }
    #[entry]
    fn for_another_step(&self, cx: &mut Cx<Self>) {
        cx.contribute(1u64, reduce::sum, cx.proxy().total_sink(cx.index()));
    }
    #[entry]
    fn of_another_length(&self, cx: &mut Cx<Self>) {
        cx.contribute(vec![0.5; 5_000 + cx.index()], reduce::sum, Sink::nowhere());
    }
    #[entry]
    fn for_all(&self, cx: &mut Cx<Self>) {
        if cx.index() == 0 {
            cx.contribute(1u64, reduce::sum, Sink::nowhere());
        } else {
            drop(cx.allreduce(1u64, reduce::sum));
        }
    }
    #[entry]
    fn total(&self, _step: usize, _total: u64) {}
}

#[test]
fn a_contribution_that_does_not_match_panics_with_the_difference_and_its_location() {
    refused(
        |odd| drop(odd.all().of_another_type()),
        &[
            "Odd[1].of_another_type panicked",
            "a f64 with By<Max> does not fit reduction 1",
            "has contributed a u64 with By<Sum>",
        ],
    );
    refused(|odd| drop(odd.all().for_another_step()), &["has contributed for another receiver"]);
    refused(|odd| drop(odd.all().of_another_length()), &["a Vec<f64> with By<Sum> does not fit", "of another length"]);
    refused(|odd| drop(odd.all().for_all()), &["Odd[1].for_all panicked", "for another receiver"]);
}

std::thread_local! {
    /// The results that calls recorded, in a simulation, where all PEs are on one thread.
    static TOLD: std::cell::RefCell<Vec<u64>> = const { std::cell::RefCell::new(Vec::new()) };
}

struct Teller;

#[chare(index = usize)]
impl Teller {
    #[init]
    fn new() -> Self {
        Self
    }

    #[entry]
    fn tell(&mut self, sum: u64) {
        TOLD.with_borrow_mut(|told| told.push(sum));
    }

    /// A call, a future, a call of all, a future.
    #[entry]
    fn reduce(&mut self, cx: &mut Cx<Self>, first: Promise<u64>, second: Promise<u64>) {
        cx.contribute(1u64, reduce::sum, cx.collection().at(0).tell_sink());
        cx.contribute(10u64, reduce::sum, first);
        cx.contribute(100u64, reduce::sum, cx.collection().at(0).tell_sink());
        cx.contribute(1000u64, reduce::sum, second);
    }
}

#[test]
fn results_for_any_targets_are_processed_in_the_order_of_the_reductions() {
    simulated(240, |job| async move {
        TOLD.take();
        let tellers = job.array::<Teller>(4, ());
        let ((first, one), (second, two)) = (job.promise(), job.promise());
        tellers.all().reduce(first, second);
        assert_eq!(one.await, 40);
        assert_eq!(TOLD.with_borrow(|told| told.first().copied()), Some(4), "the call was first");
        assert_eq!(two.await, 4000);
        assert_eq!(TOLD.with_borrow(Vec::clone), [4, 400]);
    });
}
