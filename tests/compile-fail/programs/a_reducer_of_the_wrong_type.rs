use charm4rs::prelude::*;

struct Block;

#[chare(index = usize)]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry]
    fn add(&mut self, cx: &mut Cx<Self>, name: String, to: Promise<String>) {
        cx.contribute(name, reduce::sum, to);
    }
    #[entry]
    fn agree(&mut self, cx: &mut Cx<Self>, to: Promise<u64>) {
        cx.contribute(1, reduce::all, to);
    }
    #[entry]
    fn collect(&mut self, cx: &mut Cx<Self>, to: Promise<Vec<u64>>) {
        cx.contribute(1, reduce::gather, to);
    }
}

fn main() {}
