//! 7-point Jacobi on a 3-D grid that is cut into blocks, each a chare: many per PE, so that one sweeps while another waits for its neighbours.
//!
//! `cargo charmrun +p4 stencil3d --size 128 --blocks 8,2,1 --steps 200`
//!
//! The steps of a block read from top to bottom in `run`: it waits for its neighbours' faces, sweeps, and sends its own. It never waits for all
//! others; blocks may be as many steps apart as their neighbours allow. Every `--check` steps a reduction finds the largest change of a cell, beside
//! the sweeps. The numerical code is in `stencil.rs`; `stencil3d-threads` is the same program without chares.

use std::ops::Range;
use std::str::FromStr;

use charm4rs::prelude::*;
use charm4rs_examples::stencil::{self, Face, Side, Tile, Triple};

/// 7-point Jacobi on a 3-D grid of fixed boundary values.
#[derive(clap::Parser)]
struct Options {
    /// Cells of the grid: X,Y,Z, or one number for all three.
    #[arg(long, value_name = "CELLS", default_value = "96")]
    size: Three,
    /// Blocks in each dimension. Default: two for each PE in x, two in y.
    #[arg(long, value_name = "BLOCKS", conflicts_with = "block_size")]
    blocks: Option<Three>,
    /// Cells of a block, instead of the number of blocks.
    #[arg(long, value_name = "CELLS")]
    block_size: Option<Three>,
    /// Steps whose time is measured.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before the measurement.
    #[arg(long, default_value_t = 10)]
    warm_up: u32,
    /// Steps between two checks of the largest change.
    #[arg(long, value_name = "STEPS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    check: u32,
    /// Extra work of the last blocks in x, as a multiple of a sweep; the first ones have none.
    #[arg(long, value_name = "SWEEPS", default_value_t = 0.0)]
    imbalance: f64,
    /// Compare with a serial run even if the grid is large.
    #[arg(long)]
    serial: bool,
}

/// A serial run with at most this many updates of a cell is always made.
const SERIAL_WORK_MAX: usize = 200_000_000;

/// The parameters of all blocks.
#[derive(Clone, Serialize, Deserialize)]
struct Setup {
    grid: Triple,
    blocks: Triple,
    check: u32,
    imbalance: f64,
}

struct Block {
    setup: Setup,
    tile: Tile,
    /// The cells beside each side: fixed ones at the edge of the grid, the neighbours' cells elsewhere.
    faces: [Payload<f64>; 6],
    neighbours: [Option<Proxy<Block>>; 6],
    /// Extra work, in sweeps.
    extra: f64,
}

#[chare(index = (usize, usize, usize))]
impl Block {
    #[init]
    fn new(cx: &mut Cx<Self>, setup: Setup) -> Self {
        let place = <[usize; 3]>::from(cx.index());
        let tile = Tile::new(setup.grid, place, setup.blocks);
        let neighbours = Side::ALL.map(|side| {
            let index = side.neighbour(place, setup.blocks)?;
            Some(cx.collection().at(index.into()))
        });
        let faces = Side::ALL.map(|side| match neighbours[side.position()] {
            Some(_) => Payload::zeroed(tile.face_cells(side)),
            None => tile.boundary(side, setup.grid).into(),
        });
        let extra = setup.imbalance * place[0] as f64 / (setup.blocks[0] - 1).max(1) as f64;
        Self { setup, tile, faces, neighbours, extra }
    }

    /// A neighbour's cells after `step`, for our `side`.
    #[entry(key = step)]
    fn face(&mut self, step: u32, side: Side, cells: Payload<f64>);

    /// Makes these steps. Returns the largest change of any block's cell at the last check.
    #[entry]
    async fn run(this: This<Self>, steps: Range<u32>) -> f64 {
        let (expected, check) = this.with(|b| (b.neighbours.iter().flatten().count(), b.setup.check));
        let mut look = None;
        for step in steps.clone() {
            if step > 0 {
                for _ in 0..expected {
                    let (side, cells) = this.recv_face(step - 1).await;
                    this.with(|block| block.faces[side.position()] = cells);
                }
            }
            if (step + 1) % check == 0 || step + 1 == steps.end {
                let change = this.with(|block| block.step(step, Tile::sweep_and_compare));
                // The result is not awaited here: it may arrive at any time.
                look = Some(this.allreduce(change, reduce::max));
            } else {
                this.with(|block| block.step(step, Tile::sweep));
            }
        }
        // The last step has checked, if there was one.
        look.expect("there are steps").await
    }

