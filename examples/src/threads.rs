//! `stencil3d` without chares: each thread takes a slab of the planes, and all meet at a barrier after each step.
//!
//! The chares are measured against this, so it is written for speed: the sweep is the same, no plane is copied, the locks exist only for the compiler
//! and never wait, and the barrier spins.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::stencil::{Face, Outcome, Side, Tile, Triple, checksum, sweep, sweep_and_compare};

/// The steps of [`serial`](crate::stencil::serial) on `threads` threads; every `check`th step computes the largest change. Also returns the time of
/// the steps after the first `warm_up`.
///
/// # Panics
/// If there are more threads than planes.
#[must_use]
pub fn with_threads(grid: Triple, threads: usize, warm_up: u32, steps: u32, check: u32) -> (Outcome, Duration) {
    assert!((1..=grid[0]).contains(&threads), "{threads} threads cannot share {} planes", grid[0]);
    let slabs: Vec<_> = (0..threads).map(|i| Slab::new(grid, i, threads)).collect();
    let meeting = Meeting::default();
    let checks = (warm_up + steps).div_ceil(check) as usize;
    let changes: Vec<_> = (0..=checks).map(|_| AtomicU64::new(0)).collect();
    let run = |i: usize| {
        let mut began = Instant::now();
        for step in 1..=warm_up + steps {
            if step == warm_up + 1 {
                meeting.wait(threads);
                began = Instant::now();
            }
            let compare = step % check == 0 || step == warm_up + steps;
            if let Some(mine) = slabs[i].step(i, &slabs, step as usize % 2, compare) {
                // Non-negative floating-point numbers are in the order of their bits.
                changes[step.div_ceil(check) as usize].fetch_max(mine.to_bits(), Ordering::Relaxed);
            }
            meeting.wait(threads);
        }
        began.elapsed()
    };
    let time = thread::scope(|scope| {
        let run = &run;
        let others: Vec<_> = (1..threads).map(|i| scope.spawn(move || run(i))).collect();
        let time = run(0);
        for other in others {
            other.join().expect("a thread that sweeps does not panic");
        }
        time
    });
    let parity = (warm_up + steps) as usize % 2;
    let checksum = slabs
        .iter()
        .fold(0, |sum: u64, slab| sum.wrapping_add(checksum(&slab.read(parity), slab.origin, slab.size, grid)));
    let last = &changes[(warm_up + steps).div_ceil(check) as usize];
    (Outcome { checksum, change: f64::from_bits(last.load(Ordering::Relaxed)) }, time)
}

/// A thread's planes: the values after even steps and those after odd ones.
struct Slab {
    size: Triple,
    origin: Triple,
    cells: [RwLock<Vec<f64>>; 2],
    around: [Vec<f64>; 6],
}

impl Slab {
    fn new(grid: Triple, i: usize, threads: usize) -> Self {
        let tile = Tile::new(grid, [i, 0, 0], [threads, 1, 1]);
        let around = Side::ALL.map(|side| tile.boundary(side, grid));
        let (origin, size, cells) = tile.into_parts();
        Self { size, origin, cells: cells.map(RwLock::new), around }
    }

    /// Computes the values of `parity` from the others.
    fn step(&self, i: usize, slabs: &[Self], parity: usize, compare: bool) -> Option<f64> {
        let low = i.checked_sub(1).map(|i| slabs[i].read(1 - parity));
        let high = slabs.get(i + 1).map(|slab| slab.read(1 - parity));
        let now = self.read(1 - parity);
        let mut next = self.cells[parity].write().expect("no thread panics with the lock");
        let plane = self.size[1] * self.size[2];
        let mut faces = self.around.each_ref().map(|cells| Face::Fixed(cells));
        if let Some(low) = &low {
            faces[0] = Face::Fixed(&low[low.len() - plane..]);
        }
        if let Some(high) = &high {
            faces[1] = Face::Fixed(&high[..plane]);
        }
        if compare {
            return Some(sweep_and_compare(self.size, &now, &mut next, faces));
        }
        sweep(self.size, &now, &mut next, faces);
        None
    }

    fn read(&self, parity: usize) -> RwLockReadGuard<'_, Vec<f64>> {
        self.cells[parity].read().expect("no thread panics with the lock")
    }
}

/// A barrier for threads that have a core each.
#[derive(Default)]
struct Meeting {
    here: AtomicUsize,
    round: AtomicUsize,
}

impl Meeting {
    fn wait(&self, threads: usize) {
        let round = self.round.load(Ordering::Relaxed);
        if self.here.fetch_add(1, Ordering::AcqRel) + 1 == threads {
            self.here.store(0, Ordering::Relaxed);
            self.round.store(round + 1, Ordering::Release);
            return;
        }
        let mut spins = 0u32;
        while self.round.load(Ordering::Acquire) == round {
            spins += 1;
            // Another process may have our neighbour's core.
            if spins.is_multiple_of(10_000) { thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stencil::serial;

    #[test]
    fn threads_give_the_bits_of_a_grid_in_one_piece() {
        for threads in [1, 2, 3] {
            let (outcome, _) = with_threads([7, 4, 6], threads, 3, 4, 2);
            assert_eq!(outcome, serial([7, 4, 6], 7), "{threads} threads");
        }
    }
}
