use charm4rs::prelude::*;

struct Block;

#[chare(index = usize)]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry(key = step)]
    fn edge(&mut self, step: u32) {
        let _ = step;
    }
}

#[charm4rs::main]
async fn main(_job: Job) {}
