#![deny(unused)]
use charm4rs::prelude::*;

struct Block;

#[chare(index = usize)]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry]
    fn scale(&mut self, by: f64) -> f64 {
        by
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    let block = job.array::<Block>(4, ()).at(0);
    block.scale(2.0).call();
    block.scale(2.0).done();
    block.scale(2.0).checked();
    block.scale(2.0).timeout(std::time::Duration::from_secs(1));
    let unsent = block.scale(2.0);
    let unread = block.scale(2.0).call();
}
