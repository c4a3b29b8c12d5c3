//! The smallest useful program: one chare type with one entry method.

use charm4rs::prelude::*;

struct Greeter;

#[chare]
impl Greeter {
    #[init]
    fn new() -> Self {
        Self
    }

    #[entry]
    fn greet(&mut self, name: String) -> String {
        format!("Hello, {name}!") // edit here
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    let greeter = job.single::<Greeter>(());
    println!("{}", greeter.greet("world").await);
}
