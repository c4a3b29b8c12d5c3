//! Large arrays of plain data.

use charm4rs::prelude::*;
use charm4rs::testing::over_the_wire;

use crate::{law, simulated};

/// Plain data with an alignment of its own.
#[derive(Clone, Copy, PartialEq, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Point {
    x: f64,
    id: u64,
}

/// Payloads whose items have every alignment.
type Alignments = (Payload<u8>, Payload<u16>, Payload<Point>, (Payload<Line>, Payload<u128>), Payload<u64>);

#[derive(Clone, Copy, PartialEq, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

struct Store {
    kept: Payload<f64>,
}

#[chare(index = usize)]
impl Store {
    #[init]
    fn new(first: Payload<f64>) -> Self {
        Self { kept: first }
    }
    #[entry]
    fn keep(&mut self, row: Payload<f64>) -> f64 {
        self.kept = row;
        self.kept.iter().sum()
    }
    #[entry]
    fn scribble(&mut self, cx: &mut Cx<Self>, mut row: Payload<f64>) -> f64 {
        row[0] = cx.index() as f64;
        row.iter().sum()
    }
    #[entry]
    fn give(&self) -> Payload<f64> {
        self.kept.clone()
    }
    #[entry]
    fn kinds(
        &self,
        bytes: Payload<u8>,
        halves: Payload<u16>,
        points: Payload<Point>,
        (lines, wide): (Payload<Line>, Payload<u128>),
        nothing: Payload<u64>,
    ) -> Alignments {
        assert!(lines.as_ptr().addr().is_multiple_of(64) && points.as_ptr().addr().is_multiple_of(8));
        (bytes, halves, points, (lines, wide), nothing)
    }
}

fn row(len: usize) -> Payload<f64> {
    (0..len).map(|i| i as f64).collect()
}

#[test]
fn payloads_of_every_size_arrive_unchanged_and_come_back() {
    simulated(36, |job| async move {
        let stores = job.array::<Store>(4, row(3));
        for len in [0usize, 1, 127, 128, 129, 1_000, 8_192, 70_000, 300_000] {
            let sum = (len * len.saturating_sub(1) / 2) as f64;
            for i in 0..4 {
                assert_eq!(stores.at(i).keep(row(len)).await, sum);
                assert_eq!(stores.at(i).give().await, row(len));
            }
            assert_eq!(stores.all().keep(row(len)).await, [sum; 4]);
        }
        assert_eq!(stores.all().give().await, vec![row(300_000); 4]);
    });
}

#[test]
fn payloads_of_every_size_cross_threads() {
    crate::on_threads(|job| async move {
        let stores = job.array::<Store>(4, row(100_000));
        assert_eq!(stores.all().give().await, vec![row(100_000); 4]);
        for len in [0, 128, 10_000, 2_000_000] {
            assert_eq!(stores.at(3).keep(row(len)).await, row(len).iter().sum::<f64>());
            assert_eq!(stores.at(3).give().await.len(), len);
        }
    });
}

#[test]
fn writing_to_a_shared_payload_writes_to_a_copy() {
    law(|job| async move {
        let stores = job.array::<Store>(6, row(1));
        let shared = row(1_000);
        let sums = stores.all().scribble(shared.clone()).await;
        assert_eq!(sums, (0..6).map(|i| f64::from(i) + 499_500.0).collect::<Vec<_>>());
        assert_eq!(shared[0], 0.0);
        let (a, b) = (stores.at(4).scribble(shared.clone()).call(), stores.at(5).scribble(shared.clone()).call());
        assert_eq!((a.await, b.await, shared[0]), (499_504.0, 499_505.0, 0.0));
    });
}

#[test]
fn payloads_of_every_alignment_are_aligned_where_they_arrive() {
    law(|job| async move {
        let stores = job.array::<Store>(4, row(1));
        for len in [0u8, 1, 3, 200] {
            let bytes: Payload<u8> = (0..len).collect();
            let halves: Payload<u16> = (0..u16::from(len)).map(|i| i * 257).collect();
            let points: Payload<Point> = (0..len).map(|i| Point { x: f64::from(i), id: u64::MAX }).collect();
            let lines: Payload<Line> = (0..len).map(|i| Line([i; 64])).collect();
            let wide: Payload<u128> = (0..len).map(|i| u128::MAX - u128::from(i)).collect();
            let all = (bytes, halves, points, (lines, wide), Payload::default());
            for i in 0..4 {
                let (a, b, c, d, e) = all.clone();
                assert_eq!(stores.at(i).kinds(a, b, c, d, e).await, all);
            }
            let (a, b, c, d, e) = all.clone();
            assert_eq!(stores.all().kinds(a, b, c, d, e).await, vec![all; 4]);
        }
    });
}

#[test]
fn serialization_round_trips() {
    for len in [0, 1, 127, 128, 100_000] {
        let row: Vec<f64> = (0..len).map(f64::from).collect();
        let value = ("row".to_owned(), Payload::copy_of(&row), len);
        let (name, there, beside) = over_the_wire(&value).unwrap();
        assert_eq!((&*name, &*there, beside), ("row", &*row, len));
    }
}
