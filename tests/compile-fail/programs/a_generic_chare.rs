use charm4rs::prelude::*;

struct Block<T>(T);

#[chare]
impl<T> Block<T> {
    #[init]
    fn new(of: T) -> Self {
        Block(of)
    }
}

fn main() {}
