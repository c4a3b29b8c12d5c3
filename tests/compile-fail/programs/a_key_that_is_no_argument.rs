use charm4rs::prelude::*;

struct Block;

#[chare(index = usize)]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry(key = stp)]
    fn edge(&mut self, step: u32, cells: Payload<f64>);
}

#[charm4rs::main]
async fn main(_job: Job) {}
