use charm4rs::prelude::*;

struct Block;

#[charm4rs::main]
async fn main(job: Job) {
    job.array::<Block>(4, ());
}
