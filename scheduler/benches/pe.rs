//! The cost of the parts of a round: a call to the PE itself, a wake, a timer, a round without work.

use std::cell::Cell;
use std::future::poll_fn;
use std::hint::black_box;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use charm4rs_scheduler::{Class, Config, Handler, Order, Scheduler, Step};
use charm4rs_transport::TransportOptions;
use charm4rs_transport::port::{Incoming, Offer, Tag};
use charm4rs_transport::wireup;
use charm4rs_transport::{Layout, Msg, RegBuf};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Adds up the first bytes of the messages.
#[derive(Default)]
struct Sum(Cell<u64>);

impl Handler for Sum {
    fn class(&self, _: &Incoming) -> Class {
        Class::Default
    }

    fn deliver(&self, msg: Incoming) {
        self.0.set(self.0.get().wrapping_add(u64::from(msg.msg[0])));
    }

    fn offer(&self, _: &Offer) -> Vec<Option<RegBuf>> {
        Vec::new()
    }
}

fn pe() -> Rc<Scheduler> {
    let mut builders = wireup::local(Layout::one_host(1, 1), &TransportOptions::default()).expect("a doorbell");
    let port = builders.remove(0).open().expect("a port");
    Scheduler::new(port, Config::default())
}

fn call(pe: &Scheduler, class: Class) {
    let msg = Msg::fill(pe.slab(), 16, |out| out.iter_mut().for_each(|b| _ = b.write(1)));
    pe.enqueue(Incoming::own(pe.pe(), Tag(0), msg, charm4rs_transport::Payloads::default()), class);
}

fn settle(pe: &Scheduler, handler: &Sum) {
    while let Step::Busy = pe.step(handler) {}
}

const CALLS: u32 = 1024;

fn calls(c: &mut Criterion) {
    let (pe, sum) = (pe(), Sum::default());
    let mut group = c.benchmark_group("call to the own PE");
    group.throughput(Throughput::Elements(CALLS.into()));
    for (name, class) in [
        ("default", Class::Default),
        ("expedited", Class::Expedited),
        ("priority fifo", Class::Priority(1, Order::Fifo)),
        ("priority lifo", Class::Priority(-1, Order::Lifo)),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                (0..CALLS).for_each(|_| call(&pe, class));
                settle(&pe, &sum);
            });
        });
    }
    group.bench_function("call_self", |b| {
        b.iter(|| {
            for _ in 0..CALLS {
                pe.call_self(Class::Default, || _ = std::hint::black_box([1u64; 2]));
            }
            settle(&pe, &sum);
        });
    });
    group.bench_function("sent and classified", |b| {
        b.iter(|| {
            for _ in 0..CALLS {
                pe.send(pe.pe(), Tag(0), 16, |out| out.iter_mut().for_each(|b| _ = b.write(1)));
            }
            settle(&pe, &sum);
        });
    });
    group.finish();
    c.bench_function("one call and its round", |b| {
        b.iter(|| {
            call(&pe, Class::Default);
            black_box(pe.step(&sum))
        });
    });
    black_box(sum.0.get());
}

fn rounds(c: &mut Criterion) {
    let (pe, sum) = (pe(), Sum::default());
    settle(&pe, &sum);
    c.bench_function("a round without work", |b| b.iter(|| black_box(pe.step(&sum))));
    let timer = pe.after(Duration::from_secs(3600), || {});
    c.bench_function("a round without work, a timer pending", |b| b.iter(|| black_box(pe.step(&sum))));
    pe.cancel_timer(timer);
    c.bench_function("a timer set and cancelled", |b| {
        b.iter(|| {
            let timer = pe.after(Duration::from_secs(1), || {});
            pe.cancel_timer(timer)
        });
    });
}

fn tasks(c: &mut Criterion) {
    let (pe, sum) = (pe(), Sum::default());
    let waker: Rc<Cell<Option<Waker>>> = Rc::default();
    let slot = waker.clone();
    pe.spawn(async move {
        poll_fn(|cx| {
            let kept = slot.take().filter(|w| w.will_wake(cx.waker())).unwrap_or_else(|| cx.waker().clone());
            slot.set(Some(kept));
            Poll::<()>::Pending
        })
        .await;
    });
    settle(&pe, &sum);
    let own = waker.take().expect("the task has run");
    waker.set(Some(own.clone()));
    c.bench_function("a wake from the own PE, its poll and round", |b| {
        b.iter(|| {
            own.wake_by_ref();
            black_box(pe.step(&sum))
        });
    });
    c.bench_function("a wake of a task that is woken already", |b| b.iter(|| own.wake_by_ref()));
    settle(&pe, &sum);
    // Many tasks, so that a wake is measured without the round.
    const TASKS: usize = 512;
    let wakers: Rc<Cell<Vec<Waker>>> = Rc::default();
    for _ in 0..TASKS {
        let (wakers, kept) = (wakers.clone(), Cell::new(false));
        pe.spawn(poll_fn(move |cx| {
            if !kept.replace(true) {
                let mut all = wakers.take();
                all.push(cx.waker().clone());
                wakers.set(all);
            }
            Poll::Pending
        }));
    }
    settle(&pe, &sum);
    let all = wakers.take();
    assert_eq!(all.len(), TASKS);
    let mut group = c.benchmark_group("512 tasks");
    group.throughput(Throughput::Elements(TASKS as u64));
    group.bench_function("woken and polled", |b| {
        b.iter(|| {
            all.iter().for_each(Waker::wake_by_ref);
            settle(&pe, &sum);
        });
    });
    group.bench_function("woken", |b| {
        b.iter_custom(|times| {
            let mut time = Duration::ZERO;
            for _ in 0..times {
                let began = std::time::Instant::now();
                all.iter().for_each(Waker::wake_by_ref);
                time += began.elapsed();
                settle(&pe, &sum);
            }
            time
        });
    });
    group.finish();
    c.bench_function("a task spawned and run", |b| {
        b.iter(|| {
            pe.spawn(async {});
            black_box(pe.step(&sum))
        });
    });
}

criterion_group! {
    name = all;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = calls, rounds, tasks
}
criterion_main!(all);
