use charm4rs::prelude::*;

#[chare(index = usize)]
struct Block;

fn main() {}
