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
    let reply = block.scale(2.0).call();
    std::thread::spawn(move || drop(reply));
}
