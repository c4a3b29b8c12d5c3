use charm4rs::prelude::*;

struct Block;

#[chare]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry(post = buffer)]
    fn take(&mut self, rows: Payload<f64>) {
        let _ = rows;
    }
}

fn main() {}
