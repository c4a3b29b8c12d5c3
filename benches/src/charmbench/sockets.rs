//! Raw sockets of this host, polled: the kernel's cost of bytes between two threads.
//!
//! Latency: both ends write and read the same number of bytes in turn, and touch none of them. Bandwidth: the sender writes all of a buffer before
//! each write, the receiver reads a load of each 64 bytes once the whole buffer has arrived, as the ends of a layer do. Each measurement opens a
//! connection, and warms it up with one message of that size.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::limits::{fill, read_lines};
use crate::place::on_two;

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Tcp,
    Unix,
}

/// One-way time of `len` bytes, in nanoseconds.
pub(crate) fn latency(kind: Kind, len: usize) -> std::io::Result<f64> {
    let rounds = rounds(len, 8 << 20).min(1_000);
    Ok(match kind {
        Kind::Tcp => tcp()?.rally(len, rounds),
        Kind::Unix => unix()?.rally(len, rounds),
    })
}

/// Time of `len` bytes of a stream of such buffers, in nanoseconds.
pub(crate) fn stream(kind: Kind, len: usize) -> std::io::Result<f64> {
    let rounds = rounds(len, 64 << 20).min(2_000);
    Ok(match kind {
        Kind::Tcp => tcp()?.stream(len, rounds),
        Kind::Unix => unix()?.stream(len, rounds),
    })
}

/// As many rounds as have `total` bytes, at least four.
fn rounds(len: usize, total: usize) -> usize {
    (total / len.max(1)).max(4)
}

struct Pair<S>(S, S);

fn tcp() -> std::io::Result<Pair<TcpStream>> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let a = TcpStream::connect(listener.local_addr()?)?;
    let (b, _) = listener.accept()?;
    for socket in [&a, &b] {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
    }
    Ok(Pair(a, b))
}

fn unix() -> std::io::Result<Pair<UnixStream>> {
    let (a, b) = UnixStream::pair()?;
    for socket in [&a, &b] {
        socket.set_nonblocking(true)?;
    }
    Ok(Pair(a, b))
}

fn write_all(socket: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
}

fn read_all(socket: &mut impl Read, mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        match socket.read(bytes) {
            Ok(n) => bytes = &mut bytes[n..],
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
}

impl<S: Read + Write + Send> Pair<S> {
    fn rally(self, len: usize, rounds: usize) -> f64 {
        let Self(mut a, mut b) = self;
        let mut ours = vec![1; len];
        let mut theirs = ours.clone();
        on_two(
            || {
                let mut start = Instant::now();
                for round in 0..=rounds {
                    if round == 1 {
                        start = Instant::now();
                    }
                    write_all(&mut a, &ours);
                    read_all(&mut a, &mut ours);
                }
                start.elapsed().as_nanos() as f64 / (2 * rounds) as f64
            },
            || {
                for _ in 0..=rounds {
                    read_all(&mut b, &mut theirs);
                    write_all(&mut b, &theirs);
                }
            },
        )
    }

    fn stream(self, len: usize, rounds: usize) -> f64 {
        let Self(mut a, mut b) = self;
        on_two(
            || {
                let mut ours = vec![0; len];
                let mut send = |count: usize| {
                    for round in 0..count {
                        fill(&mut ours, round);
                        write_all(&mut a, &ours);
                    }
                    read_all(&mut a, &mut [0]);
                };
                send(1);
                let start = Instant::now();
                send(rounds);
                start.elapsed().as_nanos() as f64 / rounds as f64
            },
            || {
                let mut theirs = vec![0; len];
                for count in [1, rounds] {
                    for _ in 0..count {
                        read_all(&mut b, &mut theirs);
                        read_lines(&theirs);
                    }
                    write_all(&mut b, &[1]);
                }
            },
        )
    }
}
