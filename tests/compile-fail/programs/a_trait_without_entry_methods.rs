use charm4rs::prelude::*;

#[chare]
trait Shape {
    fn area(&self) -> f64;
}

fn main() {}
