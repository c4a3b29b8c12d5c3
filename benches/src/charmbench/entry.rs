//! The entry-method layer, which programs use.

use std::cell::Cell;
use std::future::Future;
use std::time::Instant;

use charm4rs::prelude::*;

use crate::Options;
use crate::limits::Limit;
use crate::table::{self, Figure, Table, Tail};

/// Small calls that a pair has in flight at once.
const WINDOW: u32 = 64;

/// One on each PE; PE 0's neighbour is the last PE.
struct Player {
    left: u32,
    waiting: Option<Promise<Option<Payload<u8>>>>,
    calls: u64,
    /// When the rally's current turn began, and the duration of each turn; only for rallies in which each turn is timed.
    turn: Option<Instant>,
    turns: Vec<f64>,
}

#[chare(index = u32)]
impl Player {
    #[init]
    fn new() -> Self {
        Self { left: 0, waiting: None, calls: 0, turn: None, turns: Vec::new() }
    }

    /// Begins a rally of `rounds` there and back.
    #[entry]
    fn serve(
        &mut self,
        cx: &mut Cx<Self>,
        peer: Proxy<Self>,
        rounds: u32,
        data: Option<Payload<u8>>,
        done: Promise<Option<Payload<u8>>>,
    ) {
        self.left = rounds;
        self.waiting = Some(done);
        self.turn = self.turn.map(|_| Instant::now());
        match data {
            None => drop(peer.small(cx.proxy(), rounds)),
            Some(data) => drop(peer.large(cx.proxy(), data)),
        }
    }

    #[entry]
    fn small(&mut self, cx: &mut Cx<Self>, from: Proxy<Self>, left: u32) {
        if self.waiting.is_some() {
            self.take_turn();
            if self.left == 0 {
                return self.finish(None);
            }
        }
        from.small(cx.proxy(), left);
    }

    #[entry]
    fn large(&mut self, cx: &mut Cx<Self>, from: Proxy<Self>, data: Payload<u8>) {
        if self.waiting.is_some() {
            self.take_turn();
            if self.left == 0 {
                return self.finish(Some(data));
            }
        }
        from.large(cx.proxy(), data);
    }

    /// Sends `count` small calls.
    #[entry]
    fn shower(&mut self, peer: Proxy<Self>, count: u32, done: Promise<()>) {
        for value in 0..count {
            peer.drop_in(value);
        }
        peer.last(done);
    }

    #[entry]
    fn drop_in(&mut self, value: u32) {
        self.calls += u64::from(value & 1);
    }

    #[entry]
    fn last(&mut self, done: Promise<()>) {
        done.send(());
    }

    /// Sends `count` payloads of `size` bytes.
    #[entry]
    fn stream(&mut self, peer: Proxy<Self>, count: u32, size: usize, done: Promise<()>) {
        for _ in 0..count {
            peer.take(Payload::zeroed(size));
        }
        peer.last(done);
    }

    /// Reads all of the data, so that all of it must arrive.
    #[entry]
    fn take(&mut self, data: Payload<u8>) {
        self.calls += data.chunks(64).map(|line| u64::from(line[0])).sum::<u64>() + 1;
    }

    #[entry]
    fn echo(&mut self, value: u64) -> u64 {
        value + 1
    }

    #[entry]
    fn reduce(&mut self, cx: &mut Cx<Self>, to: Promise<u64>) {
        cx.contribute(1u64, reduce::sum, to);
    }

    /// Lets the turns of the next rally be timed; `count`: their number.
    #[entry]
    fn time_turns(&mut self, count: u32) {
        self.turns.reserve(count as usize);
        self.turn = Some(Instant::now());
    }

    /// How long each turn took, one way.
    #[entry]
    fn timed_turns(&mut self) -> Vec<f64> {
        self.turn = None;
        std::mem::take(&mut self.turns)
    }

    /// Sends small calls, a window of them at a time, and waits until the last call of each window has run.
    #[entry]
    async fn windows(_: This<Self>, peer: Proxy<Self>, windows: u32) {
        for _ in 0..windows {
            for value in 1..WINDOW {
                peer.drop_in(value);
            }
            peer.drop_in(0).done().await;
        }
    }

    fn take_turn(&mut self) {
        self.left -= 1;
        if let Some(began) = &mut self.turn {
            let now = Instant::now();
            self.turns.push((now - std::mem::replace(began, now)).as_nanos() as f64 / 2.0);
        }
    }

    fn finish(&mut self, data: Option<Payload<u8>>) {
        if let Some(done) = self.waiting.take() {
            done.send(data);
        }
    }
}

/// An element that does nothing.
struct Dust;

#[chare(index = u64)]
impl Dust {
    #[init]
    fn new() -> Self {
        Self
    }
}

pub(crate) struct Bench {
    job: Job,
    options: Options,
    players: Group<Player>,
    peer: Pe,
}

impl Bench {
    pub(crate) async fn new(job: Job, options: Options) -> Self {
        let players = job.group::<Player>(());
        players.created().await;
        Self { job, options, players, peer: Pe(job.pes() - 1) }
    }

    /// Measures `runs` times; nanoseconds for each of `count` operations.
    async fn measure<F: Future<Output = ()>>(&self, count: u32, what: impl Fn() -> F) -> Figure {
        self.measure_in_turn(count, None, what).await.0
    }

