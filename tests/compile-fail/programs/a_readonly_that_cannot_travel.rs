use charm4rs::Readonly;
use charm4rs::prelude::*;

struct Params {
    steps: u32,
}

#[charm4rs::readonly]
static PARAMS: Readonly<Params> = Readonly::new();

#[charm4rs::readonly]
static STEPS: u32 = 7;

#[charm4rs::main]
async fn main(job: Job) {
    PARAMS.set(&job, Params { steps: 7 });
}
