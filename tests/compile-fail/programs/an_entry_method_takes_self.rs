use charm4rs::prelude::*;

struct Block;

#[chare]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry]
    fn scale(self, by: f64) {
        let _ = by;
    }
}

fn main() {}
