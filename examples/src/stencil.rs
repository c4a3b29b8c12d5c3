//! A 7-point Jacobi sweep over boxes of a 3-D grid: the common part of `stencil3d` and `stencil3d-threads`.
//!
//! Each sweep replaces every cell by the mean of itself and its six neighbours. The grid is surrounded by a layer of fixed values, [`boundary`]. A
//! grid is cut into boxes ([`Tile`]), each with a layer of neighbouring cells on its six sides ([`Face`]). The cells of a box are dense, without
//! halos among them. Instead a sweep reads a face when it comes to the cells beside it, and overwrites it with their new values, which the neighbour
//! needs next. So a face goes back and forth between two neighbours in the same memory, and nothing else is copied.
//!
//! All orders of summation are fixed, so a grid cut into boxes gives the same bits as a grid in one piece.

use std::ops::Range;

/// The position of a cell or a box, or an extent: x, y, z. Neighbours in z are neighbours in memory.
pub type Triple = [usize; 3];

/// One of a box's six sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Side(u8);

impl Side {
    /// All six: low x, high x, low y, high y, low z, high z.
    pub const ALL: [Self; 6] = [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5)];

    /// The same side, seen from the other box.
    #[must_use]
    pub fn opposite(self) -> Self {
        Self(self.0 ^ 1)
    }

    /// Its position in [`Side::ALL`].
    #[must_use]
    pub fn position(self) -> usize {
        usize::from(self.0)
    }

    /// 0, 1 or 2 for x, y or z.
    #[must_use]
    pub fn axis(self) -> usize {
        usize::from(self.0 / 2)
    }

    /// Whether it is the side of the larger coordinates.
    #[must_use]
    pub fn is_high(self) -> bool {
        self.0 % 2 == 1
    }

    /// The box on this side of the box at `place`, in a grid of `boxes`.
    #[must_use]
    pub fn neighbour(self, place: Triple, boxes: Triple) -> Option<Triple> {
        let mut next = place;
        next[self.axis()] = if self.is_high() { place[self.axis()] + 1 } else { place[self.axis()].checked_sub(1)? };
        (next[self.axis()] < boxes[self.axis()]).then_some(next)
    }
}

/// The fixed value at a position around the grid, in coordinates that include this layer: 0 is below the grid, and `size + 1` above it.
///
/// It is linear in all three coordinates, and so is the solution to which the sweeps converge.
#[must_use]
pub fn boundary(at: Triple, size: Triple) -> f64 {
    let weigh = |p: Triple| (p[0] + 2 * p[1] + 3 * p[2]) as f64;
    weigh(at) / weigh(size)
}

/// The range of part `part` when `cells` are cut into `parts` whose sizes differ by at most one.
#[must_use]
pub fn share(cells: usize, part: usize, parts: usize) -> Range<usize> {
    cells * part / parts..cells * (part + 1) / parts
}

/// The cells beside one side of a box.
#[derive(Debug)]
pub enum Face<'a> {
    /// Only read.
    Fixed(&'a [f64]),
    /// Read, then overwritten by the box's own new cells on that side.
    Exchanged(&'a mut [f64]),
}

impl Face<'_> {
    fn row(&self, at: Range<usize>) -> &[f64] {
        match self {
            Face::Fixed(cells) => &cells[at],
            Face::Exchanged(cells) => &cells[at],
        }
    }

    fn cell(&self, at: usize) -> f64 {
        match self {
            Face::Fixed(cells) => cells[at],
            Face::Exchanged(cells) => cells[at],
        }
    }

    fn put_row(&mut self, at: Range<usize>, row: &[f64]) {
        if let Face::Exchanged(cells) = self {
            cells[at].copy_from_slice(row);
        }
    }

    fn put_cell(&mut self, at: usize, value: f64) {
        if let Face::Exchanged(cells) = self {
            cells[at] = value;
        }
    }
}

/// A box of the grid: its current cells, and memory for their next values.
#[derive(Debug)]
pub struct Tile {
    /// The position of its first cell in the grid, and its extent.
    origin: Triple,
    size: Triple,
    now: Vec<f64>,
    next: Vec<f64>,
}

impl Tile {
    /// The box at `place` when a grid of `size` is cut into `boxes`. Its cells are 0.
    #[must_use]
    pub fn new(size: Triple, place: Triple, boxes: Triple) -> Self {
        let ranges: [Range<usize>; 3] = std::array::from_fn(|d| share(size[d], place[d], boxes[d]));
        let origin = std::array::from_fn(|d| ranges[d].start);
        let own: Triple = std::array::from_fn(|d| ranges[d].len());
        let cells = own.iter().product();
        Self { origin, size: own, now: vec![0.0; cells], next: vec![0.0; cells] }
    }

