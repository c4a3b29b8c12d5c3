use charm4rs::prelude::*;

struct Block;

impl Block {
    #[entry]
    fn scale(&mut self, by: f64) {
        let _ = by;
    }
}

fn main() {}
