//! Generic chares: each listed instance is a chare type.

use std::ops::AddAssign;

use charm4rs::prelude::*;

use crate::law;

trait Real: Copy + AddAssign + Send + Into<f64> + Serialize + for<'de> Deserialize<'de> + 'static {
    const NAME: &'static str;
}

impl Real for f32 {
    const NAME: &'static str = "f32";
}

impl Real for f64 {
    const NAME: &'static str = "f64";
}

struct Row<T, const N: usize> {
    cells: [T; N],
    told: usize,
}

#[chare(index = usize, instances((f32, 3), (f64, 3), (f64, 5)))]
impl<T: Real, const N: usize> Row<T, N> {
    #[init]
    fn new(of: T) -> Self {
        Self { cells: [of; N], told: 0 }
    }
    #[entry]
    fn add(&mut self, cx: &mut Cx<Self>, by: T) -> (usize, f64) {
        self.cells.iter_mut().for_each(|cell| *cell += by);
        (cx.index(), self.sum())
    }
    #[entry(key = step)]
    fn edge(&mut self, step: u32, cell: T);
    /// Proxies of the type call its methods, and they are received, as for any chare.
    #[entry]
    async fn run(this: This<Self>, next: Proxy<Row<T, N>>, steps: u32) -> T {
        for step in 0..steps {
            let last = this.with(|row| row.cells[N - 1]);
            next.edge(step, last);
            let cell = this.recv_edge(step).await;
            this.with(|row| row.cells[0] += cell);
            next.tell();
        }
        this.with(|row| row.cells[0])
    }
    #[entry]
    fn tell(&mut self) {
        self.told += 1;
    }
    #[entry]
    fn told(&self) -> usize {
        self.told
    }
    #[entry]
    fn fails(&self) {
        panic!("of {}", T::NAME)
    }
}

impl<T: Real, const N: usize> Row<T, N> {
    fn sum(&self) -> f64 {
        self.cells.iter().map(|cell| (*cell).into()).sum()
    }
}

/// A single chare, whose parameter has the name of one of the macro's.
struct Kept<K>(K);

#[chare(instances(String, Vec<u8>))]
impl<K: Arguments + Clone> Kept<K> {
    #[init]
    fn new(kept: K) -> Self {
        Self(kept)
    }
    #[entry]
    fn kept(&self) -> K {
        self.0.clone()
    }
}

use charm4rs::Arguments;

/// A single chare of one instance.
struct Single<T>(T);

#[chare]
impl Single<u8> {
    #[init]
    fn new() -> Self {
        Self(7)
    }
    #[entry]
    fn get(&self) -> u8 {
        self.0
    }
}

#[test]
fn each_instance_of_a_generic_chare_is_a_chare_type() {
    law(|job| async move {
        let short = job.array::<Row<f32, 3>>(4, 1.5);
        let long = job.array::<Row<f64, 5>>(4, 2.0);
        assert_eq!(short.all().add(0.5).await, (0..4).map(|at| (at, 6.0)).collect::<Vec<_>>());
        assert_eq!(long.all().add(1.0).reduce((reduce::max, reduce::sum)).await, (3, 60.0));
        let rows = job.array::<Row<f64, 3>>(2, 1.0);
        let steps = [0, 1].map(|at| rows.at(at).run(rows.at(1 - at), 10).call());
        for steps in steps {
            assert_eq!(steps.await, 11.0);
        }
        job.quiescence().await;
        assert_eq!(rows.all().told().await, [10, 10]);
        assert_eq!(job.single::<Kept<String>>("text").kept().await, "text");
        assert_eq!(job.single::<Kept<Vec<u8>>>(vec![1, 2]).kept().await, [1, 2]);
        assert_eq!(job.single::<Single<u8>>(()).get().await, 7);
    });
}

#[test]
fn errors_tell_the_instances_of_a_chare_apart() {
    law(|job| async move {
        let error = job.array::<Row<f64, 5>>(2, 0.0).at(1).fails().checked().await.unwrap_err().to_string();
        assert!(error.contains("generics::Row<f64, 5>[1].fails") && error.contains("of f64"), "{error}");
        assert!(format!("{:?}", job.array::<Row<f32, 3>>(2, 0.0).at(1)).starts_with("Row<f32, 3>@"));
    });
}
