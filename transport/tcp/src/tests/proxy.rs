//! A small proxy between two processes: it cuts connections in the middle of the stream, flips bits, falls silent, and goes away.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{TcpFabric, address};
use charm4rs_transport_core::seed::Rng;

#[derive(Debug, Default)]
pub(super) struct Mode {
    /// Connections are cut after at most this many bytes in one direction (0: never).
    pub(super) cut_within: AtomicU64,
    /// Bytes are discarded.
    pub(super) silent: AtomicBool,
    /// The next run of at least 1,000 bytes gets a flipped bit.
    pub(super) flip: AtomicBool,
    /// New connections are closed at once.
    pub(super) closed: AtomicBool,
    pub(super) cuts: AtomicU64,
    stop: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

/// A proxy in front of one process.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) mode: Arc<Mode>,
    address: SocketAddr,
}

impl Proxy {
    pub(super) fn before(fabric: &TcpFabric, seed: u64) -> Self {
        let target = address::decode(&fabric.publish())[0];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mode = Arc::new(Mode::default());
        let theirs = mode.clone();
        std::thread::spawn(move || {
            let mut rng = Rng::stream(seed, 1);
            for client in listener.incoming() {
                if theirs.stop.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(client), false) = (client, theirs.closed.load(Ordering::Acquire)) else { continue };
                let Ok(server) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    from.set_nodelay(true).unwrap();
                    theirs.streams.lock().unwrap().push(from.try_clone().unwrap());
                    let within = usize::try_from(theirs.cut_within.load(Ordering::Acquire)).unwrap();
                    let cut = (within > 0).then(|| 500 + rng.below(within));
                    let (from, to, mode) = (from.try_clone().unwrap(), to.try_clone().unwrap(), theirs.clone());
                    std::thread::spawn(move || pump(from, to, &mode, cut));
                }
            }
        });
        Self { mode, address }
    }

    /// What the process behind the proxy publishes.
    pub(super) fn publish(&self) -> Vec<u8> {
        address::encode(std::iter::once(self.address))
    }

    /// Cuts all connections now.
    pub(super) fn cut(&self) {
        for stream in self.mode.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mode.stop.store(true, Ordering::Release);
        self.cut();
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

/// Copies one direction.
fn pump(mut from: TcpStream, mut to: TcpStream, mode: &Mode, cut: Option<usize>) {
    let mut left = cut.unwrap_or(usize::MAX);
    let mut bytes = vec![0; 32 << 10];
    from.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        if mode.silent.load(Ordering::Acquire) {
            continue;
        }
        if n >= 1000 && mode.flip.swap(false, Ordering::AcqRel) {
            bytes[n / 2] ^= 4;
        }
        if to.write_all(&bytes[..n.min(left)]).is_err() {
            break;
        }
        left = left.saturating_sub(n);
        if left == 0 {
            mode.cuts.fetch_add(1, Ordering::AcqRel);
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
