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
        self.helper(by, 1)
    }
    fn helper(&self, by: f64, times: u32) -> f64 {
        by * f64::from(times)
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    job.array::<Block>(4, ()).at(0).helper(2.0, 3);
}
