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
    fn greet(&mut self, whom: Person) {
        let _ = whom.name;
    }
}

fn main() {}
