//! All PEs of a job on one thread, as a simulation drives them: the order of execution, and what keeps a job running.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use charm4rs_scheduler::{Class, Config, Handler, Order, Scheduler, Step, VirtualClock};
use charm4rs_transport::port::{Incoming, Offer};
use charm4rs_transport::{Msg, Pe, RegBuf};
use common::{CALL, EXPEDITED, Each, SYSTEM, number, send, settle, together};

type Log = Rc<RefCell<String>>;

fn note(log: &Log, what: &str) {
    log.borrow_mut().push_str(what);
}

/// PEs that record the numbers that they receive, as letters.
fn noting(pes: u32, config: &Config) -> (Log, Vec<(Rc<Scheduler>, impl Handler + use<>)>) {
    let log = Log::default();
    let pes = together(pes, config).into_iter().map(|pe| {
        let log = log.clone();
        let each = Each(pe.clone(), move |_: &Rc<Scheduler>, msg: Incoming| {
            note(&log, &char::from(u8::try_from(number(&msg)).unwrap()).to_string());
        });
        (pe, each)
    });
    (log.clone(), pes.collect())
}

fn letter(pe: &Scheduler, class: Class, letter: u8) {
    let msg = Msg::fill(pe.slab(), 8, |out| {
        out.iter_mut().zip(u64::from(letter).to_le_bytes()).for_each(|(o, b)| _ = o.write(b));
    });
    pe.enqueue(Incoming::own(pe.pe(), CALL, msg, charm4rs_transport::Payloads::default()), class);
}

#[test]
fn calls_run_by_urgency_and_system_messages_before_all() {
    let (log, pes) = noting(2, &Config::default());
    let pe = &pes[0].0;
    letter(pe, Class::Priority(5, Order::Fifo), b'f');
    letter(pe, Class::Default, b'd');
    letter(pe, Class::Priority(-5, Order::Fifo), b'c');
    letter(pe, Class::Expedited, b'b');
    send(pe, Pe(0), CALL, b'e'.into());
    pe.send_system(Pe(0), SYSTEM, 8, |out| {
        out.iter_mut().zip(u64::from(b'a').to_le_bytes()).for_each(|(o, b)| _ = o.write(b));
    });
    settle(&pes);
    assert_eq!(*log.borrow(), "abcdef");
}

#[test]
fn calls_that_are_closures_run_in_turn_with_messages() {
    let (log, pes) = noting(1, &Config::default());
    let pe = &pes[0].0;
    let closure = |class, letter: &'static str| {
        let log = log.clone();
        pe.call_self(class, move || note(&log, letter));
    };
    letter(pe, Class::Default, b'c');
    closure(Class::Default, "d");
    letter(pe, Class::Default, b'e');
    closure(Class::Priority(-1, Order::Fifo), "b");
    closure(Class::Expedited, "a");
    closure(Class::Priority(1, Order::Lifo), "f");
    settle(&pes);
    assert_eq!(*log.borrow(), "abcdef");
}

#[test]
fn what_closures_hold_is_dropped_with_nothing_borrowed_when_they_will_not_run() {
    /// Calls its PE when it is dropped.
    struct Calls(Rc<Scheduler>, Log);
    impl Drop for Calls {
        fn drop(&mut self) {
            note(&self.1, "d");
            letter(&self.0, Class::Default, b'x');
        }
    }
    let (log, pes) = noting(1, &Config::default());
    let pe = &pes[0].0;
    for _ in 0..2 {
        let held = Calls(pe.clone(), log.clone());
        pe.call_self(Class::Default, move || drop(held));
    }
    pe.stop(0);
    settle(&pes);
    let left: Vec<u64> = std::iter::from_fn(|| pe.take_undelivered()).map(|msg| number(&msg)).collect();
    assert_eq!((log.borrow().as_str(), left), ("dd", vec![u64::from(b'x'); 2]));
}

#[test]
fn a_task_runs_before_the_next_call_and_tasks_that_wake_each_other_do_not_starve_calls() {
    let (log, pes) = noting(1, &Config::default());
    let pe = &pes[0].0;
    let turns = log.clone();
    pe.spawn(poll_fn(move |cx| {
        note(&turns, "t");
        cx.waker().wake_by_ref();
        if turns.borrow().len() < 7 { Poll::Pending } else { Poll::Ready(()) }
    }));
    b"abc".iter().for_each(|&l| letter(pe, Class::Default, l));
    settle(&pes);
    assert_eq!(*log.borrow(), "tatbtct");
}

