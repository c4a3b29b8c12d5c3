use charm4rs::Job;

fn words(job: Job) {
    let _ = job.put_window::<String>(10);
}

fn main() {}
