//! Promises of the simulation only: reproducibility, and faults on demand. (The conformance suite has those of every backend.)

#![allow(clippy::cast_possible_truncation, reason = "numbers of PEs and messages, all small")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Config, Driver, Fault, Mode, Network, Stepped};
use charm4rs_transport_core::seed::{self, Rng};
use charm4rs_transport_core::{Endpoint, Event, Imm, Layout, OpId, Pe, PostError, Posted, RegBuf};

const SECOND: u64 = 1_000_000_000;

/// PEs that send each other random messages until each has sent its share, run to the end.
struct Chatter {
    network: Network,
    ends: Vec<Box<dyn Endpoint>>,
    rngs: Vec<Rng>,
    left: Vec<u32>,
    /// Messages to be sent when there is capacity.
    refused: Vec<Option<(Pe, Imm, RegBuf)>>,
    next: BTreeMap<(Pe, Pe), u32>,
    /// For each pair, the immediates in the order of their arrival.
    arrived: BTreeMap<(Pe, Pe), Vec<u32>>,
    lost: Vec<(Pe, Pe, u64)>,
    pending: BTreeMap<(Pe, u64), ()>,
}

impl Chatter {
    fn new(config: Config, messages: u32) -> Self {
        let network = Network::new(config);
        let pes = network.layout().pes();
        Self {
            ends: (0..pes).map(|pe| network.endpoint(Pe(pe))).collect(),
            rngs: (0..pes).map(|pe| network.rng(1 + u64::from(pe))).collect(),
            left: vec![messages; pes as usize],
            refused: (0..pes).map(|_| None).collect(),
            next: BTreeMap::new(),
            arrived: BTreeMap::new(),
            lost: Vec::new(),
            pending: BTreeMap::new(),
            network,
        }
    }

    fn run(&mut self) {
        let mut driver = Driver::new(&self.network);
        while let Some(pe) = driver.next() {
            let more = self.step(pe);
            driver.stepped(pe, Stepped { more, timer: None });
        }
    }

    fn step(&mut self, pe: Pe) -> bool {
        let mut events = Vec::new();
        self.ends[pe.index()].progress(&mut events, 8).unwrap();
        for event in events {
            match event {
                Event::Recv { from, imm, msg } => {
                    assert!(msg.iter().all(|&byte| byte == imm.0.to_le_bytes()[0]));
                    self.arrived.entry((from, pe)).or_default().push(imm.0);
                }
                Event::Sent { op, .. } => self.pending.remove(&(pe, op.0)).expect("it is pending"),
                Event::Failed { op, .. } => self.pending.remove(&(pe, op.0)).expect("it is pending"),
                Event::PeerLost { pe: other, .. } => self.lost.push((pe, other, self.network.clock().now_ns())),
                other => panic!("{other:?}"),
            }
        }
        if self.refused[pe.index()].is_none() && self.left[pe.index()] > 0 {
            self.left[pe.index()] -= 1;
            let to = Pe(self.rngs[pe.index()].below(self.ends.len() - 1) as u32);
            let to = if to >= pe { Pe(to.0 + 1) } else { to };
            let number = self.next.entry((pe, to)).or_default();
            let mut buf = RegBuf::heap(self.rngs[pe.index()].below(3_000));
            buf.fill(number.to_le_bytes()[0]);
            self.refused[pe.index()] = Some((to, Imm(*number), buf));
            *number += 1;
        }
        let Some((to, imm, buf)) = self.refused[pe.index()].take() else { return false };
        let op = OpId(u64::from(to.0) << 32 | u64::from(imm.0));
        match self.ends[pe.index()].send(to, imm, buf, op) {
            Ok(Posted::Done) => {}
            Ok(Posted::Pending) => _ = self.pending.insert((pe, op.0), ()),
            Err(PostError::Busy(buf)) => {
                self.refused[pe.index()] = Some((to, imm, buf));
                return false;
            }
            Err(PostError::PeerDown(..)) => {}
            Err(other) => panic!("{other:?}"),
        }
        self.left[pe.index()] > 0
    }

    /// Checks that all arrived, once, and in order if that is promised, and that nothing is left over.
    fn check(&self, ordered: bool) {
        let mut arrived = self.arrived.clone();
        for (pair, count) in &self.next {
            let mut got = arrived.remove(pair).unwrap_or_default();
            if !ordered {
                got.sort_unstable();
            }
            assert_eq!(got, (0..*count).collect::<Vec<_>>(), "{pair:?}");
        }
        assert!(arrived.is_empty() && self.pending.is_empty() && self.network.is_quiet());
    }
}

fn hosts(pes: u32) -> Layout {
    Layout::one_host(pes, 1)
}

