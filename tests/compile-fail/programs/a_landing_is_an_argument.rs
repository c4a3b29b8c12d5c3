use charm4rs::Landing;
use charm4rs::prelude::*;

struct Block;

#[chare]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry]
    fn take(&mut self, landing: Landing<f64>) {
        let _ = landing;
    }
}

fn main() {}