/// A queue between tasks on any PEs.
#[derive(Default)]
struct Channel(Mutex<(VecDeque<u64>, Option<Waker>)>);

impl Channel {
    fn push(&self, item: u64) {
        let mut inner = self.0.lock().unwrap();
        inner.0.push_back(item);
        let waker = inner.1.take();
        drop(inner);
        waker.into_iter().for_each(Waker::wake);
    }

    async fn pop(&self) -> u64 {
        poll_fn(|cx| {
            let mut inner = self.0.lock().unwrap();
            let item = inner.0.pop_front();
            inner.1 = item.is_none().then(|| cx.waker().clone());
            item.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

#[test]
fn a_wake_reaches_the_pe_of_its_task_though_many_share_a_thread() {
    let (_, pes) = noting(8, &Config::default());
    let channels: Vec<Arc<Channel>> = (0..8).map(|_| Arc::default()).collect();
    let sum = Rc::new(Cell::new(0));
    for (at, (pe, _)) in pes.iter().enumerate() {
        let (mine, next) = (channels[at].clone(), channels[(at + 1) % 8].clone());
        let (sum, stepped) = (sum.clone(), pe.clone());
        pe.spawn(async move {
            loop {
                let n = mine.pop().await;
                sum.set(sum.get() + u64::from(stepped.pe().0));
                if n > 0 {
                    next.push(n - 1);
                }
            }
        });
    }
    settle(&pes);
    channels[0].push(79);
    let with_work: Vec<bool> = pes.iter().map(|(pe, _)| pe.has_work()).collect();
    assert_eq!(with_work, [true, false, false, false, false, false, false, false]);
    settle(&pes);
    assert_eq!(sum.get(), 10 * (0..8).sum::<u64>());
    pes.iter().for_each(|(pe, _)| pe.close().unwrap());
}

#[test]
fn a_wake_from_another_thread_reaches_its_task_once() {
    let (_, pes) = noting(1, &Config::default());
    let (polls, kept) = (Rc::new(Cell::new(0)), Arc::new(Mutex::new(None::<Waker>)));
    let (count, keep) = (polls.clone(), kept.clone());
    pes[0].0.spawn(poll_fn(move |cx| {
        count.set(count.get() + 1);
        *keep.lock().unwrap() = Some(cx.waker().clone());
        Poll::Pending
    }));
    settle(&pes);
    let waker = kept.lock().unwrap().clone().unwrap();
    waker.wake_by_ref();
    std::thread::spawn(move || (0..3).for_each(|_| waker.wake_by_ref())).join().unwrap();
    settle(&pes);
    assert_eq!(polls.get(), 2, "woken near and far, polled once");
}

/// Records a letter when it is dropped.
struct Dropped(Log, &'static str);

impl Drop for Dropped {
    fn drop(&mut self) {
        note(&self.0, self.1);
    }
}

#[test]
fn a_cancelled_task_is_dropped_at_once_or_when_its_poll_ends() {
    let (log, pes) = noting(1, &Config::default());
    let pe = &pes[0].0;
    let guard = Dropped(log.clone(), "a");
    let task = pe.spawn(async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
    settle(&pes);
    assert!(pe.cancel(task) && !pe.cancel(task));
    assert_eq!(*log.borrow(), "a");

    let (guard, me, own) = (Dropped(log.clone(), "c"), pe.clone(), Rc::new(Cell::new(None)));
    let (id, seen) = (own.clone(), log.clone());
    let task = pe.spawn(async move {
        let _guard = guard;
        assert!(me.cancel(id.get().unwrap()));
        // The slot is free, and may hold another task by then.
        me.spawn(std::future::ready(()));
        note(&seen, "b");
        std::future::pending::<()>().await;
    });
    own.set(Some(task));
    settle(&pes);
    assert_eq!(*log.borrow(), "abc");
    assert!(!pe.cancel(task));
}

#[test]
fn a_waker_that_outlives_its_task_wakes_no_other_task() {
    let (log, pes) = noting(1, &Config::default());
    let kept: Rc<Cell<Option<Waker>>> = Rc::default();
    let keep = kept.clone();
    pes[0].0.spawn(poll_fn(move |cx| {
        keep.set(Some(cx.waker().clone()));
        Poll::Ready(())
    }));
    settle(&pes);
    let seen = log.clone();
    pes[0].0.spawn(poll_fn(move |_| {
        note(&seen, "p");
        Poll::Pending
    }));
    settle(&pes);
    kept.take().unwrap().wake();
    settle(&pes);
    assert_eq!(*log.borrow(), "p");
}

#[test]
fn more_tasks_than_the_ready_ring_holds_are_all_resumed() {
    let (_, pes) = noting(1, &Config::default());
    let (channel, sum) = (Rc::new(RefCell::new(Vec::<Waker>::new())), Rc::new(Cell::new(0)));
    for _ in 0..5000 {
        let (channel, sum, woken) = (channel.clone(), sum.clone(), Cell::new(false));
        pes[0].0.spawn(poll_fn(move |cx| {
            if woken.replace(true) {
                sum.set(sum.get() + 1);
                return Poll::Ready(());
            }
            channel.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        }));
    }
    settle(&pes);
    channel.take().into_iter().for_each(Waker::wake);
    settle(&pes);
    assert_eq!(sum.get(), 5000);
}

#[test]
fn time_stands_still_until_it_is_advanced_and_then_wakes_in_order() {
    let time = VirtualClock::new();
    let (log, pes) = noting(1, &Config { clock: time.clock(), ..Config::default() });
    let pe = &pes[0].0;
    let (me, tasks) = (pe.clone(), log.clone());
    pe.spawn(async move {
        me.sleep(Duration::from_secs(3600)).await;
        note(&tasks, "b");
        me.sleep(Duration::from_secs(3600)).await;
        note(&tasks, "d");
    });
    for (hours, what) in [(2, "c"), (1, "a")] {
        let log = log.clone();
        pe.after(Duration::from_secs(3600 * hours), move || note(&log, what));
    }
    let never = pe.after(Duration::from_secs(1), || panic!("it is cancelled"));
    assert!(pe.cancel_timer(never) && !pe.cancel_timer(never));
    let (pe, handler) = &pes[0];
    let mut deadlines = Vec::new();
    loop {
        match pe.step(handler) {
            Step::Busy => {}
            Step::Idle { until: Some(at) } => {
                deadlines.push(at.as_secs() / 3600);
                time.advance_to(at);
            }
            Step::Idle { until: None } => break,
            end => panic!("{end:?}"),
        }
    }
    assert_eq!((&**log.borrow(), &deadlines[..]), ("abcd", &[1, 2][..]));
}

#[test]
fn quiescence_waits_for_timers_and_holds_but_not_for_suspended_tasks() {
    let time = VirtualClock::new();
    let (log, pes) = noting(3, &Config { clock: time.clock(), ..Config::default() });
    let told = log.clone();
    pes[1].0.spawn(std::future::pending());
    let watch = pes[1].0.after_system(Duration::from_secs(100), || {});
    let seen = log.clone();
    pes[2].0.after(Duration::from_secs(1), move || note(&seen, "t"));
    let hold = pes[2].0.hold();
    pes[1].0.on_quiescence(move || note(&told, "q"));
    settle(&pes);
    time.advance_to(Duration::from_secs(1));
    settle(&pes);
    assert_eq!(*log.borrow(), "t", "the hold is still there");
    let second = hold.clone();
    drop(hold);
    settle(&pes);
    assert_eq!(*log.borrow(), "t");
    std::thread::spawn(move || drop(second)).join().unwrap();
    settle(&pes);
    assert_eq!(*log.borrow(), "tq");
    assert!(pes[1].0.cancel_timer(watch));
}

#[test]
fn requests_for_quiescence_overlap_and_may_start_work() {
    let time = VirtualClock::new();
    let (log, pes) = noting(5, &Config { clock: time.clock(), ..Config::default() });
    for (n, (pe, _)) in (0u64..).zip(&pes) {
        let (me, log) = (pe.clone(), log.clone());
        send(pe, Pe(4), CALL, b'w'.into());
        pe.on_quiescence(move || {
            note(&log, "q");
            send(&me, Pe(u32::try_from(n).unwrap()), CALL, b'x'.into());
            let log = log.clone();
            me.on_quiescence(move || note(&log, "r"));
        });
    }
    settle(&pes);
    let log = log.borrow();
    let count = |what: char| log.chars().filter(|&c| c == what).count();
    assert_eq!((count('w'), count('q'), count('x'), count('r')), (5, 5, 5, 5), "{log}");
    assert!(log.rfind('w') < log.find('q') && log.rfind('x') < log.rfind('r'), "{log}");
}

#[test]
fn the_idle_hook_is_called_once_until_there_is_work_again() {
    struct Counting(Cell<u32>);
    impl Handler for Counting {
        fn class(&self, _: &Incoming) -> Class {
            Class::Default
        }
        fn deliver(&self, _: Incoming) {}
        fn offer(&self, _: &Offer) -> Vec<Option<RegBuf>> {
            Vec::new()
        }
        fn idle(&self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let pes: Vec<_> = together(1, &Config::default()).into_iter().map(|pe| (pe, Counting(Cell::new(0)))).collect();
    for round in 1..4 {
        letter(&pes[0].0, Class::Default, b'a');
        settle(&pes);
        settle(&pes);
        assert_eq!(pes[0].1.0.get(), round);
    }
}

#[test]
fn stop_ends_the_loop_after_the_current_item_and_what_is_left_can_be_taken() {
    let log = Log::default();
    let pes: Vec<_> = together(1, &Config::default())
        .into_iter()
        .map(|pe| {
            let log = log.clone();
            let each = Each(pe.clone(), move |pe: &Rc<Scheduler>, msg: Incoming| {
                note(&log, "c");
                pe.stop(i32::try_from(number(&msg)).unwrap());
                pe.spawn(async { panic!("nothing is begun after stop") });
            });
            (pe, each)
        })
        .collect();
    let pe = &pes[0].0;
    (40..43).for_each(|n| send(pe, Pe(0), CALL, n));
    assert_eq!(pe.run(&pes[0].1).unwrap(), 40);
    assert!(matches!(pe.step(&pes[0].1), Step::Stopped(40)));
    let left: Vec<u64> = std::iter::from_fn(|| pe.take_undelivered()).map(|msg| number(&msg)).collect();
    assert_eq!((left, &**log.borrow()), (vec![41, 42], "c"));
    pe.close().unwrap();
}

#[test]
fn destructors_at_the_end_may_call_everything_and_nothing_is_left() {
    struct Last(Rc<Scheduler>, Log);
    impl Drop for Last {
        fn drop(&mut self) {
            let pe = &self.0;
            note(&self.1, "d");
            send(pe, Pe(0), CALL, 0);
            send(pe, Pe(1), EXPEDITED, 0);
            let guard = Dropped(self.1.clone(), "s");
            pe.spawn(async move { drop(guard) });
            let guard = Dropped(self.1.clone(), "t");
            pe.after(Duration::from_secs(1), move || drop(guard));
            let guard = Dropped(self.1.clone(), "q");
            pe.on_quiescence(move || drop(guard));
            drop(pe.hold());
        }
    }
    let (log, pes) = noting(2, &Config::default());
    let pe = &pes[0].0;
    let (task, timer, told) =
        (Last(pe.clone(), log.clone()), Last(pe.clone(), log.clone()), Last(pe.clone(), log.clone()));
    pe.set_context(Rc::new(Last(pe.clone(), log.clone())));
    pe.spawn(async move {
        std::future::pending::<()>().await;
        drop(task);
    });
    pe.after(Duration::from_secs(1), move || drop(timer));
    pe.on_quiescence(move || drop(told));
    let remote = pe.remote();
    pe.close().unwrap();
    let mut sorted: Vec<char> = log.borrow().chars().collect();
    sorted.sort_unstable();
    assert_eq!(sorted.iter().collect::<String>(), "ddddqqqqsssstttt");
    assert_eq!(remote.run(|_| ()), Err(charm4rs_scheduler::PeGone));
    drop(log);
    assert_eq!(Rc::strong_count(&pes[0].0), 2, "the PE and its handler; nothing else keeps it alive");
}

#[test]
fn a_closure_from_another_thread_finds_the_context_and_counts_for_quiescence() {
    let (log, pes) = noting(1, &Config::default());
    let pe = &pes[0].0;
    pe.set_context(Rc::new(log.clone()));
    let (remote, hold, told) = (pe.remote(), pe.hold(), log.clone());
    pe.on_quiescence(move || note(&told, "q"));
    settle(&pes);
    std::thread::spawn(move || {
        let _hold = hold;
        remote.run(|pe| note(&pe.context::<Log>().unwrap(), "r")).unwrap();
    })
    .join()
    .unwrap();
    assert_eq!(*log.borrow(), "");
    settle(&pes);
    assert_eq!(*log.borrow(), "rq");
}

#[test]
fn a_pe_that_waits_forever_reports_how_long_and_for_what() {
    let time = VirtualClock::new();
    let (_, pes) = noting(1, &Config { clock: time.clock(), ..Config::default() });
    let pe = &pes[0].0;
    pe.spawn(std::future::pending());
    assert_eq!(pe.stalled(), None, "there is a task to run");
    settle(&pes);
    time.advance_to(Duration::from_secs(10));
    let stalled = pe.stalled().unwrap();
    assert_eq!((stalled.idle_for.as_secs(), stalled.tasks_suspended), (10, 1));
    assert_eq!((stalled.timers, stalled.holds), (0, 0));
    letter(pe, Class::Default, b'a');
    let _ = pe.step(&pes[0].1);
    assert_eq!(pe.stalled(), None);
}

#[test]
fn a_look_from_another_thread_is_not_work_and_leaves_the_pe_idle() {
    let time = VirtualClock::new();
    let (_, pes) = noting(1, &Config { clock: time.clock(), ..Config::default() });
    let pe = &pes[0].0;
    settle(&pes);
    let (idle, standing) = (pe.pulse().look(), pe.status());
    assert!(idle.idle_since.is_some() && standing.settled, "{standing:?}");
    let looked = Arc::new(AtomicBool::new(false));
    let theirs = looked.clone();
    pe.remote().look(move |pe| theirs.store(pe.pulse().look().idle_since.is_some(), Ordering::Relaxed));
    settle(&pes);
    assert!(looked.load(Ordering::Relaxed), "it was idle");
    assert_eq!((pe.pulse().look(), pe.status()), (idle, standing));
    pe.remote().run(|_| {}).unwrap();
    settle(&pes);
    assert_ne!(pe.pulse().look().turns, idle.turns);
    assert_eq!(pe.status().sent, standing.sent + 1);
}

#[test]
fn the_port_is_polled_after_many_short_calls_or_one_long_one() {
    let (time, calls) = (VirtualClock::new(), Rc::new(Cell::new(0)));
    let config = Config { clock: time.clock(), burst_max: 64, ..Config::default() };
    let pe = together(1, &config).remove(0);
    let (clock, count) = (time.clone(), calls.clone());
    // A call takes as many microseconds as its number.
    let handler = Each(pe.clone(), move |_: &Rc<Scheduler>, msg: Incoming| {
        clock.advance_to(clock.now() + Duration::from_micros(number(&msg)));
        count.set(count.get() + 1);
    });
    let check = |micros: u64, expected: &[u32]| {
        (0..200).for_each(|_| send(&pe, Pe(0), CALL, micros));
        let rounds = expected.iter().map(|_| {
            let _ = pe.step(&handler);
            calls.take()
        });
        assert_eq!(rounds.collect::<Vec<u32>>(), expected, "calls of {micros} us");
        settle(&[(pe.clone(), Each(pe.clone(), |_: &Rc<Scheduler>, _| ()))]);
    };
    check(0, &[8, 16, 32, 64, 64, 16]);
    check(1000, &[64, 1, 1, 1]);
}

#[test]
fn long_calls_are_soon_run_one_by_one_with_the_port_polled_between_though_they_fill_no_burst() {
    let (time, calls) = (VirtualClock::new(), Rc::new(Cell::new(0)));
    let config = Config { clock: time.clock(), burst_max: 64, ..Config::default() };
    let pe = together(1, &config).remove(0);
    let handler = {
        let (time, calls) = (time.clone(), calls.clone());
        Each(pe.clone(), move |_: &Rc<Scheduler>, msg: Incoming| {
            time.advance_to(time.now() + Duration::from_millis(number(&msg)));
            calls.set(calls.get() + 1);
        })
    };
    // Bursts are long if calls are short.
    (0..200).for_each(|_| send(&pe, Pe(0), CALL, 0));
    while calls.get() < 200 {
        let _ = pe.step(&handler);
    }
    let begun = (0..20).map(|_| {
        calls.set(0);
        (0..6).for_each(|_| send(&pe, Pe(0), CALL, 50));
        let _ = pe.step(&handler);
        let begun = calls.get();
        while calls.get() < 6 {
            let _ = pe.step(&handler);
        }
        begun
    });
    let begun: Vec<u32> = begun.collect();
    assert!(begun.iter().all(|&calls| calls == 1 || calls == 6), "{begun:?}");
    assert!(begun[8..].iter().all(|&calls| calls == 1), "{begun:?}");
}
