use charm4rs::prelude::*;

struct Block;

#[chare]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry(post = buffer)]
    fn take(&mut self, rows: Payload<f64>) {
        let _ = rows;
    }
    fn buffer(&mut self, bytes: u64) -> Vec<f64> {
        vec![0.0; bytes as usize]
    }
}

fn main() {}
