//! Put windows: puts arrive at the right place and time, and the put handle never exists twice.

use std::cell::Cell;

use charm4rs::prelude::*;
use charm4rs::{PutHandle, PutWindow, ReceivedPut, testing};

use crate::{law, simulated};

const LEN: usize = 100_000;
const TIMES: u64 = 5;

fn place(items: &[u64]) -> usize {
    items.as_ptr().addr()
}

struct Putter;

#[chare(index = usize)]
impl Putter {
    #[init]
    fn new() -> Self {
        Self
    }
    /// Puts rows of 0, 1, 2, …; returns the handle with the result.
    #[entry]
    async fn rows(_this: This<Self>, mut to: PutHandle<u64>, times: u64) -> PutHandle<u64> {
        for i in 0..times {
            let mut row = Payload::zeroed(to.len());
            row.fill(i);
            to = to.put(row).await;
        }
        to
    }
    /// Puts one item at each position, in this order.
    #[entry]
    async fn items(_this: This<Self>, mut to: PutHandle<u64>, places: Vec<usize>) {
        for at in places {
            to = to.put_at(at, vec![at as u64 + 100]).await;
        }
    }
    #[entry]
    async fn one(_this: This<Self>, to: PutHandle<u64>, at: usize, items: usize) -> Result<usize, CallError> {
        to.put_at(at, vec![7; items]).checked().await.map(|to| to.len())
    }
    #[entry]
    fn forget(&mut self, to: PutHandle<u64>) -> usize {
        to.len()
    }
    #[entry]
    fn copies(&self) -> u64 {
        testing::copies()
    }
    /// Passes the handle on.
    #[entry]
    async fn around(this: This<Self>, to: PutHandle<u64>, hops: usize) -> PutHandle<u64> {
        let to = to.put_at(hops, vec![this.index() as u64]).await;
        if hops == 0 {
            return to;
        }
        let next = (this.index() + 1) % 4;
        this.collection().at(next).around(to, hops - 1).await
    }
}

/// Rows that are put in turn, and read: their sums, and their addresses.
async fn rows_arrive(job: Job, putter: Proxy<Putter>, len: usize) {
    let (mut put_window, to) = job.put_window::<u64>(len);
    assert_eq!((put_window.len(), to.len()), (len, len));
    let done = putter.rows(to, TIMES).call();
    let mut places = Vec::new();
    for i in 0..TIMES {
        let row: ReceivedPut<'_, u64> = put_window.next().await;
        assert_eq!(row.len(), len);
        assert!(row.iter().all(|item| *item == i), "row {i}");
        places.push(place(&row));
    }
    assert!(places.iter().all(|place| *place == places[0]));
    assert!(put_window.read().is_none());
    let to = done.await;
    // And once more, from here.
    let put = to.put_at(len - 1, vec![9]);
    let row = put_window.next().await;
    assert_eq!((row[len - 1], row[0], place(&row)), (9, if len == 1 { 9 } else { TIMES - 1 }, places[0]));
    drop(row);
    drop(put.await);
    assert!(matches!(put_window.arrival().checked().await, Err(CallError::HandleGone { owner: Pe(0) })));
}

#[test]
fn repeated_puts_arrive_in_the_same_memory() {
    law(|job| async move {
        let putters = job.array::<Putter>(4, ());
        for len in [1, 10, 3_000, 70_000] {
            for i in 0..4 {
                rows_arrive(job, putters.at(i), len).await;
            }
        }
    });
}

fn on_processes(job: impl AsyncFn(Job) + Copy + 'static) {
    for transport in ["shm", "tcp", "ofi", "ucx"] {
        match testing::processes(2, transport, move |here| async move { job(here).await }) {
            Err(failure) if failure.code == 78 => eprintln!("{transport}: skipped: {failure}"),
            end => assert_eq!(end.unwrap(), 0, "{transport}"),
        }
    }
}

#[test]
fn between_processes_puts_arrive_without_a_copy_over_every_transport() {
    on_processes(async |job| {
        let putters = job.array::<Putter>(2, ());
        for len in [1, 3_000, LEN, 1_500_000] {
            rows_arrive(job, putters.at(1), len).await;
        }
        assert_eq!([testing::copies(), putters.at(1).copies().await], [0, 0]);
    });
}

