//! Hello: a group and an array, each called with numbers and a text.
//!
//! `cargo charmrun +p4 hello`

use charm4rs::prelude::*;

/// A chare that answers from wherever it lives.
struct Greeter;

#[chare(index = usize)]
impl Greeter {
    #[init]
    fn new() -> Self {
        Self
    }

    #[entry]
    fn greet(&mut self, cx: &mut Cx<Self>, numbers: Vec<i32>, row: Payload<f64>, text: String) -> f64 {
        let sum = row.iter().sum::<f64>();
        println!("Hello from element {} on PE {}: {numbers:?}, a row whose sum is {sum}, {text}", cx.index(), cx.pe());
        sum
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    let group = job.group::<Greeter>(());
    let array = job.array::<Greeter>(10, ());
    let row = |range: std::ops::Range<u32>| range.map(f64::from).collect::<Payload<f64>>();
    group.all().greet(vec![1, 2, 3], row(1..100), "a group".into()).done().await;
    let sums = array.all().greet(vec![4, 5, 6], row(50..100), "an array".into()).call().await;
    assert_eq!(sums, vec![3725.0; 10]);
    println!("{} elements of a group and {} of an array have answered", job.pes(), sums.len());
}
