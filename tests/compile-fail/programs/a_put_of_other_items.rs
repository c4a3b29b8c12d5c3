use charm4rs::{Put, PutHandle};

fn wrong(to: PutHandle<f64>) -> Put<f64> {
    to.put(vec![1u32])
}

fn main() {}
