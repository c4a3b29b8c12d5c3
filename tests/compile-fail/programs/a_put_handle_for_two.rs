use charm4rs::PutHandle;

fn both(to: PutHandle<f64>) -> [PutHandle<f64>; 2] {
    [to.clone(), to]
}

fn main() {}
