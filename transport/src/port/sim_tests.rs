//! The port over a simulated network: whatever the wire does, every message arrives once, whole and in order, and no
//! buffer stays in use.

#![allow(clippy::cast_possible_truncation, reason = "numbers of PEs and messages, all small")]

use std::collections::{BTreeMap, VecDeque};
use std::mem::MaybeUninit;

use proptest::prelude::*;

use crate::options::TransportOptions;
use crate::port::{Incoming, Offer, Port, PortEvent, Tag};
use charm4rs_transport_core::seed::{self, Rng};
use charm4rs_transport_core::{Doorbell, Imm, Layout, Pe, RegBuf, TransportError};
use charm4rs_transport_testkit::conformance::{Watchdog, bytes};
use charm4rs_transport_testkit::sim::{Config, Driver, Fault, Network, Stepped};

/// The description of a message: enough to make it again at its receiver.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Plan {
    tag: u8,
    len: usize,
    payloads: Vec<usize>,
    offer: bool,
}

/// The first bytes of every message identify it.
const NAME: usize = 8;

fn contents(from: Pe, to: Pe, number: u32, part: usize) -> u64 {
    bytes::key(part as u64, from, to, Imm(number))
}

fn fill(from: Pe, to: Pe, number: u32) -> impl FnOnce(&mut [MaybeUninit<u8>]) {
    move |body| {
        let (name, rest) = body.split_at_mut(NAME);
        for (byte, value) in name.iter_mut().zip(u64::from(number).to_le_bytes()) {
            byte.write(value);
        }
        bytes::pour_uninit(contents(from, to, number, 0), rest);
    }
}

fn number(head: &[u8]) -> u32 {
    let (name, _) = head.split_first_chunk::<NAME>().expect("every message has a name");
    u32::try_from(u64::from_le_bytes(*name)).unwrap()
}

/// A PE with a port.
struct Pole {
    port: Port,
    rng: Rng,
    /// The messages that it has still to send, with their receivers.
    plans: VecDeque<(Pe, Plan)>,
    sent: BTreeMap<Pe, Vec<Plan>>,
    arrived: BTreeMap<Pe, Vec<u32>>,
    /// Offers that it will answer later.
    undecided: Vec<Offer>,
    failed: Option<TransportError>,
}

struct Job {
    network: Network,
    poles: Vec<Pole>,
    _doorbell: Doorbell,
}

impl Job {
    fn new(config: Config, options: &TransportOptions, messages: usize, sizes: &Sizes) -> Self {
        let network = Network::new(config);
        let doorbell = Doorbell::new().unwrap();
        let pes = network.layout().pes();
        let pole = |pe| {
            let port = Port::over(network.endpoint(Pe(pe)), network.layout().clone(), options.clone(), &doorbell);
            let mut rng = network.rng(1 + u64::from(pe));
            let plans = (0..messages).map(|_| (Pe(rng.below(pes as usize) as u32), sizes.plan(&mut rng))).collect();
            Pole {
                port,
                rng,
                plans,
                sent: BTreeMap::new(),
                arrived: BTreeMap::new(),
                undecided: Vec::new(),
                failed: None,
            }
        };
        let poles = (0..pes).map(pole).collect();
        Self { network, poles, _doorbell: doorbell }
    }

    fn run(&mut self) {
        let mut driver = Driver::new(&self.network);
        let mut steps = 0;
        while let Some(pe) = driver.next() {
            steps += 1;
            assert!(steps < 1_000_000, "it never ends: {:?}", self.network.statistics());
            let more = self.step(pe);
            driver.stepped(pe, Stepped { more, timer: None });
        }
    }

    /// True if there is more to do without waiting.
    fn step(&mut self, pe: Pe) -> bool {
        let pole = &mut self.poles[pe.index()];
        let mut events = VecDeque::new();
        if pole.failed.is_some() {
            // Its job is over: what still arrives is ignored.
            let _ = pole.port.poll(&mut events, usize::MAX);
            return false;
        }
        let max = 1 + pole.rng.below(8);
        let polled = match pole.port.poll(&mut events, max) {
            Ok(polled) => polled,
            Err(error) => {
                pole.failed = Some(error);
                return false;
            }
        };
        assert!(polled == events.len() && polled <= max, "{polled} of {max}: {}", events.len());
        for event in events {
            match event {
                PortEvent::Message(incoming) => self.receive(pe, incoming),
                PortEvent::Offer(offer) => self.poles[pe.index()].undecided.push(*offer),
                other => panic!("{other:?}"),
            }
        }
        let pole = &mut self.poles[pe.index()];
        let mut done = polled;
        let mut later = Vec::new();
        for offer in std::mem::take(&mut pole.undecided) {
            if pole.rng.chance(0.3) {
                later.push(offer);
                continue;
            }
            let rng = &mut pole.rng;
            let put_windows = offer.sizes.iter().map(|&size| match rng.below(3) {
                0 => None,
                1 => Some(RegBuf::heap(size as usize)),
                _ => Some(RegBuf::from_vec(vec![0u8; size as usize])),
            });
            let put_windows = put_windows.collect();
            pole.port.accept(offer.id, put_windows);
            done += 1;
        }
        pole.undecided = later;
        for _ in 0..=pole.rng.below(3) {
            let Some((to, plan)) = pole.plans.pop_front() else { break };
            pole.send(to, plan);
            done += 1;
        }
        // Messages to itself, and offers that it accepted from itself, come with the next poll.
        done > 0 || !pole.undecided.is_empty()
    }

