use charm4rs::{Put, PutHandle};

fn twice(to: PutHandle<f64>) -> [Put<f64>; 2] {
    [to.put(vec![1.0]), to.put(vec![2.0])]
}

fn main() {}
