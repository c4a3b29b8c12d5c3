use charm4rs::prelude::*;

struct Block;

#[chare(index = usize)]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry(key = time)]
    fn edge(&mut self, time: f64, cells: Payload<f64>);
    #[entry]
    async fn run(this: This<Self>) {
        let cells: Payload<f64> = this.recv_edge(0.5).await;
    }
}

#[charm4rs::main]
async fn main(_job: Job) {}
