//! Whole jobs over the local backend, one thread a PE: they start, finish, wake each other and stop.

mod common;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use charm4rs_scheduler::{Config, Scheduler};
use charm4rs_transport::Pe;
use charm4rs_transport::TransportOptions;
use common::{CALL, EXPEDITED, number, send, threads, threads_with};

fn stop_all(pe: &Scheduler) {
    (0..pe.pes()).for_each(|to| send(pe, Pe(to), EXPEDITED, 0));
}

/// Every PE sends `rounds` pings to every PE, itself included, each after the answer to the one before. A PE that gets its last answer tells PE 0; PE
/// 0 stops the job.
fn ping_all_to_all(pes: u32, rounds: u64, config: &Config) {
    const DONE: u64 = u64::MAX;
    const PONG: u64 = 1 << 32;
    let codes = threads(pes, config, move |pe| {
        (0..pes).for_each(|to| send(pe, Pe(to), CALL, 1));
        let (answers, done) = (Cell::new(0), Cell::new(0));
        move |pe: &Rc<Scheduler>, msg| match number(&msg) {
            _ if msg.tag == EXPEDITED => pe.stop(7),
            DONE => {
                done.set(done.get() + 1);
                if done.get() == pes {
                    stop_all(pe);
                }
            }
            n if n < PONG => send(pe, msg.from, CALL, PONG + n),
            n => {
                answers.set(answers.get() + 1);
                if n - PONG < rounds {
                    send(pe, msg.from, CALL, n - PONG + 1);
                }
                if answers.get() == rounds * u64::from(pes) {
                    send(pe, Pe(0), CALL, DONE);
                }
            }
        }
    });
    assert_eq!(codes, vec![7; pes as usize]);
}

#[test]
fn two_pes_ping_each_other() {
    ping_all_to_all(2, 1_000, &Config::default());
}

#[test]
fn sixty_four_pes_on_few_cores_ping_all_to_all() {
    ping_all_to_all(64, 20, &Config { oversubscribed: true, ..Config::default() });
}

#[test]
fn quiescence_comes_after_the_last_message_and_its_callback_runs_on_the_asking_pe() {
    // A message that starts at n is forwarded n times, to a PE that its number chooses.
    const HOPS: u64 = 1_000;
    for pes in [1, 2, 5] {
        let hops = Arc::new(AtomicU64::new(0));
        let codes = threads(pes, &Config { oversubscribed: true, ..Config::default() }, move |pe| {
            send(pe, Pe(0), CALL, HOPS);
            if pe.pe().0 == pe.pes() - 1 {
                let (me, hops) = (pe.clone(), hops.clone());
                pe.on_quiescence(move || {
                    assert_eq!(hops.load(Ordering::Relaxed), HOPS * u64::from(pes));
                    stop_all(&me);
                });
            }
            let hops = hops.clone();
            move |pe: &Rc<Scheduler>, msg| match (msg.tag, number(&msg)) {
                (EXPEDITED, _) => pe.stop(0),
                (_, 0) => {}
                (_, n) => {
                    hops.fetch_add(1, Ordering::Relaxed);
                    send(pe, Pe(u32::try_from(n * 7919 % u64::from(pes)).unwrap()), CALL, n - 1);
                }
            }
        });
        assert_eq!(codes, vec![0; pes as usize]);
    }
}

#[test]
fn a_sleeping_pe_is_woken_by_its_timer_and_by_another_thread() {
    let codes = threads(1, &Config { oversubscribed: true, ..Config::default() }, |pe| {
        let (me, remote) = (pe.clone(), pe.remote());
        pe.spawn(async move {
            me.sleep(Duration::from_millis(2)).await;
            std::thread::spawn(move || remote.run(|pe| pe.stop(5)));
        });
        |_: &Rc<Scheduler>, _| panic!("no PE sends")
    });
    assert_eq!(codes, [5]);
}

#[test]
fn sends_wait_for_credit_again_after_a_send_without_waiting_has_panicked() {
    const COUNT: u64 = 10_000;
    let options = TransportOptions { credit: 10_000, ..TransportOptions::default() };
    let codes = threads_with(2, &options, &Config { oversubscribed: true, ..Config::default() }, |pe| {
        if pe.pe() == Pe(0) {
            let panicked =
                catch_unwind(AssertUnwindSafe(|| drop(pe.without_waiting(|| panic!("while it is serialized")))));
            assert!(panicked.is_err());
            (0..COUNT).for_each(|number| send(pe, Pe(1), CALL, number));
            let held = pe.with_port(|port| port.counters().backlogged);
            assert_eq!(held, Some(0), "each has waited until the receiver had taken those before it");
            let sent = pe.without_waiting(|| (0..COUNT).for_each(|number| send(pe, Pe(1), CALL, number)));
            assert!(pe.with_port(|port| port.counters().backlogged).is_some_and(|held| held > 0), "these do not wait");
            drop(sent);
        }
        let taken = Cell::new(0);
        move |pe: &Rc<Scheduler>, msg| {
            taken.set(taken.get() + 1);
            match msg.tag {
                EXPEDITED => pe.stop(7),
                _ if taken.get() == 2 * COUNT => stop_all(pe),
                _ => {}
            }
        }
    });
    assert_eq!(codes, [7, 7]);
}