    /// The same, in turn with a limit.
    async fn measure_in_turn<F: Future<Output = ()>>(
        &self,
        count: u32,
        limit: Option<&dyn Fn() -> f64>,
        what: impl Fn() -> F,
    ) -> (Figure, Option<Figure>) {
        table::each_of(self.options.runs(), count, limit, what).await
    }

    /// A rally with `data`, which comes back: creating it again would be measured too.
    async fn rally(&self, rounds: u32, data: &Cell<Option<Payload<u8>>>) {
        let (done, reply) = self.job.promise();
        self.players.on(Pe(0)).serve(self.players.on(self.peer), rounds, data.take(), done);
        data.set(reply.await);
    }

    pub(crate) async fn latency(&self) {
        let limit = Limit::of_this_job();
        let title = format!("entry method: one way, PE 0 and PE {}", self.peer);
        let table = Table::with_tails(title, "ns", limit.map(Limit::latency_name));
        for &size in self.options.sizes(&[0, 64, 1 << 10, 4 << 10, 64 << 10, 1 << 20, 16 << 20]) {
            let rounds = table::times(64 << 20, size, 64..=10_000);
            let limit = limit.map(|limit| move || limit.latency(size.max(8)));
            let limit = limit.as_ref().map(|f| f as &dyn Fn() -> f64);
            let data = Cell::new((size > 0).then(|| Payload::zeroed(size)));
            let (figure, limit) = self.measure_in_turn(2 * rounds, limit, || self.rally(rounds, &data)).await;
            // Reading the clock in each turn takes time: so that is a rally of its own.
            self.players.on(Pe(0)).time_turns(rounds).done().await;
            self.rally(rounds, &data).await;
            let turns = self.players.on(Pe(0)).timed_turns().await;
            table.sized(size, &figure.with_tail(Tail::of(turns)), limit.as_ref());
        }
    }

    pub(crate) async fn rate(&self) {
        let table = Table::new("entry method: small calls", "ns each");
        // A PE can only queue calls to itself: few at a time, otherwise the figure is that of its memory.
        for (name, to, rounds, count) in
            [("to another PE", self.peer, 1, 200_000), ("to the same PE, 1,000 at a time", Pe(0), 200, 1000)]
        {
            let figure = self
                .measure(rounds * count, || async {
                    for _ in 0..rounds {
                        let (done, reply) = self.job.promise();
                        self.players.on(Pe(0)).shower(self.players.on(to), count, done);
                        reply.await;
                    }
                })
                .await;
            table.row(name, &figure);
        }
        self.pairs(&table).await;
    }

    /// All PEs of the first half send to those of the second.
    async fn pairs(&self, table: &Table) {
        let pairs = self.job.pes() / 2;
        let windows = 2_000;
        if pairs == 0 {
            return;
        }
        let figure = self
            .measure(pairs * windows * WINDOW, || async {
                let pair = |from| self.players.on(Pe(from)).windows(self.players.on(Pe(from + pairs)), windows).done();
                let ends: Vec<_> = (0..pairs).map(pair).collect();
                for end in ends {
                    end.await;
                }
            })
            .await;
        table.row(&format!("{pairs} pairs at once, {WINDOW} in flight in each"), &figure);
    }

    pub(crate) async fn bandwidth(&self) {
        let limit = Limit::of_this_job();
        let table = Table::beside("entry method: payloads, written and read", "GB/s", limit.map(Limit::stream_name));
        for &size in self.options.sizes(&[4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20]) {
            let least = if size > 256 << 20 { 1 } else { 4 };
            let count = table::times(256 << 20, size, least..=20_000);
            let limit = limit.map(|limit| move || limit.stream(size));
            let limit = limit.as_ref().map(|f| f as &dyn Fn() -> f64);
            let (figure, limit) = self
                .measure_in_turn(count, limit, || async {
                    let (done, reply) = self.job.promise();
                    self.players.on(Pe(0)).stream(self.players.on(self.peer), count, size, done);
                    reply.await;
                })
                .await;
            table.sized(size, &figure.speed(size), limit.map(|limit| limit.speed(size)).as_ref());
        }
    }

    pub(crate) async fn operations(&self) {
        let table = Table::new("entry method: operations", "ns each");
        let rounds = 100_000;
        let figure = self
            .measure(rounds, || async {
                let (done, reply) = self.job.promise();
                let here = self.players.on(Pe(0));
                here.serve(here, rounds, None, done);
                reply.await;
            })
            .await;
        table.row("call to itself, one after another", &figure);
        for (name, to) in [("call and reply, other PE", self.peer), ("call and reply, same PE", Pe(0))] {
            let count = 20_000;
            let figure = self
                .measure(count, || async {
                    let proxy = self.players.on(to);
                    for value in 0..count {
                        proxy.echo(u64::from(value)).await;
                    }
                })
                .await;
            table.row(name, &figure);
        }
        let count = 5_000;
        let figure = self
            .measure(count, || async {
                for _ in 0..count {
                    let (to, sum) = self.job.promise();
                    self.players.all().reduce(to);
                    assert_eq!(sum.await, u64::from(self.job.pes()));
                }
            })
            .await;
        table.row(&format!("broadcast and reduction, {} PEs", self.job.pes()), &figure);
        let figure = self
            .measure(1000, || async {
                for _ in 0..1000 {
                    self.job.quiescence().await;
                }
            })
            .await;
        table.row("quiescence", &figure);
        let count = 200_000;
        let figure =
            self.measure(count, || async { self.job.array::<Dust>(u64::from(count), ()).created().await }).await;
        table.row(&format!("array elements made, {} PEs", self.job.pes()), &figure);
    }
}