    /// This block's part of the grid's checksum.
    #[entry]
    fn checksum(&self) -> u64 {
        self.tile.checksum(self.setup.grid)
    }

    /// Sweeps, and sends the faces. The sweep has put our new cells where the neighbours' old ones were: so a face returns to its sender in the same
    /// memory.
    fn step<R>(&mut self, step: u32, sweep: impl FnOnce(&mut Tile, [Face<'_>; 6]) -> R) -> R {
        self.tile.waste(self.extra);
        let mut neighbours = self.neighbours.iter();
        let faces = self.faces.each_mut().map(|cells| match neighbours.next() {
            Some(Some(_)) => Face::Exchanged(cells),
            _ => Face::Fixed(cells),
        });
        let result = sweep(&mut self.tile, faces);
        for (side, neighbour) in Side::ALL.iter().zip(&self.neighbours) {
            if let Some(neighbour) = neighbour {
                neighbour.face(step, side.opposite(), std::mem::take(&mut self.faces[side.position()]));
            }
        }
        result
    }
}

// Visible to `stencil3d-unix` (in `backend/`), which is this program over another transport.
#[charm4rs::main]
pub(crate) async fn main(job: Job, options: Options) {
    let grid = options.size.0;
    let blocks = match (&options.blocks, &options.block_size) {
        (Some(blocks), _) => blocks.0,
        (None, Some(cells)) => std::array::from_fn(|d| grid[d].div_ceil(cells.0[d])),
        (None, None) => [grid[0].min(2 * job.pes() as usize), grid[1].min(2), 1],
    };
    if (0..3).any(|d| blocks[d] > grid[d]) {
        return job.abort_with(64, &format!("{blocks:?} blocks are more than the {grid:?} cells that they share"));
    }
    let Options { check, imbalance, warm_up, steps, .. } = options;
    let total = warm_up + steps;
    let array = job.array::<Block>(blocks.into(), Setup { grid, blocks, check, imbalance });
    if warm_up > 0 {
        array.all().run(0..warm_up).done().await;
    }
    let began = job.now();
    let changes = array.all().run(warm_up..total).await;
    let time = job.now() - began;
    let checksum = array.all().checksum().reduce(reduce::sum).await;
    let outcome = stencil::Outcome { checksum, change: changes[0] };

    let (cells, pes) = (grid.iter().product::<usize>(), job.pes());
    println!("{grid:?} cells in {blocks:?} blocks on {pes} PEs, {total} steps");
    let step = time.as_secs_f64() / f64::from(steps.max(1));
    println!("time per step: {:.1} us ({:.3} ns a cell)", step * 1e6, step * 1e9 / cells as f64);
    println!("largest change of the last step: {:.6e}", outcome.change);
    println!("checksum: {:016x}", outcome.checksum);
    if options.serial || cells * total as usize <= SERIAL_WORK_MAX {
        let serial = stencil::serial(grid, total);
        if serial != outcome {
            return job.abort(&format!("a serial run gives another result: {serial:?}"));
        }
        println!("a serial run gives the same");
    }
}

/// Three counts, as in `64,32,32`; one count stands for all three.
#[derive(Clone, Copy, Debug)]
struct Three(Triple);

impl FromStr for Three {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "expected one or three counts above 0, as in 64 or 64,32,32";
        let counts: Option<Vec<usize>> = text.split(',').map(|part| part.parse().ok().filter(|n| *n > 0)).collect();
        match counts.ok_or(WANTED)?[..] {
            [all] => Ok(Self([all; 3])),
            [x, y, z] => Ok(Self([x, y, z])),
            _ => Err(WANTED),
        }
    }
}