#[test]
fn two_runs_of_a_seed_are_equal_and_another_seed_differs() {
    for make in [Config::reliable, Config::datagram] {
        let run = |seed| {
            let mut chatter = Chatter::new(make(hosts(5), seed), 100);
            chatter.run();
            (chatter.network.trace_hash(), chatter.network.clock().now_ns(), chatter.network.statistics())
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3).0, run(4).0);
    }
}

#[test]
fn every_message_arrives_once_and_in_order_with_thirty_percent_loss() {
    seed::for_each(300, |seed| {
        let mut chatter = Chatter::new(Config { datagram_max: 500, ..Config::datagram(hosts(4), seed) }, 60);
        chatter.run();
        chatter.check(true);
        let passed = chatter.network.statistics();
        assert!(passed.lost * 10 > passed.datagrams * 2 && passed.corrupt > 0 && passed.known > 0, "{passed:?}");
    });
}

#[test]
fn exhausted_capacity_and_random_refusals_lose_nothing() {
    seed::for_each(300, |seed| {
        let mode = Mode::Reliable { reorder: if seed % 2 == 0 { 0.0 } else { 0.4 } };
        let config = Config { mode, capacity: 2, capacity_bytes: 4_000, busy: 0.3, ..Config::reliable(hosts(4), seed) };
        let mut chatter = Chatter::new(config, 100);
        chatter.run();
        chatter.check(seed % 2 == 0);
    });
}

#[test]
fn a_dead_pe_is_lost_by_all_after_five_seconds() {
    for make in [Config::reliable, Config::datagram] {
        let faults = vec![(SECOND, Fault::Kill(Pe(2)))];
        let mut chatter = Chatter::new(Config { faults, ..make(hosts(4), 1) }, 50);
        chatter.run();
        chatter.lost.sort_unstable();
        assert_eq!(chatter.lost, [0, 1, 3].map(|pe| (Pe(pe), Pe(2), 6 * SECOND)));
    }
}

