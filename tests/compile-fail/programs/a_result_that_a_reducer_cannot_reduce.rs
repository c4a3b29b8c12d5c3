use charm4rs::prelude::*;

struct Block;

#[chare(index = usize)]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry]
    fn name(&self) -> String {
        "a block".to_string()
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    let blocks = job.array::<Block>(4, ());
    let sum = blocks.all().name().reduce(reduce::sum).await;
    let first = blocks.at(0).name().reduce(reduce::min).await;
}
