use charm4rs::PutWindow;

fn late(put_window: &mut PutWindow<f64>) -> f64 {
    let row = put_window.read().unwrap();
    let next = put_window.read();
    row[0] + next.map_or(0.0, |next| next[0])
}

fn main() {}