    fn receive(&mut self, pe: Pe, incoming: Incoming) {
        self.poles[pe.index()].port.took(&incoming);
        let Incoming { from, tag, msg, payloads, .. } = incoming;
        let number = number(&msg);
        let plan = self.poles[from.index()].sent[&pe][number as usize].clone();
        assert_eq!(msg.as_ptr() as usize % 16, 0);
        assert_eq!((tag.0, msg.len()), (plan.tag, plan.len), "message {number} from {from} to {pe}");
        bytes::expect(contents(from, pe, number, 0), &msg[NAME..], "a message");
        assert_eq!(payloads.iter().map(|p| p.len()).collect::<Vec<_>>(), plan.payloads);
        for (payload, part) in payloads.iter().zip(1..) {
            bytes::expect(contents(from, pe, number, part), payload, "a payload");
        }
        self.poles[pe.index()].arrived.entry(from).or_default().push(number);
    }

    /// Checks that every message arrived once, those that promise it in order; that nothing is left in ports or network, and that credit adds up.
    fn check(&mut self) {
        for pole in &self.poles {
            assert!(pole.failed.is_none(), "{:?}", pole.failed);
            let me = pole.port.pe();
            assert_eq!(pole.port.leftovers(), [], "PE {me}");
            for peer in self.network.layout().pes_of_host(0).map(Pe) {
                let (owed, _) = pole.port.credit(peer);
                let (_, debt) = self.poles[peer.index()].port.credit(me);
                assert_eq!(owed, debt, "what PE {me} owes {peer}, and what {peer} expects");
            }
        }
        for pole in &self.poles {
            for (to, plans) in &pole.sent {
                let me = pole.port.pe();
                let arrived = self.poles[to.index()].arrived.get(&me).cloned().unwrap_or_default();
                let plain = |number: &&u32| plans[**number as usize].payloads.is_empty();
                let in_order: Vec<u32> = arrived.iter().filter(plain).copied().collect();
                assert!(in_order.is_sorted(), "plain messages of {me} to {to} in order: {in_order:?}");
                let mut sorted = arrived;
                sorted.sort_unstable();
                assert_eq!(sorted, (0..plans.len() as u32).collect::<Vec<_>>(), "{me} to {to}: each once");
            }
        }
        assert!(self.network.is_quiet());
        for pole in self.poles.drain(..) {
            pole.port.close().unwrap();
        }
        let pools: Vec<usize> = (0..self.network.layout().pes()).map(|pe| self.network.pooled(Pe(pe))).collect();
        assert!(pools.iter().all(|&held| held == 0), "buffers held: {pools:?}");
    }
}

impl Pole {
    fn send(&mut self, to: Pe, plan: Plan) {
        let from = self.port.pe();
        let numbers = self.sent.entry(to).or_default();
        let number = numbers.len() as u32;
        let payload = |(part, &len): (usize, &usize)| {
            let mut buf = match (number as usize + part) % 3 {
                0 => RegBuf::heap(len),
                1 => RegBuf::from_vec(vec![0u8; len]),
                _ => self.port.alloc(len),
            };
            bytes::pour(contents(from, to, number, part + 1), &mut buf);
            buf
        };
        let payloads: Vec<RegBuf> = plan.payloads.iter().enumerate().map(payload).collect();
        let (tag, len, offer) = (Tag(plan.tag), plan.len, plan.offer);
        numbers.push(plan);
        if payloads.is_empty() && !offer {
            self.port.send(to, tag, len, fill(from, to, number));
        } else {
            self.port.send_payloads(to, tag, len, fill(from, to, number), payloads, offer);
        }
    }
}

/// The sizes of messages.
#[derive(Clone, Debug)]
struct Sizes {
    small: usize,
    large: usize,
    large_share: f64,
    payload_share: f64,
}

impl Sizes {
    fn plan(&self, rng: &mut Rng) -> Plan {
        let most = if rng.chance(self.large_share) { self.large } else { self.small };
        let with_payloads = rng.chance(self.payload_share);
        let payloads = if with_payloads { (0..=rng.below(3)).map(|_| rng.below(self.large)).collect() } else { vec![] };
        let offer = with_payloads && rng.chance(0.6);
        Plan { tag: rng.below(0xE0) as u8, len: NAME + rng.below(most), payloads, offer }
    }
}

const USUAL: Sizes = Sizes { small: 200, large: 20_000, large_share: 0.1, payload_share: 0.3 };

