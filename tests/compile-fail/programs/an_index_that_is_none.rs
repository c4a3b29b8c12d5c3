use charm4rs::prelude::*;

struct Block;

#[chare(index = String)]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
}

fn main() {}
