use charm4rs::prelude::*;

struct Block;

#[chare(index = usize)]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry]
    fn count(&mut self, cx: &mut Cx<Self>) {
        let me = cx.proxy();
        cx.contribute((), reduce::count, me.forces_sink("three"));
        cx.contribute((), reduce::count, me.forces_sink());
        cx.contribute(0.5, reduce::sum, me.forces_sink(3));
    }
    #[entry]
    fn forces(&mut self, step: u32, count: u64) {
        let _ = (step, count);
    }
}

fn main() {}
