use charm4rs::prelude::*;

struct Block;

#[chare(index = usize)]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry]
    fn index(&mut self) -> usize {
        3
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    let _ = job.array::<Block>(4, ()).at(0).index();
}