#[test]
fn a_put_writes_its_items_and_no_others() {
    law(|job| async move {
        let (mut put_window, to) = job.put_window::<u64>(10);
        let places = [9, 0, 4, 4, 5];
        job.array::<Putter>(4, ()).at(2).items(to, places.to_vec());
        let mut expected = [0; 10];
        for at in places {
            expected[at] = at as u64 + 100;
            assert_eq!(put_window.next().await[..], expected);
        }
    });
}

#[test]
fn a_put_outside_of_the_window_panics_at_the_putter_and_writes_nothing() {
    let outside = async |job: Job| {
        let putters = job.array::<Putter>(2, ());
        for (at, items) in [(0, 11), (10, 1), (usize::MAX, 1), (usize::MAX, 0), (11, 0)] {
            let (mut put_window, to) = job.put_window::<u64>(10);
            let error = putters.at(1).one(to, at, items).checked().await.unwrap_err();
            assert!(error.to_string().contains("of a put window of 10"), "{error}");
            assert!(matches!(put_window.arrival().checked().await, Err(CallError::HandleGone { .. })));
            assert!(put_window.read().is_none());
        }
        let (mut put_window, to) = job.put_window::<u64>(10);
        let put = putters.at(1).one(to, 10, 0).call();
        assert_eq!(put_window.next().await[..], [0; 10]);
        assert_eq!(put.await, Ok(10));
    };
    law(move |job| async move { outside(job).await });
    on_processes(outside);
}

#[test]
fn a_put_into_a_dropped_window_fails_whenever_it_was_dropped() {
    let gone = async |job: Job| {
        let putters = job.array::<Putter>(2, ());
        for len in [10, LEN] {
            // Before the put, in the middle of it, and when it has arrived but is not read.
            let (put_window, to) = job.put_window::<u64>(len);
            drop(put_window);
            let first = putters.at(1).one(to, 0, len).await;
            let (put_window, to) = job.put_window::<u64>(len);
            let second = putters.at(1).one(to, 0, len).call();
            drop(put_window);
            let (put_window, to) = job.put_window::<u64>(len);
            let third = putters.at(1).one(to, 0, len).call();
            put_window.arrival().await;
            drop(put_window);
            for end in [first, second.await, third.await] {
                assert_eq!(end, Err(CallError::WindowGone { owner: Pe(0) }));
            }
            let (put_window, to) = job.put_window::<u64>(len);
            drop(put_window);
            assert_eq!(putters.at(1).forget(to).await, len);
        }
    };
    law(move |job| async move { gone(job).await });
    on_processes(gone);
}

#[test]
fn a_wait_for_a_put_fails_when_the_handle_was_dropped() {
    law(|job| async move {
        let putter = job.array::<Putter>(4, ()).at(3);
        let (put_window, to) = job.put_window::<u64>(4);
        let (before, both) = (put_window.arrival(), put_window.arrival());
        assert_eq!(putter.forget(to).await, 4);
        for waits in [before, both, put_window.arrival()] {
            assert_eq!(waits.checked().await, Err(CallError::HandleGone { owner: Pe(0) }));
        }
    });
}

#[test]
fn a_handle_that_is_passed_on_puts_from_each_pe() {
    let around = async |job: Job| {
        let putters = job.array::<Putter>(4, ());
        let (mut put_window, to) = job.put_window::<u64>(12);
        let back = putters.at(0).around(to, 11).call();
        for hop in (0..12usize).rev() {
            assert_eq!(put_window.next().await[hop], (11 - hop as u64) % 4);
        }
        assert_eq!(back.await.len(), 12);
    };
    law(move |job| async move { around(job).await });
    on_processes(around);
}

#[test]
fn a_handle_is_given_to_one_chare_and_never_to_several() {
    simulated(12, |job| async move {
        let putters = job.array::<Putter>(3, ());
        let (_landing, to) = job.put_window::<u64>(4);
        let error = putters.all().forget(to).checked().await.unwrap_err();
        assert!(error.to_string().contains("a put handle goes to one chare"), "{error}");
    });
    let (_, plain) = (testing::over_the_wire(&1u8).unwrap(), postcard::to_allocvec(&0u8).unwrap());
    assert!(postcard::from_bytes::<PutHandle<u64>>(&plain).is_err());
}

/// Averages with its neighbours, through put windows that call it.
struct Cell1d {
    value: f64,
    from: [Option<PutWindow<f64>>; 2],
    to: [Option<PutHandle<f64>>; 2],
    heard: [bool; 2],
    step: u32,
    /// A value that the neighbours have not received.
    has_news: bool,
    report: Promise<f64>,
}

