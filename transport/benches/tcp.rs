//! The TCP backend beside a raw socket, in one run on two pinned threads: what the engine adds to what the kernel takes.
//!
//! `cargo bench -p charm4rs-transport --bench tcp`. Raw sockets are polled, as the engine does; both ends touch nothing of
//! the data but what the kernel copies. Short rounds of the two alternate; on a busy machine the best of each is the figure
//! that means something, on an idle one the median says the same.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use charm4rs_transport::auth::{JobId, Secret};
use charm4rs_transport::tcp::{TcpConfig, TcpFabric};
use charm4rs_transport::{Doorbell, Endpoint, Event, Fabric, Imm, Layout, OpId, Pe, PostError, RegBuf};

/// Connections of each side, and measurements on each of them.
const SESSIONS: usize = 5;
const ROUNDS: usize = 20;

/// Seconds of each round of `work`.
fn timed(mut work: impl FnMut()) -> Vec<f64> {
    let mut round = || {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    // The first one pays for memory and for TCP's slow start.
    round();
    (0..ROUNDS).map(|_| round()).collect()
}

fn each_round(mut work: impl FnMut()) {
    (0..=ROUNDS).for_each(|_| work());
}

fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    // Where it is not allowed the figures are just noisier.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Runs the two sides on two cores; the first one's answer.
fn on_two<T: Send>(a: impl FnOnce() -> T + Send, b: impl FnOnce() + Send) -> T {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin(1);
            b();
        });
        let a = scope.spawn(|| {
            pin(0);
            a()
        });
        a.join().expect("the measuring thread ends well")
    })
}

// ---- raw ------------------------------------------------------------------------------------------------------

fn raw_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback");
    let a = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
    let (b, _) = listener.accept().expect("loopback");
    for socket in [&a, &b] {
        socket.set_nodelay(true).expect("a TCP socket");
        socket.set_nonblocking(true).expect("a socket");
    }
    (a, b)
}

fn write_all(socket: &mut TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
}

