//! The reference for `stencil3d`: the same sweep by plain threads over plain arrays, with a barrier after each step. See `threads.rs`.
//!
//! `cargo run --release --bin stencil3d-threads -- --threads 2 --size 128 --steps 200`

use charm4rs_examples::{stencil, threads};
use clap::Parser as _;

/// 7-point Jacobi on a 3-D grid of fixed boundary values, without chares.
#[derive(clap::Parser)]
struct Options {
    /// Cells of the grid in each dimension.
    #[arg(long, value_name = "CELLS", default_value_t = 96)]
    size: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Steps whose time is measured.
    #[arg(long, default_value_t = 100)]
    steps: u32,
    /// Steps before the measurement.
    #[arg(long, default_value_t = 10)]
    warm_up: u32,
    /// Steps between two checks of the largest change.
    #[arg(long, value_name = "STEPS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    check: u32,
}

fn main() {
    let Options { size, threads, steps, warm_up, check } = Options::parse();
    let grid: stencil::Triple = [size; 3];
    let (outcome, time) = threads::with_threads(grid, threads, warm_up, steps, check);
    let step = time.as_secs_f64() / f64::from(steps.max(1));
    println!("{grid:?} cells on {threads} threads, {} steps", warm_up + steps);
    println!(
        "time per step: {:.1} us ({:.3} ns a cell)",
        step * 1e6,
        step * 1e9 / grid.iter().product::<usize>() as f64
    );
    println!("largest change of the last step: {:.6e}", outcome.change);
    println!("checksum: {:016x}", outcome.checksum);
}
