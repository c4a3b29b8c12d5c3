//! 2-D Jacobi until it has converged: a plate that is hot on one side, and its temperature when nothing changes any more.
//!
//! `cargo charmrun +p4 jacobi2d --size 64 --blocks 4 --tolerance 1e-6`
//!
//! The simplest form of a stencil, in direct style: send edges, receive edges, compute, and decide in every step with all blocks whether to continue.
//! `allreduce(...).await` gives all blocks the same answer, so all stop at the same step. `stencil3d` is a version that is optimized for speed.

use charm4rs::prelude::*;

/// 2-D Jacobi until it has converged.
#[derive(clap::Parser)]
struct Options {
    /// Cells of the plate in each dimension.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    size: u32,
    /// Blocks in each dimension.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    blocks: u32,
    /// Converged: no cell changes by more than this.
    #[arg(long, default_value_t = 1e-4)]
    tolerance: f64,
    /// The maximum number of steps.
    #[arg(long, default_value_t = 10_000)]
    steps: u32,
}

/// Part of the plate, with a frame of its neighbours' cells around it.
#[derive(Clone)]
struct Plate {
    rows: usize,
    columns: usize,
    cells: Vec<f64>,
}

impl Plate {
    /// A cold part. The upper edge of the whole plate is hot.
    fn new(rows: usize, columns: usize, hot: bool) -> Self {
        let mut cells = vec![0.0; (rows + 2) * (columns + 2)];
        if hot {
            cells[..columns + 2].fill(1.0);
        }
        Self { rows, columns, cells }
    }

    /// The positions of a side's cells: inside, or in the frame around.
    fn edge(&self, side: Side, frame: bool) -> impl Iterator<Item = usize> + use<> {
        let (rows, columns, width) = (self.rows, self.columns, self.columns + 2);
        let (start, stride, count) = match (side, frame) {
            (Side::Up, frame) => (1 + if frame { 0 } else { width }, 1, columns),
            (Side::Down, frame) => (1 + if frame { (rows + 1) * width } else { rows * width }, 1, columns),
            (Side::Left, frame) => (width + if frame { 0 } else { 1 }, width, rows),
            (Side::Right, frame) => (width + if frame { columns + 1 } else { columns }, width, rows),
        };
        (0..count).map(move |i| start + i * stride)
    }

    /// One step. Returns the largest change.
    fn step(&mut self) -> f64 {
        let width = self.columns + 2;
        let old = self.cells.clone();
        let mut change = 0.0f64;
        for row in 1..=self.rows {
            for at in row * width + 1..row * width + 1 + self.columns {
                self.cells[at] = 0.25 * ((old[at - 1] + old[at + 1]) + (old[at - width] + old[at + width]));
                change = change.max((self.cells[at] - old[at]).abs());
            }
        }
        change
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Side {
    Up,
    Down,
    Left,
    Right,
}

impl Side {
    const ALL: [Self; 4] = [Self::Up, Self::Down, Self::Left, Self::Right];

    fn opposite(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    fn neighbour(self, (row, column): (u32, u32), blocks: u32) -> Option<(u32, u32)> {
        let (row, column) = match self {
            Self::Up => (row.checked_sub(1)?, column),
            Self::Down => (row + 1, column),
            Self::Left => (row, column.checked_sub(1)?),
            Self::Right => (row, column + 1),
        };
        (row < blocks && column < blocks).then_some((row, column))
    }
}

struct Block {
    plate: Plate,
    neighbours: Vec<(Side, Proxy<Block>)>,
}

#[chare(index = (u32, u32))]
impl Block {
    #[init]
    fn new(cx: &mut Cx<Self>, size: u32, blocks: u32) -> Self {
        let share = |part: u32| ((part + 1) * size / blocks - part * size / blocks) as usize;
        let (row, column) = cx.index();
        let beside = |side: Side| Some((side, cx.collection().at(side.neighbour((row, column), blocks)?)));
        let neighbours = Side::ALL.into_iter().filter_map(beside).collect();
        Self { plate: Plate::new(share(row), share(column), row == 0), neighbours }
    }

    /// A neighbour's cells before `step`, for our `side`.
    #[entry(key = step)]
    fn edge(&mut self, step: u32, side: Side, cells: Vec<f64>);

    /// Steps until all blocks have converged; returns the number of steps.
    #[entry]
    async fn run(this: This<Self>, tolerance: f64, limit: u32) -> u32 {
        let neighbours = this.with(|block| block.neighbours.clone());
        for step in 0..limit {
            for (side, neighbour) in &neighbours {
                let cells = this.with(|b| b.plate.edge(*side, false).map(|at| b.plate.cells[at]).collect());
                neighbour.edge(step, side.opposite(), cells);
            }
            for _ in &neighbours {
                let (side, cells) = this.recv_edge(step).await;
                this.with(|b| b.plate.edge(side, true).zip(cells).for_each(|(at, cell)| b.plate.cells[at] = cell));
            }
            let change = this.with(|block| block.plate.step());
            if this.allreduce(change, reduce::max).await <= tolerance {
                return step + 1;
            }
        }
        limit
    }

    /// The rows of this block.
    #[entry]
    fn rows(&mut self) -> Vec<Vec<f64>> {
        rows(&self.plate)
    }
}

fn rows(plate: &Plate) -> Vec<Vec<f64>> {
    let inner = plate.cells.chunks_exact(plate.columns + 2).skip(1).take(plate.rows);
    inner.map(|row| row[1..=plate.columns].to_vec()).collect()
}

#[charm4rs::main]
async fn main(job: Job, options: Options) {
    let Options { size, blocks, tolerance, steps: limit } = options;
    if blocks > size {
        return job.abort_with(64, &format!("{blocks} blocks are more than the {size} cells that they share"));
    }
    let array = job.array::<Block>((blocks, blocks), (size, blocks));
    let began = job.now();
    let steps = array.all().run(tolerance, limit).await[0];
    let time = job.now() - began;
    println!("{size} x {size} cells in {blocks} x {blocks} blocks on {} PEs", job.pes());
    println!("{steps} steps, {:.1} us each", time.as_secs_f64() * 1e6 / f64::from(steps.max(1)));

    // All blocks' rows, in the order of the blocks; a band of blocks side by side makes whole rows.
    let parts = array.all().rows().await;
    let bands = parts.chunks(blocks as usize);
    let row_of =
        |band: &[Vec<Vec<f64>>], row: usize| band.iter().map(|block| &*block[row]).collect::<Vec<_>>().concat();
    let plate = bands.flat_map(|band| (0..band[0].len()).map(move |row| row_of(band, row)));
    let mut alone = Plate::new(size as usize, size as usize, true);
    let alone_steps = (1..=limit).find(|_| alone.step() <= tolerance).unwrap_or(limit);
    if steps != alone_steps || !plate.eq(rows(&alone)) {
        return job.abort(&format!("one block alone takes {alone_steps} steps, or ends with other cells"));
    }
    println!("one block alone ends with the same cells");
}
