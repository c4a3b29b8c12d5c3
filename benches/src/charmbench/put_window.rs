//! Put windows: one-way puts without a handshake into memory that another chare has exposed once. Compared with the same limit as a call's latency.

use std::time::{Duration, Instant};

use charm4rs::prelude::*;
use charm4rs::{PutHandle, PutWindow};

use crate::Options;
use crate::limits::Limit;
use crate::table::{self, Table};

/// One on each PE; PE 0's mate is that of the last PE.
struct Mate {
    put_window: Option<PutWindow<u8>>,
}

#[chare(index = Pe)]
impl Mate {
    #[init]
    fn new() -> Self {
        Self { put_window: None }
    }

    /// Creates a put window, for the mate that gets this handle.
    #[entry]
    fn open(&mut self, cx: &mut Cx<Self>, size: usize) -> PutHandle<u8> {
        let (put_window, handle) = cx.job().put_window(size);
        self.put_window = Some(put_window);
        handle
    }

    /// Puts, or answers a put with one, for so many rounds; returns nanoseconds per put.
    #[entry]
    async fn rally(this: This<Self>, to: PutHandle<u8>, rounds: u32, begins: bool) -> f64 {
        let mut put_window = this.with(|mate| mate.put_window.take()).expect("it was opened");
        // Data is gone after a put: creating it again would be measured too.
        let mut data = (0..=rounds).map(|_| Payload::<u8>::zeroed(to.len())).collect::<Vec<_>>().into_iter();
        if !begins {
            drop(put_window.next().await);
        }
        let mut put = to.put(data.next().expect("one more than rounds"));
        let mut start = None;
        for data in data {
            drop(put_window.next().await);
            // Not earlier: the other mate may still have been creating its data.
            start.get_or_insert_with(Instant::now);
            put = put.await.put(data);
        }
        if begins {
            drop(put_window.next().await);
        }
        let took = start.map_or(Duration::ZERO, |start| start.elapsed());
        put.await;
        took.as_nanos() as f64 / f64::from(2 * rounds)
    }
}

pub(crate) async fn run(job: &Job, options: &Options) {
    let (here, there) = (Pe(0), Pe(job.pes() - 1));
    if here == there {
        return;
    }
    let mates = job.group::<Mate>(());
    let limit = Limit::of_this_job();
    let title = format!("put-window: a put and its arrival, one way, PE 0 and PE {there}");
    let table = Table::beside(title, "ns", limit.map(Limit::latency_name));
    for &size in options.sizes(&[8, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 16 << 20]) {
        let rounds = table::times(64 << 20, size, 8..=5_000);
        let limit = limit.map(|limit| move || limit.latency(size.max(8)));
        let limit = limit.as_ref().map(|f| f as &dyn Fn() -> f64);
        let rally = || async {
            let (mine, other) = (mates.on(here).open(size).await, mates.on(there).open(size).await);
            let answering = mates.on(there).rally(mine, rounds, false).call();
            let time = mates.on(here).rally(other, rounds, true).await;
            answering.await;
            time
        };
        let (figure, limit) = table::timed(options.runs(), limit, rally).await;
        table.sized(size, &figure, limit.as_ref());
    }
}
