use charm4rs::prelude::*;

#[charm4rs::main]
async fn main(job: Job) {
    job.exit(300);
}
