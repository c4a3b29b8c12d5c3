//! A stencil, the most frequent kind of program with neighbours: a grid in strips, several on each PE, each of which sends its first and last row to
//! its neighbours in every step; compared with the same work without neighbours, measured in turn.

use std::hint::black_box;
use std::time::Instant;

use charm4rs::prelude::*;

use crate::Options;
use crate::table::{self, Table};

/// Strips per PE.
const STRIPS: u32 = 4;
/// Rows of a strip, without its neighbours' rows.
const ROWS: usize = 16;

/// A strip of a grid, with a row of each neighbour.
struct Strip {
    columns: usize,
    now: Vec<f64>,
    next: Vec<f64>,
}

impl Strip {
    fn row(&self, at: usize) -> &[f64] {
        &self.now[at * self.columns..(at + 1) * self.columns]
    }

    fn work(&mut self) {
        let columns = self.columns;
        for at in columns..(ROWS + 1) * columns {
            let around = self.now[at - columns] + self.now[at + columns] + self.now[at - 1] + self.now[at + 1];
            self.next[at] = 0.5 * self.now[at] + 0.125 * around;
        }
        std::mem::swap(&mut self.now, &mut self.next);
    }
}

#[chare(index = u32)]
impl Strip {
    #[init]
    fn new(columns: usize) -> Self {
        let cells = vec![1.0; (ROWS + 2) * columns];
        Self { columns, now: cells.clone(), next: cells }
    }

    /// A neighbour's row: before this strip, or after it.
    #[entry(key = step)]
    fn edge(&mut self, step: u32, before: bool, row: Payload<f64>);

    #[entry]
    async fn steps(this: This<Self>, strips: u32, steps: u32) {
        let own = this.index();
        let neighbours = [(own + strips - 1) % strips, (own + 1) % strips].map(|at| this.collection().at(at));
        for step in 0..steps {
            let [first, last] = this.with(|strip| [1, ROWS].map(|at| Payload::from(strip.row(at).to_vec())));
            neighbours[0].edge(step, false, first);
            neighbours[1].edge(step, true, last);
            for _ in 0..2 {
                let (before, row) = this.recv_edge(step).await;
                this.with(|strip| {
                    let at = if before { 0 } else { (ROWS + 1) * strip.columns };
                    strip.now[at..at + row.len()].copy_from_slice(&row);
                });
            }
            this.with(Self::work);
        }
    }
}

/// The nanoseconds that this core takes for a PE's work of a step.
fn alone(columns: usize, steps: u32) -> f64 {
    let mut strips: Vec<Strip> = (0..STRIPS).map(|_| Strip::new(columns)).collect();
    let start = Instant::now();
    for _ in 0..steps {
        strips.iter_mut().for_each(|strip| black_box(strip).work());
    }
    start.elapsed().as_nanos() as f64 / f64::from(steps)
}

pub(crate) async fn run(job: &Job, options: &Options) {
    let title = format!("stencil: a step of {STRIPS} strips of {ROWS} rows on each of {} PEs, by row", job.pes());
    let table = Table::beside(title, "ns", Some("the work alone, on one core"));
    for &size in options.sizes(&[256, 2 << 10, 16 << 10]) {
        let columns = (size / size_of::<f64>()).max(2);
        let count = STRIPS * job.pes();
        let strips = job.array::<Strip>(count, columns);
        strips.created().await;
        let steps = table::times(1 << 20, columns, 16..=4_000);
        let limit = || alone(columns, steps);
        let step = || async { strips.all().steps(count, steps).done().await };
        let (figure, limit) = table::each_of(options.runs(), steps, Some(&limit), step).await;
        table.sized(size, &figure, limit.as_ref());
    }
}
