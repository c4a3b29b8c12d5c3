//! Entry methods that chares have from traits, and proxies of chares of which only a trait is known.

use std::collections::HashSet;
use std::time::Duration;

use charm4rs::prelude::*;
use charm4rs::testing::{over_the_wire, processes};

use crate::law;

#[chare]
trait Shape {
    /// How large it is.
    #[entry]
    fn area(&self) -> f64;
    #[entry]
    fn scale(&mut self, by: f64);
    /// A body in the trait, which implementors may replace.
    #[entry]
    fn describe(&mut self, cx: &mut Cx<Self>, before: String, after: Payload<u8>) -> (Pe, String) {
        (cx.pe(), format!("{before} {} {}", Self::NAME, after.len()))
    }
    #[entry]
    async fn grows(this: This<Self>, steps: u32) -> f64 {
        for _ in 0..steps {
            this.sleep(Duration::from_millis(1)).await;
            this.with(|shape| shape.scale(2.0));
        }
        this.with(|shape| shape.area())
    }
    /// Not an entry method.
    fn fails(&self) -> f64 {
        panic!("it has no area")
    }
}

#[chare]
trait Named {
    #[entry]
    fn name(&self) -> String;
}

struct Circle {
    radius: f64,
}

#[chare]
impl Circle {
    #[init]
    fn new(radius: f64) -> Self {
        Self { radius }
    }
    /// A method of the chare with the name of one of the trait's.
    #[entry]
    fn area(&self) -> u8 {
        1
    }
}

#[chare]
impl Shape for Circle {
    fn area(&self) -> f64 {
        3.0 * self.radius * self.radius
    }
    fn scale(&mut self, by: f64) {
        self.radius *= by;
    }
}

#[chare]
impl Named for Circle {
    #[entry]
    fn name(&self) -> String {
        "a circle".into()
    }
}

struct Square<T> {
    side: T,
}

#[chare(index = (i8, u16), instances(f32, f64))]
impl<T: charm4rs::Arguments + Copy> Square<T> {
    #[init]
    fn new(side: T) -> Self {
        Self { side }
    }
}

#[chare]
impl Shape for Square<f64> {
    fn area(&self) -> f64 {
        self.side * self.side
    }
    fn scale(&mut self, by: f64) {
        self.side *= by;
    }
    fn describe(&mut self, cx: &mut Cx<Self>, before: String, _: Payload<u8>) -> (Pe, String) {
        (cx.pe(), format!("{before} a square at {:?}", cx.index()))
    }
}

#[chare]
impl Shape for Square<f32> {
    fn area(&self) -> f64 {
        self.fails()
    }
    fn scale(&mut self, _: f64) {}
}

struct Host {
    shapes: Vec<AnyProxy<dyn Shape>>,
}

#[chare(index = u32)]
impl Host {
    #[init]
    fn new(shapes: Vec<AnyProxy<dyn Shape>>) -> Self {
        Self { shapes }
    }
    #[entry]
    async fn areas(this: This<Self>) -> f64 {
        let shapes = this.with(|host| host.shapes.clone());
        join_all(shapes.iter().map(|shape| shape.area())).await.into_iter().sum()
    }
    #[entry]
    fn one(&self, cx: &mut Cx<Self>) -> AnyProxy<dyn Shape> {
        self.shapes[cx.index() as usize % self.shapes.len()].clone()
    }
}

#[test]
fn chares_of_different_types_are_called_by_the_methods_of_their_trait() {
    law(|job| async move {
        let (circle, squares) = (job.single::<Circle>(1.0), job.array::<Square<f64>>((2, 2), 1.0));
        let shapes: Vec<AnyProxy<dyn Shape>> =
            vec![circle.into(), squares.at((1, 0)).into(), squares.at((0, 1)).into()];
        shapes.iter().for_each(|shape| drop(shape.scale(2.0).priority(-1)));
        assert_eq!(join_all(shapes.iter().map(|shape| shape.area())).await, [12.0, 4.0, 4.0]);
        assert_eq!(shapes[0].grows(2).await, 12.0 * 16.0);
        let (pe, text) = shapes[1].describe("here is", vec![0]).await;
        assert!(pe.0 < job.pes() && text == "here is a square at (1, 0)", "{text}");
        let (_, text) = shapes[0].describe("here is", vec![1, 2]).await;
        assert!(text.ends_with("traits::Circle 2"), "{text}");
        shapes[2].scale(0.5).done().await;
        assert_eq!(shapes[2].area().timeout(Duration::from_secs(1_000)).await, Ok(1.0));
        // A chare may have methods of several traits, and of its own.
        assert_eq!(AnyProxy::<dyn Named>::from(circle).name().await, "a circle");
        assert_eq!(circle.area().await, 1);
        assert_eq!(circle.as_trait::<dyn Shape>().area().await, 12.0 * 16.0);
        assert_eq!(squares.all().as_trait::<dyn Shape>().area().reduce(reduce::sum).await, 1.0 + 4.0 + 1.0 + 1.0);
    });
}

#[test]
fn trait_proxies_can_be_sent_and_compared() {
    law(|job| async move {
        let squares = job.array::<Square<f64>>((3, 1), 2.0);
        let shapes: Vec<AnyProxy<dyn Shape>> =
            (0..3).map(|at| squares.at((at, 0)).into()).chain([job.single::<Circle>(1.0).into()]).collect();
        let hosts = job.array::<Host>(8, shapes.clone());
        assert_eq!(hosts.all().areas().await, [15.0; 8]);
        let told = hosts.all().one().await;
        assert!(told.iter().eq(shapes.iter().cycle().take(8)));
        assert_eq!(told.into_iter().collect::<HashSet<_>>().len(), 4);
        assert!(format!("{:?}", shapes[3]).contains("traits::Circle"), "{:?}", shapes[3]);
        // A proxy of a chare that does not implement the trait is refused.
        let named: AnyProxy<dyn Named> = job.single::<Circle>(1.0).into();
        assert_eq!(over_the_wire(&named).unwrap(), named);
    });
}

#[test]
fn calls_through_a_trait_fail_like_others() {
    law(|job| async move {
        let wrong: AnyProxy<dyn Shape> = job.array::<Square<f32>>((1, 1), 1.0).at((0, 0)).into();
        let error = wrong.area().checked().await.unwrap_err().to_string();
        assert!(error.contains("traits::Square<f32>[(0, 0)].area panicked") && error.contains("no area"), "{error}");
        let sparse = job.sparse::<Square<f64>>();
        sparse.done_inserting().await;
        let none: AnyProxy<dyn Shape> = sparse.at((1, 1)).into();
        assert!(matches!(none.area().checked().await, Err(CallError::NoSuchElement { .. })));
    });
}

#[test]
fn processes_know_each_others_traits() {
    let job = |job: Job| async move {
        let shapes = vec![job.single_on::<Circle>(Pe(1), 1.0).into(), job.single_on::<Circle>(Pe(2), 2.0).into()];
        assert_eq!(job.array::<Host>(3, shapes).all().areas().await, [15.0; 3]);
    };
    assert_eq!(processes(3, "shm", job).unwrap(), 0);
}
