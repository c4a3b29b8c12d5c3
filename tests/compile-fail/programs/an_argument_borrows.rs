use charm4rs::prelude::*;

struct Greeter;

#[chare]
impl Greeter {
    #[init]
    fn new() -> Self {
        Greeter
    }
    #[entry]
    fn greet(&mut self, whom: &str) {
        let _ = whom;
    }
}

fn main() {}
