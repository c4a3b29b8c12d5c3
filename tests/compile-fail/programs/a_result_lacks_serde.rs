use charm4rs::prelude::*;

struct Person {
    name: String,
}

struct Greeter;

#[chare]
impl Greeter {
    #[init]
    fn new() -> Self {
        Greeter
    }
    #[entry]
    fn whom(&mut self) -> Person {
        Person { name: String::new() }
    }
}

fn main() {}
