use charm4rs::prelude::*;

trait Shape {
    fn area(&self) -> f64;
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

fn main() {}
