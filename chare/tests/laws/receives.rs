//! `async` entry methods, and receives of entry methods without a body.

use std::time::Duration;

use charm4rs::prelude::*;

use crate::{law, simulated};

struct Worker {
    log: Vec<String>,
}

#[chare(index = usize)]
impl Worker {
    #[init]
    fn new() -> Self {
        Self { log: Vec::new() }
    }
    #[entry]
    fn step(&mut self, n: u32, text: String);
    #[entry]
    fn pair(&mut self, pair: (u8, u8));
    #[entry]
    fn go(&mut self);

    #[entry]
    async fn in_order(this: This<Self>, steps: u32) -> Vec<String> {
        let mut got = Vec::new();
        for step in 0..steps {
            let (n, text) = this.recv_step(|n, _| *n == step).await;
            assert_eq!(n, step);
            got.push(text);
        }
        got
    }
    #[entry]
    async fn next(this: This<Self>) -> u32 {
        this.next_step().await.0
    }
    #[entry]
    async fn two(this: This<Self>) -> (u8, u8) {
        let odd = this.recv_pair(|(a, _)| a % 2 == 1).await;
        let even = this.recv_pair(|(a, _)| a % 2 == 0).await;
        (odd.0, even.0)
    }
    #[entry]
    async fn slow(this: This<Self>, name: String) {
        this.with(|worker| worker.log.push(format!("{name} begins")));
        this.next_go().await;
        this.with(|worker| worker.log.push(format!("{name} ends")));
    }
    #[entry]
    fn log(&mut self) -> Vec<String> {
        self.log.clone()
    }
    #[entry]
    async fn nested(this: This<Self>) {
        let other = this.clone();
        this.with(|_| other.with(|_| ()));
    }
    #[entry]
    async fn sleepy(this: This<Self>, ms: u64) -> Duration {
        let before = this.job().now();
        this.sleep(Duration::from_millis(ms)).await;
        this.job().now() - before
    }
    #[entry]
    async fn fussy(this: This<Self>) {
        let _ = this.recv_step(|n, _| if *n == 1 { panic!("no ones") } else { false }).await;
    }
}

#[test]
fn messages_are_received_in_the_order_of_the_receives() {
    simulated(60, |job| async move {
        let workers = job.array::<Worker>(4, ());
        let runs: Vec<_> = (0..4).map(|i| workers.at(i).in_order(20).call()).collect();
        for n in [7, 3, 19, 0, 1, 2, 18, 5, 4, 6, 8, 17, 9, 10, 16, 11, 15, 12, 14, 13] {
            workers.all().step(n, n.to_string());
        }
        let expected: Vec<_> = (0..20).map(|n: u32| n.to_string()).collect();
        for run in runs {
            assert_eq!(run.await, expected);
        }
    });
}

#[test]
fn each_of_many_waiting_receives_gets_one_message() {
    law(|job| async move {
        let worker = job.array::<Worker>(1, ()).at(0);
        let waiting: Vec<_> = (0..50).map(|_| worker.next().call()).collect();
        for n in 0..50 {
            worker.step(n, String::new());
        }
        let got = join_all(waiting).await;
        assert_eq!(got, (0..50).collect::<Vec<_>>(), "the first to wait is the first to get one");
    });
}

#[test]
fn a_message_waits_for_its_receive() {
    law(|job| async move {
        let worker = job.array::<Worker>(2, ()).at(1);
        worker.pair((2, 0));
        worker.pair((4, 0));
        worker.pair((5, 0)).done().await;
        assert_eq!(worker.two().await, (5, 2));
        worker.pair((7, 0));
        assert_eq!(worker.two().await, (7, 4));
    });
}

#[test]
fn while_an_async_method_waits_others_of_the_chare_run() {
    law(|job| async move {
        let worker = job.array::<Worker>(2, ()).at(1);
        let (a, b) = (worker.slow("a".into()).done(), worker.slow("b".into()).done());
        while worker.log().await.len() < 2 {}
        worker.go();
        worker.go();
        a.await;
        b.await;
        let log = worker.log().await;
        assert_eq!(log, ["a begins", "b begins", "a ends", "b ends"]);
    });
}

#[test]
fn with_inside_with_is_explained() {
    law(|job| async move {
        let worker = job.array::<Worker>(2, ()).at(1);
        let error = worker.nested().checked().await.unwrap_err().to_string();
        assert!(error.contains("`with` inside `with`") && error.contains("receives.rs"), "{error}");
    });
}

#[test]
fn sleeps_take_their_time_and_let_others_run() {
    law(|job| async move {
        let workers = job.array::<Worker>(8, ());
        let (short, long) = (workers.at(7).sleepy(1).call(), workers.at(6).sleepy(5).call());
        let (short, long) = (short.await, long.await);
        assert!(short >= Duration::from_millis(1) && long >= Duration::from_millis(5), "{short:?} {long:?}");
    });
}

#[test]
fn a_condition_that_panics_loses_no_other_message() {
    law(|job| async move {
        let worker = job.array::<Worker>(1, ()).at(0);
        for n in [0, 1, 2] {
            worker.step(n, String::new());
        }
        assert!(worker.fussy().checked().await.is_err());
        let rest = [worker.next().await, worker.next().await, worker.next().await];
        assert_eq!(rest, [0, 1, 2]);
    });
}
