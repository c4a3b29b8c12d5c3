//! Operations in which all PEs take part, and the benefit of asynchrony for a program.
//!
//! Each PE's member repeats an operation, one after another, as programs do in their loops; PE 0 takes the time from the call of all members to the
//! end of all, and divides. An allreduce ends for a member when it has the result, so members are never more than one operation ahead.

use std::hint::black_box;
use std::time::{Duration, Instant};

use charm4rs::prelude::*;

use crate::limits::read_lines;
use crate::table::{self, Figure, Table};
use crate::{Options, What};

/// One on each PE.
struct Member;

#[chare(index = u32)]
impl Member {
    #[init]
    fn new() -> Self {
        Self
    }

    /// Reads a broadcast payload.
    #[entry]
    fn got(&mut self, data: Payload<u8>) {
        read_lines(&data);
    }

    #[entry]
    async fn barriers(this: This<Self>, rounds: u32) {
        for _ in 0..rounds {
            this.allreduce((), reduce::barrier).await;
        }
    }

    #[entry]
    async fn allreduces(this: This<Self>, rounds: u32, numbers: usize) {
        for _ in 0..rounds {
            if numbers == 1 {
                black_box(this.allreduce(1.0f64, reduce::sum).await);
                continue;
            }
            black_box(this.allreduce(Payload::<f64>::zeroed(numbers), reduce::sum).await);
        }
    }

    /// Another member's part of a round in which all send to all.
    #[entry(key = round)]
    fn part(&mut self, round: u32, data: Payload<u8>);

    #[entry]
    async fn exchanges(this: This<Self>, rounds: u32, size: usize) {
        let (own, pes, members) = (this.index(), this.job().pes(), this.collection());
        for round in 0..rounds {
            for step in 1..pes {
                members.at((own + step) % pes).part(round, Payload::zeroed(size));
            }
            for _ in 1..pes {
                let data = this.recv_part(round).await;
                read_lines(&data);
            }
        }
    }

    /// With one partner: both send at once, and wait for the other's message.
    #[entry]
    async fn crossings(this: This<Self>, partner: u32, rounds: u32, size: usize) {
        let partner = this.collection().at(partner);
        for round in 0..rounds {
            partner.part(round, Payload::zeroed(size));
            let data = this.recv_part(round).await;
            read_lines(&data);
        }
    }

    /// As `crossings`, but nothing is written or read: the received payload goes back. With work between sending and waiting.
    #[entry]
    async fn crossings_at_work(this: This<Self>, partner: u32, rounds: u32, size: usize, work_ns: u64) {
        let partner = this.collection().at(partner);
        let mut data = Payload::zeroed(size);
        for round in 0..rounds {
            partner.part(round, data);
            work(Duration::from_nanos(work_ns));
            data = this.recv_part(round).await;
        }
    }

    #[entry]
    fn nudge(&mut self) {}
}

