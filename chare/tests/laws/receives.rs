//! `async` entry methods, and receives of entry methods without a body.

use std::time::Duration;

use charm4rs::prelude::*;
use charm4rs::{Either, select};

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
    #[entry(key = at)]
    fn keyed(&mut self, text: String, at: (u32, bool));
    #[entry(key = n)]
    fn bare(&mut self, n: u64);

    #[entry]
    async fn by_key(this: This<Self>, steps: u32) -> Vec<String> {
        let mut got = Vec::new();
        for step in 0..steps {
            for side in [true, false] {
                got.push(this.recv_keyed((step, side)).await);
            }
        }
        got
    }
    #[entry]
    async fn one_by_key(this: This<Self>, step: u32) -> String {
        this.recv_keyed((step, true)).await
    }
    #[entry]
    async fn impatient(this: This<Self>, step: u32) -> bool {
        let kept = select(this.recv_keyed((step, true)), this.sleep(Duration::from_millis(1))).await;
        matches!(kept, Either::First(_))
    }
    #[entry]
    async fn all_bare(this: This<Self>, keys: Vec<u64>) {
        for key in keys {
            let () = this.recv_bare(key).await;
        }
    }

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
fn calls_are_received_by_their_keys_and_in_each_key_in_the_order_of_their_arrival() {
    simulated(60, |job| async move {
        let workers = job.array::<Worker>(4, ());
        let runs: Vec<_> = (0..4).map(|i| workers.at(i).by_key(10).call()).collect();
        for step in [7, 3, 9, 0, 1, 2, 8, 5, 4, 6] {
            for side in [false, true] {
                workers.all().keyed(format!("{step} {side}"), (step, side));
            }
        }
        let expected: Vec<_> = (0..10).flat_map(|n| [format!("{n} true"), format!("{n} false")]).collect();
        for run in runs {
            assert_eq!(run.await, expected);
        }
        // Before and after a receive of their key.
        let worker = workers.at(3);
        worker.keyed("first", (5, true)).done().await;
        worker.keyed("second", (5, true)).done().await;
        let got = join_all((0..3).map(|_| worker.one_by_key(5)).chain([worker.one_by_key(6)]));
        worker.keyed("other", (6, true));
        worker.keyed("third", (5, true));
        assert_eq!(got.await, ["first", "second", "third", "other"]);
        let keys: Vec<_> = (0..100).collect();
        let all = worker.all_bare(keys.clone()).call();
        keys.iter().rev().for_each(|key| drop(worker.bare(*key)));
        all.await;
    });
}

#[test]
fn a_receive_by_key_that_is_dropped_takes_nothing_and_leaves_its_turn_to_the_next() {
    law(|job| async move {
        let worker = job.array::<Worker>(2, ()).at(1);
        assert!(!worker.impatient(1).await);
        // Many receives wait, some of which give up; as many calls arrive as receives remain.
        let impatient: Vec<_> = (0..20).map(|_| worker.impatient(1).call()).collect();
        let patient: Vec<_> = (0..20).map(|_| worker.one_by_key(1).call()).collect();
        (0..20).for_each(|n: u32| drop(worker.keyed(n.to_string(), (1, true))));
        let got = join_all(impatient).await.into_iter().filter(|got| *got).count();
        (0..got).for_each(|_| drop(worker.keyed("more", (1, true))));
        assert_eq!(join_all(patient).await.len(), 20);
        assert!(!worker.impatient(1).await);
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
        let (a, b) = (worker.slow("a").done(), worker.slow("b").done());
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