const CELLS: usize = 6;
const STEPS: u32 = 8;

#[chare(index = usize)]
impl Cell1d {
    #[init]
    fn new(cx: &mut Cx<Self>, report: Promise<f64>) -> Self {
        let value = cx.index() as f64;
        let mut from = [None, None];
        for (side, slot) in from.iter_mut().enumerate() {
            let (put_window, to) = cx.job().put_window(1);
            put_window.notify(cx.proxy().arrived_sink(), side);
            let neighbour = (cx.index() + if side == 0 { CELLS - 1 } else { 1 }) % CELLS;
            cx.collection().at(neighbour).connect(1 - side, to);
            *slot = Some(put_window);
        }
        Self { value, from, to: [None, None], heard: [false; 2], step: 0, has_news: true, report }
    }
    #[entry]
    fn connect(&mut self, cx: &mut Cx<Self>, side: usize, to: PutHandle<f64>) {
        self.free(cx, side, to);
    }
    fn tell(&mut self, cx: &mut Cx<Self>) {
        for side in 0..2 {
            let put = self.to[side].take().expect("it came back").put(vec![self.value]);
            let this = cx.this();
            cx.spawn(async move {
                // At the end the neighbour may be gone.
                if let Ok(to) = put.checked().await {
                    this.proxy().free(side, to);
                }
            });
        }
    }
    #[entry]
    fn free(&mut self, cx: &mut Cx<Self>, side: usize, to: PutHandle<f64>) {
        self.to[side] = Some(to);
        self.go_on(cx);
    }
    #[entry]
    fn arrived(&mut self, cx: &mut Cx<Self>, side: usize) {
        assert!(!self.heard[side], "nothing arrives before the last one was read");
        self.heard[side] = true;
        self.go_on(cx);
    }
    fn go_on(&mut self, cx: &mut Cx<Self>) {
        if self.heard == [true; 2] && !self.has_news {
            self.heard = [false; 2];
            self.value += self.from.iter_mut().flatten().map(|from| from.read().expect("it is here")[0]).sum::<f64>();
            self.value /= 3.0;
            self.step += 1;
            self.has_news = self.step < STEPS;
            if self.step == STEPS && cx.index() == 2 {
                self.report.send(self.value);
            }
        }
        if self.has_news && self.to.iter().all(Option::is_some) {
            self.has_news = false;
            self.tell(cx);
            self.go_on(cx);
        }
    }
}

fn averaged() -> f64 {
    let mut cells: Vec<f64> = (0..CELLS).map(|i| i as f64).collect();
    for _ in 0..STEPS {
        let at = |i: usize| cells[i % CELLS];
        cells = (0..CELLS).map(|i| (at(i + CELLS - 1) + at(i) + at(i + 1)) / 3.0).collect();
    }
    cells[2]
}

#[test]
fn an_arrival_calls_the_entry_method_that_its_window_names() {
    let cells = async |job: Job| {
        let (report, reported) = job.promise();
        job.array::<Cell1d>(CELLS, report);
        assert!((reported.await - averaged()).abs() < 1e-12);
    };
    law(move |job| async move { cells(job).await });
    on_processes(cells);
}

#[test]
fn a_job_is_not_quiescent_while_a_put_is_on_its_way() {
    thread_local! {
        static SEEN: Cell<u64> = const { Cell::new(0) };
    }
    law(|job| async move {
        SEEN.set(0);
        let (mut put_window, to) = job.put_window::<u64>(LEN);
        drop(job.array::<Putter>(4, ()).at(3).rows(to, 2).call());
        job.spawn(async move {
            SEEN.set(put_window.next().await[0] + 1);
            SEEN.set(put_window.next().await[0] + 1);
        });
        job.quiescence().await;
        assert_eq!(SEEN.get(), 2);
    });
}

#[test]
fn there_may_be_more_put_windows_than_a_transport_has_windows() {
    on_processes(async |job| {
        let putter = job.array::<Putter>(2, ()).at(1);
        let mut open = Vec::new();
        for _ in 0..600 {
            let (put_window, to) = job.put_window::<u64>(300);
            let done = putter.rows(to, 2).call();
            open.push((put_window, done));
        }
        for (put_window, _) in &mut open {
            assert!(put_window.next().await.iter().all(|item| *item == 0));
            assert!(put_window.next().await.iter().all(|item| *item == 1));
        }
        for (_, done) in open {
            done.await;
        }
    });
}