/// Keeps the core busy.
fn work(time: Duration) {
    if time.is_zero() {
        return;
    }
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

pub(crate) struct Collectives {
    job: Job,
    options: Options,
    members: Group<Member>,
}

impl Collectives {
    pub(crate) async fn new(job: Job, options: Options) -> Self {
        let members = job.group::<Member>(());
        members.created().await;
        Self { job, options, members }
    }

    /// Nanoseconds for each of `count` operations.
    async fn measure<F: Future<Output = ()>>(&self, count: u32, what: impl Fn() -> F) -> Figure {
        table::each_of(self.options.runs(), count, None, what).await.0
    }

    pub(crate) async fn all(&self) {
        if self.options.wants(What::Barrier) {
            let table = Table::new(format!("barrier, {} PEs", self.job.pes()), "ns each");
            let rounds = 2_000;
            let figure = self.measure(rounds, || async { self.members.all().barriers(rounds).done().await }).await;
            table.row("one after another", &figure);
        }
        if self.options.wants(What::Broadcast) {
            let title = format!("broadcast to {} PEs, and its completion", self.job.pes());
            self.sized(title, &[8, 1 << 10, 64 << 10, 1 << 20], async |rounds, size| {
                for _ in 0..rounds {
                    self.members.all().got(Payload::zeroed(size)).done().await;
                }
            })
            .await;
        }
        if self.options.wants(What::Allreduce) {
            let title = format!("allreduce of numbers, {} PEs", self.job.pes());
            self.sized(title, &[8, 1 << 10, 64 << 10, 1 << 20], async |rounds, size| {
                self.members.all().allreduces(rounds, size.div_ceil(8)).done().await;
            })
            .await;
        }
        if self.options.wants(What::Alltoall) {
            let title = format!("all to all, {} PEs: a round, to each", self.job.pes());
            self.sized(title, &[8, 1 << 10, 64 << 10, 1 << 20], async |rounds, size| {
                self.members.all().exchanges(rounds, size).done().await;
            })
            .await;
        }
        if self.job.pes() == 1 {
            return; // what follows is between two
        }
        if self.options.wants(What::Bibw) {
            self.bibw().await;
        }
        if self.options.wants(What::Overlap) {
            self.overlap().await;
        }
        if self.options.wants(What::IdleWake) {
            self.idle_wake().await;
        }
    }

    /// A table over sizes; `what` runs this many rounds.
    async fn sized(&self, title: String, usual: &[usize], what: impl AsyncFn(u32, usize)) {
        let table = Table::new(title, "ns each");
        for &size in self.options.sizes(usual) {
            let rounds = rounds(size);
            table.sized(size, &self.measure(rounds, || what(rounds, size)).await, None);
        }
    }

    fn last(&self) -> u32 {
        self.job.pes() - 1
    }

    async fn bibw(&self) {
        let table = Table::new(format!("both ways at once, PE 0 and PE {}", self.last()), "GB/s");
        for &size in self.options.sizes(&[4 << 10, 64 << 10, 1 << 20, 16 << 20]) {
            let rounds = rounds(size);
            let figure = self.measure(rounds, || self.cross(rounds, size, None)).await;
            table.sized(size, &figure.speed(2 * size), None);
        }
    }

    async fn cross(&self, rounds: u32, size: usize, work_ns: Option<u64>) {
        let ends = [(0, self.last()), (self.last(), 0)].map(|(own, partner)| {
            let member = self.members.at(own);
            match work_ns {
                None => member.crossings(partner, rounds, size).done(),
                Some(work_ns) => member.crossings_at_work(partner, rounds, size, work_ns).done(),
            }
        });
        for end in ends {
            end.await;
        }
    }

    /// The fraction of an exchange that is hidden behind an equal amount of work.
    async fn overlap(&self) {
        let table = Table::new("overlap: of an exchange, behind as much work", "% hidden");
        for &size in self.options.sizes(&[1 << 10, 64 << 10, 1 << 20]) {
            let rounds = rounds(size);
            let alone = self.measure(rounds, || self.cross(rounds, size, Some(0))).await.median();
            let both = self.measure(rounds, || self.cross(rounds, size, Some(alone as u64))).await;
            let hidden = |both: f64| (100.0 * (2.0 * alone - both) / alone).clamp(0.0, 100.0);
            table.sized(size, &Figure::of(both.runs().iter().map(|&both| hidden(both)).collect()), None);
        }
    }

    /// A call to a PE that sleeps, and its answer.
    async fn idle_wake(&self) {
        let table = Table::new(format!("call and reply, PE {} asleep", self.last()), "ns each");
        let mut times = Vec::new();
        for _ in 0..self.options.runs() * 5 {
            self.job.sleep(Duration::from_millis(5)).await;
            let start = Instant::now();
            self.members.at(self.last()).nudge().await;
            times.push(start.elapsed().as_nanos() as f64);
        }
        table.row("after 5 ms without work", &Figure::of(times));
    }
}

/// The number of rounds for a run of some milliseconds.
fn rounds(size: usize) -> u32 {
    table::times(32 << 20, size, 8..=2_000)
}