#[test]
fn a_death_in_the_middle_ends_every_operation_and_affects_no_other_pe() {
    seed::for_each(200, |seed| {
        for make in [Config::reliable, Config::datagram] {
            let faults = vec![(Rng::new(seed).range(0..400_000), Fault::Kill(Pe(2)))];
            let mut chatter = Chatter::new(Config { faults, ..make(hosts(4), seed) }, 60);
            chatter.run();
            let dead = |pair: &(Pe, Pe)| pair.0 == Pe(2) || pair.1 == Pe(2);
            for (pair, count) in chatter.next.iter().filter(|(pair, _)| !dead(pair)) {
                let got = chatter.arrived.get(pair).cloned().unwrap_or_default();
                assert_eq!(got, (0..*count).collect::<Vec<_>>(), "{pair:?}");
            }
            for (pair, got) in chatter.arrived.iter().filter(|(pair, _)| dead(pair)) {
                assert!(got.iter().copied().eq(0..got.len() as u32), "{pair:?}: a part without a gap: {got:?}");
            }
            let left: Vec<_> = chatter.pending.keys().filter(|(pe, _)| *pe != Pe(2)).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    });
}

#[test]
fn a_partition_loses_nothing_if_it_heals_in_time_and_is_noticed_on_both_sides_otherwise() {
    for make in [Config::reliable, Config::datagram] {
        for (heal_ns, noticed) in [(4 * SECOND, false), (6 * SECOND, true)] {
            let faults = vec![(50_000, Fault::Cut(vec![Pe(0), Pe(1)])), (heal_ns, Fault::Heal)];
            let mut chatter = Chatter::new(Config { faults, ..make(hosts(4), 7) }, 80);
            chatter.run();
            if !noticed {
                chatter.check(true);
                assert_eq!(chatter.lost, []);
                continue;
            }
            chatter.lost.sort_unstable();
            let pairs = [(0, 2), (0, 3), (1, 2), (1, 3), (2, 0), (2, 1), (3, 0), (3, 1)];
            assert_eq!(chatter.lost.iter().map(|(a, b, _)| (a.0, b.0)).collect::<Vec<_>>(), pairs);
            assert!(chatter.lost.iter().all(|(.., at_ns)| (5 * SECOND..6 * SECOND).contains(at_ns)));
        }
    }
}

#[test]
fn a_paused_pe_continues_where_it_stopped_and_is_lost_after_five_seconds() {
    for make in [Config::reliable, Config::datagram] {
        let pause = (30_000, Fault::Pause(Pe(1)));
        let faults = vec![pause.clone(), (3 * SECOND, Fault::Resume(Pe(1)))];
        let mut chatter = Chatter::new(Config { faults, ..make(hosts(3), 5) }, 80);
        chatter.run();
        chatter.check(true);
        assert_eq!(chatter.lost, []);

        let mut chatter = Chatter::new(Config { faults: vec![pause], ..make(hosts(3), 5) }, 80);
        chatter.run();
        chatter.lost.sort_unstable();
        assert_eq!(chatter.lost.iter().map(|(a, b, _)| (a.0, b.0)).collect::<Vec<_>>(), [(0, 1), (2, 1)]);
    }
}

#[test]
fn a_network_without_events_stands_still() {
    let network = Network::new(Config::datagram(hosts(1_000), 1));
    assert!(!network.advance() && network.is_quiet());
    let mut driver = Driver::new(&network);
    let mut stepped = Vec::new();
    while let Some(pe) = driver.next() {
        stepped.push(pe.0);
        driver.stepped(pe, Stepped::default());
    }
    stepped.sort_unstable();
    assert_eq!(stepped, (0..1_000).collect::<Vec<_>>(), "each is stepped once");
    assert_eq!(network.clock().now_ns(), 0);
}

#[test]
fn timers_are_kept_in_the_order_of_their_times() {
    let network = Network::new(Config::reliable(hosts(3), 1));
    let mut driver = Driver::new(&network);
    let mut fired = Vec::new();
    while let Some(pe) = driver.next() {
        let now = network.clock().now();
        fired.push((now.as_nanos(), pe.0));
        let timer = (now.is_zero()).then(|| std::time::Duration::from_nanos(1_000 * u64::from(3 - pe.0)));
        driver.stepped(pe, Stepped { more: false, timer });
    }
    assert_eq!(fired[3..], [(1_000, 2), (2_000, 1), (3_000, 0)]);
}

/// One action of a PE.
#[derive(Clone, Debug)]
enum Step {
    Inject { from: usize, to: usize, len: usize },
    Send { from: usize, to: usize, len: usize, pooled: bool },
    Put { from: usize, to: usize, offset: u64, len: usize, announced: bool },
    Get { from: usize, to: usize, offset: u64, len: usize },
    Progress { pe: usize, max: usize },
    Advance,
    Fault(Fault),
}

const PES: usize = 3;
const WINDOW: usize = 2_000;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pair = || (0..PES, 1..PES).prop_map(|(from, by)| (from, (from + by) % PES));
    let span = || (0u64..2_500, 0usize..2_500);
    let pe = || (0..PES as u32).prop_map(Pe);
    let fault = prop_oneof![
        4 => pe().prop_map(Fault::Pause),
        4 => pe().prop_map(Fault::Resume),
        3 => pe().prop_map(|pe| Fault::Cut(vec![pe])),
        3 => Just(Fault::Heal),
        1 => pe().prop_map(Fault::Kill),
    ];
    let step = prop_oneof![
        4 => (pair(), 0usize..5_000).prop_map(|((from, to), len)| Step::Inject { from, to, len }),
        4 => (pair(), 0usize..9_000, any::<bool>())
            .prop_map(|((from, to), len, pooled)| Step::Send { from, to, len, pooled }),
        3 => (pair(), span(), any::<bool>())
            .prop_map(|((from, to), (offset, len), announced)| Step::Put { from, to, offset, len, announced }),
        2 => (pair(), span()).prop_map(|((from, to), (offset, len))| Step::Get { from, to, offset, len }),
        6 => (0..PES, 0usize..10).prop_map(|(pe, max)| Step::Progress { pe, max }),
        8 => Just(Step::Advance),
        1 => fault.prop_map(Step::Fault),
    ];
    prop::collection::vec(step, 0..120)
}

/// A model of the seam: which operations are pending, and what may still arrive.
#[derive(Default)]
struct Model {
    pending: BTreeMap<(usize, u64), &'static str>,
    sent: BTreeMap<(usize, usize), u32>,
    arrived: BTreeMap<(usize, usize), u32>,
    next_op: u64,
}

impl Model {
    fn posted(&mut self, pe: usize, kind: &'static str, answer: Result<Posted, PostError<RegBuf>>) -> bool {
        self.next_op += 1;
        match answer {
            Ok(Posted::Done) => true,
            Ok(Posted::Pending) => self.pending.insert((pe, self.next_op), kind).is_none(),
            Err(_) => false,
        }
    }

    fn take(&mut self, pe: usize, event: Event) {
        match event {
            Event::Recv { from, imm, msg } => {
                assert_eq!(msg.as_ptr() as usize % 16, 0);
                let expected = self.arrived.entry((from.index(), pe)).or_default();
                assert_eq!(imm.0, *expected, "in order from PE {from}");
                *expected += 1;
            }
            Event::Sent { op, .. } => assert_ne!(self.pending.remove(&(pe, op.0)), None),
            Event::Got { op, .. } => assert_eq!(self.pending.remove(&(pe, op.0)), Some("get")),
            Event::Failed { op, .. } => assert_ne!(self.pending.remove(&(pe, op.0)), None),
            Event::PutArrived { .. } | Event::PeerLost { .. } => {}
            Event::Missed { .. } => panic!("{event:?}"),
        }
    }
}

