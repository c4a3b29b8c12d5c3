use charm4rs::prelude::*;

#[charm4rs::init_process]
fn prepare(pe: Pe) {
    let _ = pe;
}

#[charm4rs::init_pe]
fn prepare_pe(pe: u32) {
    let _ = pe;
}

#[charm4rs::init_pe]
async fn wait() {}

#[charm4rs::main]
async fn main(_job: Job) {}
