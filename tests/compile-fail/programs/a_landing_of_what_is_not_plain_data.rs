use charm4rs::Job;

fn words(job: Job) {
    let _ = job.landing::<String>(10);
}

fn main() {}
