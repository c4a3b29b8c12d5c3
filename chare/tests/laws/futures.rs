//! Futures: replies, promises, time limits.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use charm4rs::prelude::*;

use crate::{law, simulated};

struct Server {
    kept: Vec<Promise<String>>,
}

#[chare(index = usize)]
impl Server {
    #[init]
    fn new() -> Self {
        Self { kept: Vec::new() }
    }
    #[entry]
    fn square(&self, x: u64) -> u64 {
        x * x
    }
    #[entry]
    fn fails(&self) {
        panic!("on purpose");
    }
    #[entry]
    fn keep(&mut self, promise: Promise<String>) {
        self.kept.push(promise);
    }
    #[entry]
    fn give(&mut self, cx: &mut Cx<Self>) {
        for promise in self.kept.drain(..) {
            promise.send(format!("from {}", cx.index()));
        }
    }
    #[entry]
    async fn late(this: This<Self>, ms: u64) -> u64 {
        this.sleep(Duration::from_millis(ms)).await;
        ms
    }
    #[entry]
    async fn sum_of_squares(this: This<Self>, below: u64) -> u64 {
        let servers = this.collection();
        join_all((0..below).map(|x| servers.at(usize::try_from(x % 3).unwrap()).square(x))).await.iter().sum()
    }
}

#[test]
fn join_all_gives_results_in_the_order_of_the_calls() {
    law(|job| async move {
        let servers = job.array::<Server>(3, ());
        let squares = join_all((0..50).map(|x| servers.at(x % 3).square(x as u64))).await;
        assert_eq!(squares, (0..50).map(|x| x * x).collect::<Vec<u64>>());
        assert!(join_all(Vec::<charm4rs::Reply<u64>>::new()).await.is_empty());
        assert_eq!(servers.at(2).sum_of_squares(10).await, 285);
    });
}

#[test]
fn a_promise_is_fulfilled_on_any_pe_and_only_its_first_value_counts() {
    simulated(60, |job| async move {
        let servers = job.array::<Server>(3, ());
        let (promise, reply) = job.promise();
        for i in [0, 1, 2] {
            servers.at(i).keep(promise).done().await;
        }
        servers.at(1).give().done().await;
        servers.all().give().done().await;
        let text = reply.await;
        assert!(text.starts_with("from "), "{text}");
        // The slot is reused; values that were sent twice do not reach its next use.
        let (promise, reply) = job.promise();
        job.quiescence().await;
        promise.send("mine".to_string());
        assert_eq!(reply.await, "mine");
    });
}

#[test]
fn a_late_reply_is_timed_out_and_not_confused_with_later_ones() {
    law(|job| async move {
        let servers = job.array::<Server>(3, ());
        let limit = Duration::from_millis(1);
        let slow = servers.at(2).late(30).timeout(limit).await;
        assert_eq!(slow, Err(CallError::TimedOut(limit)));
        assert_eq!(servers.at(0).square(3).timeout(Duration::from_secs(50)).await, Ok(9));
        drop(servers.at(1).late(2).call());
        for x in 0..20 {
            assert_eq!(servers.at(2).square(x).await, x * x);
        }
        let (_, never) = job.promise::<u8>();
        assert!(never.timeout(limit).await.is_err());
    });
}

#[test]
fn a_callback_of_a_reply_gets_the_result_or_the_error_once_between_two_calls() {
    law(|job| async move {
        let servers = job.array::<Server>(3, ());
        let (told, results) = job.promise::<u64>();
        let calling = Rc::new(Cell::new(true));
        let seen = calling.clone();
        servers.at(2).square(7).call().checked().then(move |result| {
            assert!(!seen.get(), "it runs when the present task waits");
            told.send(result.unwrap());
        });
        // On the own PE the value is there at once; the callback still waits for its turn.
        let (mine, own) = job.promise::<u64>();
        let (told, second) = job.promise::<u64>();
        let seen = calling.clone();
        mine.send(5);
        own.checked().then(move |result| {
            assert!(!seen.get(), "it runs when the present task waits");
            told.send(result.unwrap());
        });
        calling.set(false);
        assert_eq!((results.await, second.await), (49, 5));

        let (told, failed) = job.promise::<bool>();
        servers.at(1).fails().call().checked().then(move |result| told.send(result.is_err()));
        assert!(failed.await);
        // One that never gets a value is dropped with the job.
        let (_, never) = job.promise::<u8>();
        never.checked().then(|_| unreachable!("nothing was sent"));
    });
}
