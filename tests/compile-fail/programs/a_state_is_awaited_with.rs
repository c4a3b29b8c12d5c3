use charm4rs::prelude::*;

struct Block {
    size: f64,
}

#[chare(index = usize)]
impl Block {
    #[init]
    fn new() -> Self {
        Block { size: 1.0 }
    }
    #[entry]
    async fn scale(this: This<Self>, by: f64) {
        this.with(|block| async {
            block.size *= by;
        })
        .await;
    }
}

fn main() {}
