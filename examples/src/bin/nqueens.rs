//! The number of ways to place N queens on a board of N x N so that none attacks another.
//!
//! `cargo charmrun +p4 nqueens 12 --grain 8`
//!
//! A search whose tree is not known in advance: each chare is a board with some rows filled; it creates a chare for each way to fill the next row,
//! and ends. When few rows are left, it counts alone. It shows three things:
//!
//! - *Priorities.* Deeper boards first: the search is depth-first, so that few boards exist at a time.
//! - *A group as a counter.* Each PE has one element, which the chares of that PE add to without a message.
//! - *Quiescence.* The number of boards is not known in advance; quiescence tells when none is left.

use charm4rs::prelude::*;

/// Counts the solutions of the N queens problem.
#[derive(clap::Parser)]
struct Options {
    /// Queens, and rows of the board.
    #[arg(default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=20))]
    n: u32,
    /// With this many rows left, a chare counts alone.
    #[arg(long, default_value_t = 7)]
    grain: u32,
}

/// The known counts, from N = 1 on.
const KNOWN: [u64; 18] =
    [1, 0, 0, 2, 10, 4, 40, 92, 352, 724, 2680, 14200, 73712, 365596, 2279184, 14772512, 95815104, 666090624];

/// The attacked fields of the next row: from above, and along the two diagonals.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Board {
    rows_left: u32,
    above: u32,
    left: u32,
    right: u32,
}

impl Board {
    /// The boards with one more row filled.
    fn next(self, n: u32) -> impl Iterator<Item = Self> {
        let mut free = !(self.above | self.left | self.right) & ((1 << n) - 1);
        std::iter::from_fn(move || {
            let queen = free & free.wrapping_neg();
            free ^= queen;
            (queen != 0).then_some(Self {
                rows_left: self.rows_left - 1,
                above: self.above | queen,
                left: (self.left | queen) << 1,
                right: (self.right | queen) >> 1,
            })
        })
    }

    fn count(self, n: u32) -> u64 {
        if self.rows_left == 0 { 1 } else { self.next(n).map(|board| board.count(n)).sum() }
    }
}

/// The counts of a PE.
#[derive(Default)]
struct Counter {
    solutions: u64,
    chares: u64,
}

#[chare(index = Pe)]
impl Counter {
    #[init]
    fn new() -> Self {
        Self::default()
    }

    #[entry]
    fn counts(&self) -> [u64; 2] {
        [self.solutions, self.chares]
    }
}

/// A board, and the group of counters.
struct Search {
    n: u32,
    grain: u32,
    counter: Group<Counter>,
}

#[chare]
impl Search {
    #[init]
    fn new(n: u32, grain: u32, counter: Group<Counter>) -> Self {
        Self { n, grain, counter }
    }

    /// Searches from `board` on, and ends.
    #[entry]
    fn expand(&mut self, cx: &mut Cx<Self>, board: Board) {
        let mut solutions = 0;
        if board.rows_left <= self.grain {
            solutions = board.count(self.n);
        } else {
            for board in board.next(self.n) {
                let child = cx.job().single::<Self>((self.n, self.grain, self.counter));
                child.expand(board).priority(board.rows_left as i32 - self.n as i32);
            }
        }
        self.counter.with_local(|counter| {
            counter.solutions += solutions;
            counter.chares += 1;
        });
        cx.destroy();
    }
}

#[charm4rs::main]
async fn main(job: Job, options: Options) {
    let Options { n, grain } = options;
    let counter = job.group::<Counter>(());
    counter.created().await;
    let began = job.now();
    job.single::<Search>((n, grain, counter)).expand(Board { rows_left: n, above: 0, left: 0, right: 0 });
    job.quiescence().await;
    let time = job.now() - began;
    let [solutions, chares] = counter.all().counts().reduce(reduce::sum).await;
    println!("{n} queens: {solutions} solutions");
    println!("{chares} chares in {time:.1?}: {:.0} a second", chares as f64 / time.as_secs_f64());
    if let Some(known) = KNOWN.get(n as usize - 1).filter(|known| **known != solutions) {
        job.abort(&format!("{n} queens have {known} solutions"));
    }
}
