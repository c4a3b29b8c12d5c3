//! Fuzz target: the bytes of messages from an authenticated process that is faulty.
//!
//! A PE may refuse any bytes, which ends the job with status 76, or accept them; it must not panic. The same function runs over the committed corpus
//! as a unit test.

use charm4rs_transport::port::Tag;
use charm4rs_transport::{Pe, RegBuf};

use crate::prelude::*;
use crate::runtime::{self, Rt};
use crate::testing::{End, SimOptions, run};

/// The number of steps after which messages that send each other endlessly are abandoned.
const STEPS: u64 = 3_000;
/// The maximum number of messages in an input.
const MESSAGES: usize = 24;

#[derive(Serialize, Deserialize)]
struct Cell(i64, Vec<String>);

#[chare(index = i8)]
impl Cell {
    #[init]
    fn new(start: i64) -> Self {
        Self(start, Vec::new())
    }
    #[entry]
    fn add(&mut self, cx: &mut Cx<Self>, by: i64, names: Vec<String>) -> i64 {
        self.1 = names;
        self.0 = self.0.wrapping_add(by);
        cx.contribute(self.0, reduce::sum, cx.all().total_sink());
        self.0
    }
    #[entry]
    fn total(&mut self, total: i64) {
        self.0 = total;
    }
    #[entry]
    async fn wait(this: This<Self>, row: Payload<u32>) -> u64 {
        let (n, at) = this.next_told().await;
        let all = this.allreduce(n, reduce::max).checked().await;
        all.map_or(0, |all| u64::from(all) + row.len() as u64 + u64::from(at.is_some()))
    }
    #[entry]
    fn told(&mut self, n: u32, at: Option<Pe>);
    #[entry(key = step)]
    fn keyed(&mut self, step: u8, names: Vec<String>);
    #[entry]
    fn ask_by_trait(&self, whom: Option<AnyProxy<dyn Asked>>) {
        whom.into_iter().for_each(|whom| drop(whom.asked(self.1.clone())));
    }
    #[entry(post = put_window)]
    fn land(&mut self, row: Payload<u32>) -> Payload<u32> {
        row
    }
    fn put_window(&mut self, which: usize, bytes: usize) -> Option<crate::RecvBuffer> {
        (which == 0 && bytes < 1 << 16).then(|| Payload::<u8>::zeroed(bytes).into())
    }
    #[entry]
    fn leave(&mut self, cx: &mut Cx<Self>) {
        cx.destroy();
    }
}

/// One element for each PE: it creates collections and makes calls from PEs other than the first.
struct Member;

#[chare(index = Pe)]
impl Member {
    #[init]
    fn new() -> Self {
        Self
    }
    #[entry]
    async fn work(this: This<Self>) {
        let job = this.job();
        let cells = job.array::<Cell>(5, 1);
        let sparse = job.sparse::<Cell>();
        sparse.insert(3, 3);
        sparse.insert(-3, 3);
        let _ = cells.all().add(1, vec!["a".into()]).checked().await;
        let alone = job.single::<Alone>(7);
        alone.ask().done().checked().await.ok();
        cells.at(2).ask_by_trait(Some(alone.into()));
        let _ = cells.all().add(1, Vec::new()).reduce(reduce::sum).checked().await;
        sparse.done_inserting().checked().await.ok();
        let _ = sparse.all().add(1, Vec::new()).done().checked().await;
        let waits = cells.at(1).wait(vec![1; 1000]).call();
        cells.all().told(5, None);
        let _ = waits.checked().await;
    }
}

#[chare]
trait Asked {
    #[entry]
    fn asked(&self, names: Vec<String>) -> usize;
}

#[chare]
impl Asked for Alone {
    fn asked(&self, names: Vec<String>) -> usize {
        names.len()
    }
}

struct Alone(u8);

#[chare]
impl Alone {
    #[init]
    fn new(it: u8) -> Self {
        Self(it)
    }
    #[entry]
    fn ask(&self) -> u8 {
        self.0
    }
}

/// Messages of any content, from PE 0 to the other two PEs of a running job. Each has: its kind; how it is sent (bit 0: to which PE; 1: with an
/// offer; 2: before all others; 6 and 7: the number of payloads); the length of its header and body; and these.
///
/// # Panics
/// If a PE panics.
pub fn envelope(input: &[u8]) {
    let input = input.to_vec();
    let outcome = run(
        &SimOptions { steps_max: STEPS, ..SimOptions::new(3, 1) },
        Box::new(move |rt| {
            let job = Job::of(rt);
            let messages: Vec<Message> = Message::all(&input).collect();
            messages.iter().filter(|message| message.at_once()).for_each(|message| message.send(rt));
            let cells = job.array::<Cell>(6, 1);
            let members = job.group::<Member>(());
            members.all().work();
            runtime::spawn(rt, async move {
                let _ = cells.all().add(1, Vec::new()).done().checked().await;
                let waits = cells.at(4).wait(vec![2; 500]).call();
                let most = cells.all().add(1, Vec::new()).reduce(reduce::max).checked();
                messages.iter().filter(|message| !message.at_once()).for_each(|message| message.send(rt));
                cells.at(5).told(1, Some(Pe(1)));
                let _ = waits.checked().await;
                let _ = most.await;
            });
        }),
    );
    if let End::Failed(pe, failure) = &outcome.end {
        // 76: refused. 1: a call of the job itself found its data changed. A panic of the program itself is also a bug, because its code does not
        // panic.
        assert!(!failure.what.contains("panicked"), "PE {pe}: {failure} (status {})", failure.code);
        assert!(matches!(failure.code, 1 | 76), "PE {pe}: {failure} (status {})", failure.code);
    }
}