    /// The number of cells.
    #[must_use]
    pub fn cells(&self) -> usize {
        self.now.len()
    }

    /// The number of cells on a side.
    #[must_use]
    pub fn face_cells(&self, side: Side) -> usize {
        self.cells() / self.size[side.axis()]
    }

    /// The cells of the plane at `x`.
    #[must_use]
    pub fn plane(&self, x: usize) -> &[f64] {
        let cells = self.size[1] * self.size[2];
        &self.now[x * cells..(x + 1) * cells]
    }

    /// The fixed values beside a side at the edge of the grid, in the order of a face: by rows.
    #[must_use]
    pub fn boundary(&self, side: Side, grid: Triple) -> Vec<f64> {
        let [first, second] = [[1, 2], [0, 2], [0, 1]][side.axis()];
        let mut values = Vec::with_capacity(self.face_cells(side));
        for i in 0..self.size[first] {
            for j in 0..self.size[second] {
                let mut at = [0; 3];
                at[first] = self.origin[first] + i + 1;
                at[second] = self.origin[second] + j + 1;
                at[side.axis()] = if side.is_high() { grid[side.axis()] + 1 } else { 0 };
                values.push(boundary(at, grid));
            }
        }
        values
    }

    /// One step of all cells; `faces` in the order of [`Side::ALL`].
    pub fn sweep(&mut self, faces: [Face<'_>; 6]) {
        sweep(self.size, &self.now, &mut self.next, faces);
        std::mem::swap(&mut self.now, &mut self.next);
    }

    /// One step of all cells. Returns the largest change of a cell.
    pub fn sweep_and_compare(&mut self, faces: [Face<'_>; 6]) -> f64 {
        let change = sweep_and_compare(self.size, &self.now, &mut self.next, faces);
        std::mem::swap(&mut self.now, &mut self.next);
        change
    }

    /// Its position in the grid, its extent, and its cells twice: the current values, and memory for the next ones.
    #[must_use]
    pub fn into_parts(self) -> (Triple, Triple, [Vec<f64>; 2]) {
        (self.origin, self.size, [self.now, self.next])
    }

    /// Work without a result, as much as that of `steps` steps: an unbalanced load.
    pub fn waste(&mut self, steps: f64) {
        let nz = self.size[2];
        let rows = (self.cells() / nz) as f64 * steps;
        for row in 0..rows as usize {
            let at = row * nz % self.cells();
            let cells = &self.now[at..at + nz];
            sweep_row(&mut self.next[at..at + nz], cells, [0.0; 2], [cells; 4]);
        }
    }

    /// A number that depends on the bits and the position of every cell: equal only if all cells are equal, apart from collisions. The checksums of a
    /// grid's boxes add up to that of the grid, in any order.
    #[must_use]
    pub fn checksum(&self, grid: Triple) -> u64 {
        checksum(&self.now, self.origin, self.size, grid)
    }

    /// The sum of all cells.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.now.iter().sum()
    }
}

/// One step of the cells of a box of `size`, from `now` to `next`.
pub fn sweep(size: Triple, now: &[f64], next: &mut [f64], faces: [Face<'_>; 6]) {
    rows(size, now, next, faces, |_, _| {});
}

/// As [`sweep`]; returns the largest change of a cell.
pub fn sweep_and_compare(size: Triple, now: &[f64], next: &mut [f64], faces: [Face<'_>; 6]) -> f64 {
    let mut largest = 0.0;
    rows(size, now, next, faces, |before, after| largest = largest_change(before, after, largest));
    largest
}

#[inline]
fn rows(
    [nx, ny, nz]: Triple,
    now: &[f64],
    next: &mut [f64],
    faces: [Face<'_>; 6],
    mut compare: impl FnMut(&[f64], &[f64]),
) {
    let [mut low_x, mut high_x, mut low_y, mut high_y, mut low_z, mut high_z] = faces;
    let plane = ny * nz;
    for x in 0..nx {
        for y in 0..ny {
            let at = x * plane + y * nz;
            let (in_x, in_y, in_z) = (y * nz..(y + 1) * nz, x * nz..(x + 1) * nz, x * ny + y);
            let here = at..at + nz;
            let new = &mut next[here.clone()];
            let beside = [
                if x > 0 { &now[at - plane..][..nz] } else { low_x.row(in_x.clone()) },
                if x + 1 < nx { &now[at + plane..][..nz] } else { high_x.row(in_x.clone()) },
                if y > 0 { &now[at - nz..][..nz] } else { low_y.row(in_y.clone()) },
                if y + 1 < ny { &now[at + nz..][..nz] } else { high_y.row(in_y.clone()) },
            ];
            sweep_row(new, &now[here.clone()], [low_z.cell(in_z), high_z.cell(in_z)], beside);
            compare(&now[here], new);
            // The row is still in the cache: fill the faces now.
            if x == 0 {
                low_x.put_row(in_x.clone(), new);
            }
            if x + 1 == nx {
                high_x.put_row(in_x, new);
            }
            if y == 0 {
                low_y.put_row(in_y.clone(), new);
            }
            if y + 1 == ny {
                high_y.put_row(in_y, new);
            }
            low_z.put_cell(in_z, new[0]);
            high_z.put_cell(in_z, new[nz - 1]);
        }
    }
}

/// See [`Tile::checksum`]; for a box that begins at `origin`.
#[must_use]
pub fn checksum(cells: &[f64], origin: Triple, size: Triple, grid: Triple) -> u64 {
    let mut sum = 0u64;
    for (row, cells) in cells.chunks_exact(size[2]).enumerate() {
        let (x, y) = (row / size[1] + origin[0], row % size[1] + origin[1]);
        let mut place = ((x * grid[1] + y) * grid[2] + origin[2]) as u64;
        for cell in cells {
            place += 1;
            sum = sum.wrapping_add(cell.to_bits().wrapping_mul(place.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
        }
    }
    sum
}

/// The new values of a row: the inner loop of the sweep. `ends` are the cells before and after the row, `beside` the rows on its four sides.
///
/// All slices are cut to one length first, so that the compiler omits the bounds checks and uses vector instructions.
#[inline(never)]
fn sweep_row(new: &mut [f64], old: &[f64], ends: [f64; 2], beside: [&[f64]; 4]) {
    const SEVENTH: f64 = 1.0 / 7.0;
    let n = new.len();
    let [a, b, c, d] = beside.map(|row| &row[..n]);
    let old = &old[..n];
    let mean = |here, before, behind, a, b, c, d| (here + (before + behind) + ((a + b) + (c + d))) * SEVENTH;
    if n == 1 {
        new[0] = mean(old[0], ends[0], ends[1], a[0], b[0], c[0], d[0]);
        return;
    }
    new[0] = mean(old[0], ends[0], old[1], a[0], b[0], c[0], d[0]);
    new[n - 1] = mean(old[n - 1], old[n - 2], ends[1], a[n - 1], b[n - 1], c[n - 1], d[n - 1]);
    let m = n - 2;
    let (before, here, behind) = (&old[..m], &old[1..][..m], &old[2..][..m]);
    let (a, b, c, d) = (&a[1..][..m], &b[1..][..m], &c[1..][..m], &d[1..][..m]);
    for (k, new) in new[1..][..m].iter_mut().enumerate() {
        *new = mean(here[k], before[k], behind[k], a[k], b[k], c[k], d[k]);
    }
}

/// The largest difference between two rows, or `largest` if that is larger. In four lanes: the order of a maximum does not matter, but a compiler
/// does not know that for floating-point numbers.
fn largest_change(old: &[f64], new: &[f64], largest: f64) -> f64 {
    let pick = |a: f64, b: f64| if a > b { a } else { b };
    let mut lanes = [largest; 4];
    let (olds, news) = (old.chunks_exact(4), new.chunks_exact(4));
    let rest = olds.remainder().iter().zip(news.remainder());
    let tail = rest.fold(largest, |top, (a, b)| pick((a - b).abs(), top));
    for (a, b) in olds.zip(news) {
        for lane in 0..4 {
            lanes[lane] = pick((a[lane] - b[lane]).abs(), lanes[lane]);
        }
    }
    lanes.into_iter().fold(tail, pick)
}

/// The result of a run, to be compared.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Outcome {
    /// See [`Tile::checksum`].
    pub checksum: u64,
    /// The largest change of a cell in the last step.
    pub change: f64,
}

/// The whole grid in one piece, on this thread.
#[must_use]
pub fn serial(grid: Triple, steps: u32) -> Outcome {
    let mut tile = Tile::new(grid, [0; 3], [1; 3]);
    let around = Side::ALL.map(|side| tile.boundary(side, grid));
    let mut change = 0.0;
    for step in 1..=steps {
        let faces = around.each_ref().map(|cells| Face::Fixed(cells));
        if step == steps { change = tile.sweep_and_compare(faces) } else { tile.sweep(faces) }
    }
    Outcome { checksum: tile.checksum(grid), change }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sweeps a grid that is cut into boxes, exchanging faces as the chares do.
    fn in_boxes(grid: Triple, boxes: Triple, steps: u32) -> Outcome {
        let count: usize = boxes.iter().product();
        let place = |i: usize| [i / (boxes[1] * boxes[2]), i / boxes[2] % boxes[1], i % boxes[2]];
        let number = |p: Triple| (p[0] * boxes[1] + p[1]) * boxes[2] + p[2];
        let mut tiles: Vec<_> = (0..count).map(|i| Tile::new(grid, place(i), boxes)).collect();
        let mut faces: Vec<[Vec<f64>; 6]> = (0..count)
            .map(|i| {
                Side::ALL.map(|side| match side.neighbour(place(i), boxes) {
                    Some(_) => vec![0.0; tiles[i].face_cells(side)],
                    None => tiles[i].boundary(side, grid),
                })
            })
            .collect();
        let mut change = 0.0;
        for _ in 0..steps {
            change = 0.0;
            for i in 0..count {
                let mut side = Side::ALL.iter();
                let borders = faces[i].each_mut().map(|cells| {
                    match side.next().and_then(|side| side.neighbour(place(i), boxes)) {
                        Some(_) => Face::Exchanged(cells),
                        None => Face::Fixed(cells),
                    }
                });
                change = f64::max(change, tiles[i].sweep_and_compare(borders));
            }
            for i in 0..count {
                for side in Side::ALL.into_iter().filter(|side| side.is_high()) {
                    if let Some(next) = side.neighbour(place(i), boxes).map(number) {
                        let mine = std::mem::take(&mut faces[i][side.position()]);
                        let theirs = std::mem::replace(&mut faces[next][side.opposite().position()], mine);
                        faces[i][side.position()] = theirs;
                    }
                }
            }
        }
        let checksum = tiles.iter().fold(0, |sum: u64, tile| sum.wrapping_add(tile.checksum(grid)));
        Outcome { checksum, change }
    }

    #[test]
    fn a_grid_in_boxes_gives_the_bits_of_a_grid_in_one_piece() {
        for (grid, boxes) in [
            ([7, 5, 9], [1, 1, 1]),
            ([7, 5, 9], [3, 2, 4]),
            ([4, 4, 4], [4, 4, 4]),
            ([2, 3, 17], [2, 1, 2]),
            ([1, 1, 1], [1, 1, 1]),
        ] {
            assert_eq!(in_boxes(grid, boxes, 6), serial(grid, 6), "{grid:?} in {boxes:?}");
        }
    }

    #[test]
    fn sweeps_converge_to_the_linear_function_of_the_boundary() {
        let grid = [4, 5, 6];
        let mut tile = Tile::new(grid, [0; 3], [1; 3]);
        let around = Side::ALL.map(|side| tile.boundary(side, grid));
        for _ in 0..500 {
            tile.sweep(around.each_ref().map(|cells| Face::Fixed(cells)));
        }
        for x in 0..4 {
            for (i, cell) in tile.plane(x).iter().enumerate() {
                let want = boundary([x + 1, i / 6 + 1, i % 6 + 1], grid);
                assert!((cell - want).abs() < 1e-12, "{cell} for {want} at {x}, {i}");
            }
        }
    }

    #[test]
    fn a_checksum_changes_when_two_cells_are_swapped() {
        let mut tile = Tile::new([1, 1, 5], [0; 3], [1; 3]);
        tile.now = vec![1.0, 2.0, 3.0, 4.0, 5.0];
        let before = tile.checksum([1, 1, 5]);
        tile.now.swap(1, 3);
        assert_ne!(before, tile.checksum([1, 1, 5]));
    }

    #[test]
    fn an_unbalanced_load_does_not_change_the_result() {
        let grid = [3, 4, 5];
        let mut tile = Tile::new(grid, [0; 3], [1; 3]);
        let around = Side::ALL.map(|side| tile.boundary(side, grid));
        for _ in 0..4 {
            tile.waste(1.7);
            tile.sweep(around.each_ref().map(|cells| Face::Fixed(cells)));
        }
        assert_eq!(tile.checksum(grid), serial(grid, 4).checksum);
    }
}
