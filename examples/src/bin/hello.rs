//! Hello: a group and an array of chares get an array of numbers and two texts.
//!
//! `cargo charmrun +p4 hello`

use charm4rs::prelude::*;

/// A chare: a type whose values live on PEs, and are called from any PE.
struct Greeter;

#[chare(index = usize)]
impl Greeter {
    /// Creates an element, on the PE where it lives.
    #[init]
    fn new() -> Self {
        Self
    }

    /// A method that is called through a proxy. Arguments can be any type that serde can serialize; large arrays of plain data are sent most
    /// efficiently as a `Payload`.
    #[entry]
    fn greet(&mut self, cx: &mut Cx<Self>, numbers: Payload<f64>, greeting: String, from: String) -> f64 {
        let sum = numbers.iter().sum::<f64>();
        println!("{greeting} from {} of {from} on PE {}: the sum is {sum}", cx.index(), cx.pe());
        sum
    }
}

/// Runs once, on PE 0. The job ends when it returns.
#[charm4rs::main]
async fn main(job: Job) {
    // A group has one element on each PE, an array any number, spread over the PEs.
    let group = job.group::<Greeter>(());
    let array = job.array::<Greeter>(10, ());

    // A call returns at once, and nobody waits for it unless you say so: for its end by `done`, for its result by `call`.
    let numbers: Payload<f64> = (1..=100).map(f64::from).collect();
    group.all().greet(numbers.clone(), "Hello", "a group").done().await;
    let sums = array.all().greet(numbers.clone(), "Good day", "an array").await;
    assert_eq!(sums, [5050.0; 10]);

    // One element.
    let sum = array.at(7).greet(numbers, "Good night", "an array").await;
    println!("{} and {} elements have answered, and one of them again: {sum}", job.pes(), sums.len());
}