struct Message {
    kind: u8,
    how: u8,
    bytes: Vec<u8>,
}

impl Message {
    fn all(mut input: &[u8]) -> impl Iterator<Item = Self> + '_ {
        std::iter::from_fn(move || {
            let (&[kind, how, len], rest) = input.split_first_chunk()?;
            let (bytes, rest) = rest.split_at(rest.len().min(usize::from(len)));
            input = rest;
            // The last four kinds are the scheduler's.
            let kind = if kind % 36 < 32 { kind % 36 } else { 0xC0 + kind % 36 };
            Some(Self { kind, how, bytes: bytes.to_vec() })
        })
        .take(MESSAGES)
    }

    fn at_once(&self) -> bool {
        self.how & 4 != 0
    }

    fn send(&self, rt: Rt) {
        let to = Pe(1 + u32::from(self.how & 1));
        let fill = |room: &mut [std::mem::MaybeUninit<u8>]| {
            crate::message::moved::put_bytes(room, 0, &self.bytes);
        };
        let payloads: Vec<_> = (0..usize::from(self.how >> 6)).map(|n| RegBuf::heap(1_500 + n)).collect();
        let tag = Tag(self.kind);
        if tag.is_system() {
            return rt.sched.send(to, tag, self.bytes.len(), fill);
        }
        rt.sched.send_payloads(to, tag, self.bytes.len(), fill, payloads, self.how & 2 != 0);
    }
}

#[cfg(test)]
mod tests {
    use charm4rs_transport::seed;
    use charm4rs_transport_testkit::fuzz::replay;

    use super::*;
    use crate::CollectionId;
    use crate::message::envelope::{FutureId, Header, tag};
    use crate::runtime::registry::registry;

    #[test]
    fn a_pe_survives_the_corpus_of_messages() {
        replay("envelope", envelope);
    }

    /// A message with a valid header, and a body that may be valid or not.
    fn message(rng: &mut seed::Rng) -> Vec<u8> {
        let small = |rng: &mut seed::Rng| match rng.below(60) {
            0 => u32::MAX,
            1 => 1 << 31,
            n => u32::try_from(n % 3).unwrap(),
        };
        let creator = if rng.below(20) == 0 { u32::MAX } else { small(rng) };
        let section = u64::from(rng.below(4) == 0) << 31;
        let collection = u64::from(creator) << 32 | section | u64::from(small(rng));
        let mut header = Header::of_collection(CollectionId(collection), Pe(small(rng)));
        if rng.below(3) > 0 {
            header = header.with_reply(FutureId { pe: Pe(small(rng)), slot: small(rng), turn: small(rng) });
        }
        let methods = registry().methods.len() + 1;
        header.method = u16::try_from(rng.below(methods)).unwrap();
        header.flags = if rng.below(20) == 0 { u16::try_from(rng.below(32)).unwrap() } else { 0 };
        header = header.with_priority(i32::try_from(rng.below(3)).unwrap());
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        for _ in 0..rng.below(14) {
            match rng.below(6) {
                0 => bytes.push(u8::try_from(rng.below(256)).unwrap()),
                1 => bytes.extend([0xff, 0xff, 0xff, 0xff, 0x0f]),
                _ => bytes.push(u8::try_from(rng.below(6)).unwrap()),
            }
        }
        let kind = if rng.below(40) == 0 { rng.below(36) } else { 1 + rng.below(usize::from(tag::START.0)) };
        let how = rng.below(8) | if rng.below(4) == 0 { rng.below(4) << 6 } else { 0 };
        let mut message: Vec<u8> = [kind, how, bytes.len()].map(|n| u8::try_from(n).unwrap()).to_vec();
        message.append(&mut bytes);
        message
    }

    #[test]
    fn a_pe_survives_messages_of_every_kind_with_any_contents() {
        let seeds = seed::from_environment().map_or(0..2_000, |seed| seed..seed + 1);
        for seed in seeds {
            let mut rng = seed::Rng::stream(seed, 0);
            let input: Vec<u8> = (0..1 + rng.below(6)).flat_map(|_| message(&mut rng)).collect();
            println!("CHARM4RS_SEED={seed}");
            envelope(&input);
        }
    }
}
