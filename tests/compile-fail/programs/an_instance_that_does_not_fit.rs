use charm4rs::prelude::*;

trait Real: charm4rs::Arguments {}
impl Real for f64 {}

struct Block<T>(T);

#[chare(instances(f64, u8))]
impl<T: Real> Block<T> {
    #[init]
    fn new(of: T) -> Self {
        Block(of)
    }
}

fn main() {}
