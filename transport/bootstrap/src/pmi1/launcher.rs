//! A PMI-1 launcher for tests: it answers all requests, and kills no process.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier, Mutex};

type Values = Arc<Mutex<HashMap<String, String>>>;

/// The processes' ends of its connections.
pub(crate) fn launcher(size: usize) -> Vec<UnixStream> {
    let (values, barrier) = (Values::default(), Arc::new(Barrier::new(size)));
    let start = |_| {
        let (ours, theirs) = UnixStream::pair().expect("descriptors");
        let (values, barrier) = (values.clone(), barrier.clone());
        std::thread::spawn(move || serve(&ours, &values, &barrier));
        theirs
    };
    (0..size).map(start).collect()
}

/// Serves one process, until it is gone.
fn serve(socket: &UnixStream, values: &Values, barrier: &Barrier) {
    for line in BufReader::new(socket).lines() {
        let Ok(line) = line else { return };
        assert!(line.len() < 1024, "{line}");
        let field = |name: &str| {
            let mut pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
            pairs.find(|(found, _)| *found == name).expect("a field").1.to_owned()
        };
        let answer = match &*field("cmd") {
            "init" => "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0".to_owned(),
            "get_maxes" => "cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024".to_owned(),
            "get_my_kvsname" => "cmd=my_kvsname kvsname=kvs_1".to_owned(),
            "put" => {
                values.lock().expect("whole").insert(field("key"), field("value"));
                "cmd=put_result rc=0 msg=success".to_owned()
            }
            "get" => match values.lock().expect("whole").get(&field("key")) {
                Some(value) => format!("cmd=get_result rc=0 msg=success value={value}"),
                None => "cmd=get_result rc=-1 msg=key_not_found value=unknown".to_owned(),
            },
            "barrier_in" => {
                barrier.wait();
                "cmd=barrier_out".to_owned()
            }
            "finalize" => "cmd=finalize_ack".to_owned(),
            "abort" => continue,
            other => panic!("{other}"),
        };
        // The process may be gone.
        let mut socket = socket;
        let _ = socket.write_all((answer + "\n").as_bytes());
    }
}
