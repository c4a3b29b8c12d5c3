use charm4rs::prelude::*;

#[charm4rs::main]
async fn main(job: Job) {
    std::thread::spawn(move || job.exit(0));
}
