use charm4rs::prelude::*;

struct Block;

#[chare(index = usize)]
impl Block {
    #[init]
    fn new(_cells: u32) -> Self {
        Block
    }
    #[entry]
    fn scale(&mut self, by: f64) -> f64 {
        by
    }
    #[entry]
    fn report(&self, total: u64) {
        let _ = total;
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    let blocks = job.array::<Block>(4, 1);
    let all: f64 = blocks.all().scale(2.0).await;
}
