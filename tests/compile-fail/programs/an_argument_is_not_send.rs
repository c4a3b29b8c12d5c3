use std::rc::Rc;

use charm4rs::prelude::*;

struct Greeter;

#[chare]
impl Greeter {
    #[init]
    fn new() -> Self {
        Greeter
    }
    #[entry]
    fn greet(&mut self, whom: Rc<String>) {
        let _ = whom;
    }
}

fn main() {}