fn any_sequence_keeps_the_contract(config: Config, steps: &[Step]) {
    let (network, mut model) = (Network::new(config), Model::default());
    let mut ends: Vec<_> = (0..PES as u32).map(|pe| network.endpoint(Pe(pe))).collect();
    let windows: Vec<_> = ends.iter_mut().map(|end| end.expose(RegBuf::heap(WINDOW)).unwrap()).collect();
    let mut killed = [false; PES];
    for step in steps {
        let op = OpId(model.next_op + 1);
        match *step {
            Step::Inject { from, to, len } => {
                let number = *model.sent.entry((from, to)).or_default();
                let mut fill = |bytes: &mut [std::mem::MaybeUninit<u8>]| bytes.iter_mut().for_each(|b| _ = b.write(1));
                if ends[from].inject(Pe(to as u32), Imm(number), len, &mut fill).is_ok() {
                    *model.sent.entry((from, to)).or_default() += 1;
                }
            }
            Step::Send { from, to, len, pooled } => {
                let buf = pooled.then(|| ends[from].alloc(len)).flatten().unwrap_or_else(|| RegBuf::heap(len));
                let number = *model.sent.entry((from, to)).or_default();
                let answer = ends[from].send(Pe(to as u32), Imm(number), buf, op);
                *model.sent.entry((from, to)).or_default() += u32::from(model.posted(from, "send", answer));
            }
            Step::Put { from, to, offset, len, announced } => {
                let imm = announced.then_some(Imm(0));
                let answer = ends[from].put(Pe(to as u32), RegBuf::heap(len), &windows[to].key, offset, imm, op);
                let fits = offset as usize + len <= WINDOW;
                assert_eq!(matches!(answer, Err(PostError::BadKey(_))), !fits);
                model.posted(from, "put", answer);
            }
            Step::Get { from, to, offset, len } => {
                let answer = ends[from].get(Pe(to as u32), &windows[to].key, offset, RegBuf::heap(len), op);
                model.posted(from, "get", answer);
            }
            Step::Progress { pe, max } => {
                let mut events = Vec::new();
                let count = ends[pe].progress(&mut events, max).unwrap();
                assert!(count == events.len() && count <= max);
                events.into_iter().for_each(|event| model.take(pe, event));
            }
            Step::Advance => _ = network.advance(),
            Step::Fault(ref fault) => {
                if let Fault::Kill(pe) = fault {
                    killed[pe.index()] = true;
                }
                network.fault(fault);
            }
        }
    }
    // The end: all cuts are healed, all PEs run, and time runs out.
    network.heal();
    (0..PES as u32).for_each(|pe| network.resume(Pe(pe)));
    loop {
        let mut moved = network.advance();
        for (pe, end) in ends.iter_mut().enumerate() {
            let mut events = Vec::new();
            moved |= end.progress(&mut events, usize::MAX).unwrap() > 0;
            events.into_iter().for_each(|event| model.take(pe, event));
        }
        if !moved {
            break;
        }
    }
    let left: Vec<_> = model.pending.keys().filter(|(pe, _)| !killed[*pe]).collect();
    assert!(left.is_empty(), "every pending operation ends: {left:?}");
    let lost = killed.contains(&true) || network.clock().now_ns() >= 5 * SECOND;
    if !lost {
        let sent: BTreeMap<_, _> = model.sent.iter().filter(|(_, count)| **count > 0).collect();
        assert_eq!(sent, model.arrived.iter().collect::<BTreeMap<_, _>>(), "every message arrives");
        assert!(network.is_quiet());
    }
    for (pe, (end, window)) in ends.into_iter().zip(windows).enumerate() {
        let mut end = end;
        drop(end.unexpose(window));
        end.close().unwrap();
        assert!(killed[pe] || lost || network.pooled(Pe(pe as u32)) == 0, "the pool is full again");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_operations_keeps_the_contract_of_the_seam(steps in steps(), seed: u64, kind in 0..3) {
        let _watchdog = crate::conformance::Watchdog::start("a sequence of operations");
        let layout = hosts(PES as u32);
        any_sequence_keeps_the_contract(
            match kind {
                0 => Config { capacity: 3, busy: 0.1, ..Config::reliable(layout, seed) },
                1 => Config { handover: true, pool: 2, ..Config::reliable(layout, seed) },
                _ => Config::datagram(layout, seed),
            },
            &steps,
        );
    }
}
