use charm4rs::prelude::*;

struct Block;

#[chare]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry]
    async fn run(&mut self, steps: u32) {
        let _ = steps;
    }
}

fn main() {}