fn read_all(socket: &mut TcpStream, mut bytes: &mut [u8]) {
    while !bytes.is_empty() {
        match socket.read(bytes) {
            Ok(n) => bytes = &mut bytes[n..],
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
    }
}

fn raw_latency(len: usize, count: usize) -> Vec<f64> {
    let (mut a, mut b) = raw_pair();
    let mut theirs = vec![1; len];
    let mut ours = theirs.clone();
    on_two(
        || {
            timed(|| {
                for _ in 0..count {
                    write_all(&mut a, &ours);
                    read_all(&mut a, &mut ours);
                }
            })
        },
        || {
            each_round(|| {
                for _ in 0..count {
                    read_all(&mut b, &mut theirs);
                    write_all(&mut b, &theirs);
                }
            });
        },
    )
}

fn raw_stream(len: usize, count: usize) -> Vec<f64> {
    let (mut a, mut b) = raw_pair();
    let ours = vec![1; len];
    let mut theirs = ours.clone();
    on_two(
        || {
            timed(|| {
                for _ in 0..count {
                    write_all(&mut a, &ours);
                }
                read_all(&mut a, &mut [0]);
            })
        },
        || {
            each_round(|| {
                for _ in 0..count {
                    read_all(&mut b, &mut theirs);
                }
                write_all(&mut b, &[1]);
            });
        },
    )
}

// ---- the engine ---------------------------------------------------------------------------------------------------

struct End {
    end: Box<dyn Endpoint>,
    events: Vec<Event>,
    _bell: Doorbell,
}

impl End {
    fn open(fabric: &TcpFabric, pe: u32) -> Self {
        let bell = Doorbell::new().expect("a doorbell");
        let end = fabric.builder(Pe(pe)).build(&bell).expect("an endpoint");
        Self { end, events: Vec::with_capacity(64), _bell: bell }
    }

    /// Polls once; how many messages that brought. They are dropped.
    fn poll(&mut self) -> usize {
        self.end.progress(&mut self.events, 64).expect("a healthy job");
        self.events.drain(..).filter(|event| matches!(event, Event::Recv { .. })).count()
    }

    fn recv(&mut self, mut count: usize) {
        while count > 0 {
            count -= self.poll();
        }
    }

    fn send(&mut self, to: Pe, len: usize) {
        if len <= self.end.caps().inject_max {
            let fill = &mut |bytes: &mut [std::mem::MaybeUninit<u8>]| bytes.iter_mut().for_each(|b| _ = b.write(1));
            while self.end.inject(to, Imm(0), len, fill).is_err() {
                self.poll();
            }
            return;
        }
        let mut buf: RegBuf = self.end.alloc(len).expect("memory");
        while let Err(error) = self.end.send(to, Imm(0), buf, OpId(0)) {
            let PostError::Busy(back) = error else { panic!("{error:?}") };
            buf = back;
            self.poll();
        }
    }
}

fn engine<T: Send>(a: impl FnOnce(&mut End) -> T + Send, b: impl FnOnce(&mut End) + Send) -> T {
    let layout = Arc::new(Layout::one_host(2, 1));
    let open = |process| {
        let secret = Secret::new([1; 32]);
        TcpFabric::open(TcpConfig::new(layout.clone(), process, JobId::default(), secret, [0; 32])).expect("a fabric")
    };
    let fabrics = [open(0), open(1)];
    let addresses: Vec<_> = fabrics.iter().map(TcpFabric::publish).collect();
    fabrics.iter().for_each(|fabric| fabric.set_addresses(addresses.clone()));
    on_two(
        || {
            let mut end = End::open(&fabrics[0], 0);
            end.send(Pe(1), 1);
            end.recv(1);
            let answer = a(&mut end);
            end.end.close().expect("a clean end");
            answer
        },
        || {
            let mut end = End::open(&fabrics[1], 1);
            end.recv(1);
            end.send(Pe(0), 1);
            b(&mut end);
            end.end.close().expect("a clean end");
        },
    )
}

fn engine_latency(len: usize, count: usize) -> Vec<f64> {
    engine(
        |end| {
            timed(|| {
                for _ in 0..count {
                    end.send(Pe(1), len);
                    end.recv(1);
                }
            })
        },
        |end| {
            each_round(|| {
                for _ in 0..count {
                    end.recv(1);
                    end.send(Pe(0), len);
                }
            });
        },
    )
}

fn engine_stream(len: usize, count: usize) -> Vec<f64> {
    engine(
        |end| {
            timed(|| {
                for number in 0..count {
                    end.send(Pe(1), len);
                    if number % 16 == 15 {
                        end.poll();
                    }
                }
                end.recv(1);
            })
        },
        |end| {
            each_round(|| {
                end.recv(count);
                end.send(Pe(0), 1);
            });
        },
    )
}

/// Best and median of a side.
fn figures(mut of: Vec<f64>) -> (f64, f64) {
    of.sort_by(f64::total_cmp);
    (of[0], of[of.len() / 2])
}

/// Both, alternating: best and median of each, in seconds for one of `per`.
fn compare(per: usize, raw: impl Fn() -> Vec<f64>, engine: impl Fn() -> Vec<f64>) -> [(f64, f64); 2] {
    let (mut of_raw, mut of_engine) = (Vec::new(), Vec::new());
    for _ in 0..SESSIONS {
        of_raw.extend(raw());
        of_engine.extend(engine());
    }
    let each = |(best, median)| (best / per as f64, median / per as f64);
    [each(figures(of_raw)), each(figures(of_engine))]
}

#[allow(clippy::print_stdout, reason = "a benchmark prints its table")]
fn main() {
    let only = std::env::args().find(|arg| ["latency", "stream"].contains(&arg.as_str()));
    let wanted = |what: &str| only.as_deref().is_none_or(|only| only == what);
    println!("{:>18} {:>23} {:>23} {:>15}", "", "raw: best, median", "engine: best, median", "ratios");
    for (len, count) in [(8, 200), (4 << 10, 200), (64 << 10, 40), (1 << 20, 4), (16 << 20, 1)] {
        if wanted("latency") {
            let [raw, engine] = compare(2 * count, || raw_latency(len, count), || engine_latency(len, count));
            let us = |(best, median): (f64, f64)| format!("{:.2} {:.2} us", best * 1e6, median * 1e6);
            let ratios = (engine.0 / raw.0, engine.1 / raw.1);
            println!("latency  {len:>9} {:>23} {:>23} {:>7.2} {:>7.2}", us(raw), us(engine), ratios.0, ratios.1);
        }
    }
    for (len, count) in [(8, 5_000), (64 << 10, 100), (1 << 20, 10), (16 << 20, 2)] {
        if wanted("stream") {
            let [raw, engine] = compare(count, || raw_stream(len, count), || engine_stream(len, count));
            let rate = |seconds: f64| len as f64 / seconds / 1e9;
            let rates = |(best, median)| format!("{:.3} {:.3} GB/s", rate(best), rate(median));
            let ratios = (raw.0 / engine.0, raw.1 / engine.1);
            println!("stream   {len:>9} {:>23} {:>23} {:>7.2} {:>7.2}", rates(raw), rates(engine), ratios.0, ratios.1);
        }
    }
}
