//! Threads that a program starts itself, and `select`.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::time::Duration;

use charm4rs::prelude::*;
use charm4rs::{Either, Hold, PeGone, Remote, select, select_all};

use crate::{law, on_threads};

struct Tally {
    sum: u64,
}

#[chare(index = usize)]
impl Tally {
    #[init]
    fn new() -> Self {
        Self { sum: 0 }
    }
    #[entry]
    fn add(&mut self, by: u64) -> u64 {
        self.sum += by;
        self.sum
    }
    /// Takes letters until it is stopped, and returns their number.
    #[entry]
    async fn takes(this: This<Self>) -> (u64, u64) {
        let (mut letters, mut others) = (0, 0);
        loop {
            match select(this.recv_letter(|odd| *odd == 1), select(this.next_stop(), this.recv_letter(|odd| *odd == 0)))
                .await
            {
                Either::First(_) => letters += 1,
                Either::Second(Either::Second(_)) => others += 1,
                Either::Second(Either::First(())) => return (letters, others),
            }
        }
    }
    #[entry]
    fn letter(&mut self, odd: u64);
    #[entry]
    fn stop(&mut self);
}

#[test]
fn a_thread_calls_chares_through_a_remote_and_quiescence_waits_for_its_hold() {
    on_threads(|job| async move {
        let tallies = job.array::<Tally>(4, ());
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let (remote, hold) = (job.remote(), job.hold());
                std::thread::spawn(move || {
                    for by in 0..50 {
                        let add = move |_: Job| tallies.at(thread).add(by);
                        let sum = remote.wait(add).expect("the job continues");
                        assert_eq!(sum, by * (by + 1) / 2);
                    }
                    remote.run(move |_| drop(tallies.at(thread).add(1_000))).expect("the job continues");
                    drop(hold);
                })
            })
            .collect();
        job.quiescence().await;
        assert_eq!(tallies.all().add(0).await, [2_225; 4]);
        threads.into_iter().for_each(|thread| thread.join().expect("it has ended"));
    });
}

/// A flag that a thread sets.
#[derive(Default)]
struct Flag {
    is_set: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

#[test]
fn quiescence_waits_for_a_task_that_another_thread_wakes_if_that_has_a_hold() {
    on_threads(|job| async move {
        let flag = Arc::new(Flag::default());
        let (begin, begun) = mpsc::channel::<Hold>();
        let theirs = flag.clone();
        let thread = std::thread::spawn(move || {
            let hold = begun.recv().expect("the task begins");
            std::thread::sleep(Duration::from_millis(20)); // so that quiescence would come first
            theirs.is_set.store(true, Ordering::SeqCst);
            if let Some(waker) = theirs.waker.lock().expect("no thread panics").take() {
                waker.wake();
            }
            drop(hold);
        });
        let done = Rc::new(Cell::new(false));
        let ours = done.clone();
        begin.send(job.hold()).expect("the thread waits");
        job.spawn(async move {
            poll_fn(|cx| {
                *flag.waker.lock().expect("no thread panics") = Some(cx.waker().clone());
                if flag.is_set.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            ours.set(true);
        });
        job.quiescence().await;
        assert!(done.get(), "the task has been woken, and has gone on");
        thread.join().expect("it has ended");
    });
}

#[test]
fn a_call_on_a_thread_that_is_not_a_pe_panics_with_an_alternative() {
    on_threads(|job| async move {
        let tally = job.array::<Tally>(1, ()).at(0);
        let thread = std::thread::Builder::new().name("worker".to_owned());
        let called = thread.spawn(move || drop(tally.add(1))).expect("a thread").join();
        let text = *called.expect_err("it cannot call").downcast::<String>().expect("a text");
        assert!(text.contains("This thread (worker) is not a PE") && text.contains("Job::remote()"), "{text}");
    });
}

#[test]
fn a_remote_of_a_job_that_has_ended_returns_an_error() {
    let (to, from) = mpsc::channel::<Remote>();
    on_threads(|job| {
        to.send(job.remote()).expect("it is received below");
        async {}
    });
    for remote in from.try_iter() {
        assert_eq!((remote.run(|_| ()), remote.wait(|_| async {})), (Err(PeGone), Err(PeGone)));
    }
}

#[test]
fn a_panic_of_a_closure_from_a_thread_ends_the_job() {
    let end = charm4rs::testing::threads(2, |job| async move {
        let remote = job.remote();
        std::thread::spawn(move || remote.run(|_| panic!("on purpose")));
        job.promise::<()>().1.await;
    });
    let failure = end.expect_err("it has failed");
    assert!(
        failure.code == 1 && failure.what.contains("panicked: on purpose at chare/tests/laws/outside.rs:"),
        "{failure}"
    );
}

#[test]
fn receives_that_a_select_drops_have_not_taken_a_message() {
    law(|job| async move {
        let tally = job.array::<Tally>(3, ()).at(2);
        let taken = tally.takes().call();
        for letter in 0..40 {
            tally.letter(letter % 2);
        }
        job.quiescence().await;
        tally.stop();
        assert_eq!(taken.await, (20, 20));
    });
}

#[test]
fn the_first_of_many_that_is_ready_is_selected_and_the_others_can_be_awaited_later() {
    law(|job| async move {
        let tallies = job.array::<Tally>(5, ());
        let (mut sums, mut left) =
            ((0..5).map(|at| tallies.at(at).add(at as u64).call()).collect::<Vec<_>>(), (0..5).collect::<Vec<u64>>());
        while !sums.is_empty() {
            let (at, sum) = select_all(&mut sums).await;
            assert_eq!(sum, left.remove(at));
            drop(sums.remove(at));
        }
        let mut never = job.promise::<()>().1;
        assert_eq!(select(&mut never, tallies.at(1).add(0)).await, Either::Second(1));
    });
}
