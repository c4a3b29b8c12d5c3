use charm4rs::PutWindow;
use charm4rs::prelude::*;

struct Block;

#[chare]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry]
    fn take(&mut self, put_window: PutWindow<f64>) {
        let _ = put_window;
    }
}

fn main() {}
