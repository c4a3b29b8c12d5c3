use charm4rs::prelude::*;
use charm4rs::{IndexMap, Places};

#[derive(Clone, Serialize, Deserialize)]
struct Listed(Vec<Pe>);

impl IndexMap<usize> for Listed {
    fn pe(&self, index: &usize, _: &Places) -> Pe {
        self.0[index % self.0.len()]
    }
}

struct Block;

#[chare(index = usize, map = Listed)]
impl Block {
    #[init]
    fn new(_cells: u32) -> Self {
        Block
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    job.array::<Block>(4, 1);
    job.array_by::<Block>(Listed(vec![Pe(0)]), 4, 1);
}
