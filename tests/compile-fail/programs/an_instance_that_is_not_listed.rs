use charm4rs::prelude::*;

trait Real: charm4rs::Arguments {}
impl Real for f32 {}
impl Real for f64 {}

struct Block<T>(T);

#[chare(instances(f32, f64))]
impl<T: Real> Block<T> {
    #[init]
    fn new(of: T) -> Self {
        Block(of)
    }
    #[entry]
    fn scale(&mut self, by: T) {
        self.0 = by;
    }
}

#[charm4rs::main]
async fn main(job: Job) {
    job.single::<Block<f32>>(1.0).scale(2.0);
    job.single::<Block<u8>>(1);
}