fn hosts(pes: u32) -> Layout {
    Layout::one_host(pes, 1)
}

/// A network with faults and limits, by seed.
fn unpleasant(seed: u64) -> (Config, TransportOptions) {
    let mut rng = Rng::stream(seed, 77);
    let pes = 2 + rng.below(3) as u32;
    let fabric = Config::reliable(hosts(pes), seed);
    let config = match seed % 4 {
        0 => fabric,
        1 => Config { handover: true, pool: rng.below(6), ..fabric },
        2 => Config::datagram(hosts(pes), seed),
        _ => Config { inject_max: 64 + rng.below(500), put_max: 500 + rng.below(5_000), ..fabric },
    };
    let config = Config {
        capacity: 1 + rng.below(20) as u32,
        busy: if rng.chance(0.5) { 0.2 } else { 0.0 },
        delay_ns: 100..(200 + rng.range(0..50_000)),
        ..config
    };
    let credit = if rng.chance(0.5) { 30_000 } else { 64 << 20 };
    (config, TransportOptions { credit, ..TransportOptions::default() })
}

#[test]
fn over_a_thousand_faulty_networks_every_message_arrives_once_and_nothing_is_left() {
    let _watchdog = Watchdog::with_limit("ports over a thousand networks", std::time::Duration::from_secs(300));
    seed::for_each(1_000, |seed| {
        let (config, options) = unpleasant(seed);
        let mut job = Job::new(config, &options, 40, &USUAL);
        job.run();
        job.check();
    });
}

#[test]
fn messages_longer_than_the_backend_can_send_are_fetched() {
    seed::for_each(100, |seed| {
        let (config, options) = unpleasant(seed);
        let config = Config { send_max: 4_096, inject_max: 512, ..config };
        let mut job = Job::new(config, &options, 20, &Sizes { large: 30_000, large_share: 0.0, ..USUAL });
        for pole in &mut job.poles {
            // Without order among them: they wait for a put window, as payloads do.
            let plan = Plan { tag: 1, len: 10_000, payloads: vec![], offer: false };
            pole.plans.push_back((Pe(0), plan));
        }
        job.run();
        job.check();
    });
}

#[test]
fn ports_are_reproducible() {
    for seed in 0..20 {
        let run = || {
            let (config, options) = unpleasant(seed);
            let mut job = Job::new(config, &options, 40, &USUAL);
            job.run();
            job.network.trace_hash()
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}

#[test]
fn a_thousand_pes_share_one_thread() {
    let _watchdog = Watchdog::start("a thousand PEs");
    let mut job = Job::new(Config::reliable(hosts(1_000), 1), &TransportOptions::default(), 10, &USUAL);
    job.run();
    job.check();
}

#[test]
fn a_death_is_an_error_of_the_next_poll_of_every_live_pe() {
    seed::for_each(100, |seed| {
        let (mut config, options) = unpleasant(seed);
        let victim = Pe((seed % u64::from(config.layout.pes())) as u32);
        config.faults.push((Rng::new(seed).range(0..200_000), Fault::Kill(victim)));
        let mut job = Job::new(config, &options, 40, &USUAL);
        job.run();
        for pole in job.poles.iter().filter(|pole| pole.port.pe() != victim) {
            match &pole.failed {
                Some(TransportError::PeerDown { pe, .. }) => assert_eq!(*pe, victim),
                other => panic!("PE {}: {other:?}", pole.port.pe()),
            }
        }
    });
}

#[test]
fn a_pause_and_a_partition_that_end_in_time_are_not_noticed() {
    seed::for_each(200, |seed| {
        let (mut config, options) = unpleasant(seed);
        let (pe, at_ns) = (Pe((seed % 2) as u32), Rng::new(seed).range(0..300_000));
        let (ill, well) =
            if seed % 3 == 0 { (Fault::Pause(pe), Fault::Resume(pe)) } else { (Fault::Cut(vec![pe]), Fault::Heal) };
        config.faults = vec![(at_ns, ill), (at_ns + 2_000_000_000, well)];
        let mut job = Job::new(config, &options, 40, &USUAL);
        job.run();
        job.check();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_sends_arrives(
        plans in prop::collection::vec(
            (0u32..3, 0u32..3, 0usize..3_000, prop::collection::vec(0usize..20_000, 0..4), any::<bool>()),
            0..60,
        ),
        seed: u64,
    ) {
        let _watchdog = Watchdog::start("a sequence of sends");
        let (config, options) = unpleasant(seed);
        let mut job = Job::new(Config { layout: hosts(3), ..config }, &options, 0, &USUAL);
        for (from, to, len, payloads, offer) in plans {
            let offer = offer && !payloads.is_empty();
            let plan = Plan { tag: (len % 0xE0) as u8, len: NAME + len, payloads, offer };
            job.poles[from as usize].plans.push_back((Pe(to), plan));
        }
        job.run();
        job.check();
    }
}
