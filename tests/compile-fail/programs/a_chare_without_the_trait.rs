use charm4rs::prelude::*;

#[chare]
trait Shape {
    #[entry]
    fn area(&self) -> f64;
    fn helper(&self) {}
}

struct Circle;

#[chare]
impl Circle {
    #[init]
    fn new() -> Self {
        Circle
    }
}

impl Shape for Circle {
    fn area(&self) -> f64 {
        3.0
    }
}

struct Square;

#[chare]
impl Square {
    #[init]
    fn new() -> Self {
        Square
    }
}

#[chare]
impl Shape for Square {
    fn area(&self) -> f64 {
        4.0
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    let shape: AnyProxy<dyn Shape> = job.single::<Square>(()).into();
    shape.helper();
    let shape = AnyProxy::<dyn Shape>::from(job.single::<Circle>(()));
}
