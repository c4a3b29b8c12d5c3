use charm4rs::prelude::*;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
enum Corner {
    North,
    South,
}

struct Block;

#[chare(index = Corner)]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    job.array::<Block>(Corner::South, ());
}
