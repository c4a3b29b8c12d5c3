use charm4rs::prelude::*;

struct Block;

#[chare(index = usize)]
impl Block {
    #[init]
    fn new() -> Self {
        Block
    }
    #[entry]
    fn add(&mut self, cx: &mut Cx<Self>, to: Promise<String>) {
        cx.contribute(1u64, reduce::sum, to);
    }
    #[entry]
    fn count(&mut self, cx: &mut Cx<Self>) {
        cx.contribute((), reduce::count, cx.proxy().report_sink());
    }
    #[entry]
    fn report(&mut self, total: f64) {
        let _ = total;
    }
}

fn main() {}
