//! Payloads keep their memory, or arrive in the memory that their receiver names: there is no unnecessary copy.

use charm4rs::prelude::*;
use charm4rs::{RecvBuffer, testing};

/// Items of a payload that is far larger than those inside a message.
const LEN: usize = 100_000;
const TIMES: u64 = 5;

#[derive(Default)]
struct Keeper {
    spare: Option<Payload<u64>>,
    place: usize,
}

fn place(row: &Payload<u64>) -> usize {
    row.as_ptr().addr()
}

#[chare(index = Pe)]
impl Keeper {
    #[init]
    fn new() -> Self {
        Self::default()
    }
    #[entry]
    fn take(&mut self, row: Payload<u64>) -> (usize, u64) {
        (place(&row), row.iter().sum())
    }
    #[entry(post = put_window)]
    fn land(&mut self, row: Payload<u64>) -> (bool, u64) {
        let result = (place(&row) == self.place, row.iter().sum());
        self.spare = Some(row);
        result
    }
    fn put_window(&mut self, _which: usize, bytes: usize) -> Option<RecvBuffer> {
        let put_window = self.spare.take().unwrap_or_else(|| Payload::zeroed(bytes / 8));
        self.place = place(&put_window);
        Some(put_window.into())
    }
    #[entry]
    fn copies(&self) -> u64 {
        testing::copies()
    }
}

/// In memory of the PE's pool.
fn pooled(item: u64) -> Payload<u64> {
    let mut row = Payload::zeroed(LEN);
    row.fill(item);
    row
}

/// In memory of the program itself.
fn own(item: u64) -> Payload<u64> {
    vec![item; LEN].into()
}

/// The copies that PE 0 and PE 1 have made so far.
async fn copies(keeper: Proxy<Keeper>) -> [u64; 2] {
    [testing::copies(), keeper.copies().await]
}

#[test]
fn a_payload_keeps_its_memory_between_threads_and_so_does_one_that_is_broadcast() {
    let end = testing::threads(2, |job| async move {
        let keepers = job.group::<Keeper>(());
        let keeper = keepers.on(Pe(1));
        assert_eq!(copies(keeper).await, [0, 0]);
        for i in 0..TIMES {
            for row in [pooled(i), own(i)] {
                let before = place(&row);
                assert_eq!(keeper.take(row).await, (before, i * LEN as u64));
            }
        }
        assert_eq!(copies(keeper).await, [0, 0]);
        for i in 0..TIMES {
            let row = pooled(i);
            let before = place(&row);
            assert_eq!(keepers.all().take(row).await, [(before, i * LEN as u64); 2]);
        }
        // The tests between processes below show that the counter counts.
        assert_eq!(copies(keeper).await, [0, 0]);
    });
    assert_eq!(end.unwrap(), 0);
}

/// Asserts that the job has ended normally, unless this machine does not have the library that its transport needs.
fn ended(end: Result<i32, testing::Failure>, transport: &str) {
    match end {
        Err(failure) if failure.code == 78 => eprintln!("{transport}: skipped: {failure}"),
        end => assert_eq!(end.unwrap(), 0, "{transport}"),
    }
}

#[test]
fn a_payload_in_pool_memory_is_handed_to_another_process_and_one_that_its_sender_keeps_is_copied_once() {
    for transport in ["shm", "tcp", "ofi", "ucx"] {
        let end = testing::processes(2, transport, |job| async move {
            let keeper = job.group::<Keeper>(()).on(Pe(1));
            assert_eq!(copies(keeper).await, [0, 0]);
            for i in 0..TIMES {
                assert_eq!(keeper.take(pooled(i)).await.1, i * LEN as u64);
            }
            assert_eq!(copies(keeper).await, [0, 0]);
            // For comparison: the sender keeps a reference.
            for i in 0..TIMES {
                let row = pooled(i);
                assert_eq!(keeper.take(row.clone()).await.1, i * LEN as u64);
                assert_eq!(row[LEN - 1], i);
            }
            assert_eq!(copies(keeper).await, [TIMES, 0]);
        });
        ended(end, transport);
    }
}

#[test]
fn a_payload_from_any_memory_arrives_in_the_memory_that_a_post_method_names_without_a_copy() {
    for transport in ["shm", "tcp", "ofi", "ucx"] {
        let end = testing::processes(2, transport, move |job| async move {
            let keeper = job.group::<Keeper>(()).on(Pe(1));
            // Also so that the element exists: otherwise its post method cannot be called.
            assert_eq!(copies(keeper).await, [0, 0]);
            for i in 0..TIMES {
                for row in [pooled(i), own(i)] {
                    assert_eq!(keeper.land(row).await, (true, i * LEN as u64));
                }
            }
            assert_eq!(copies(keeper).await, [0, 0]);
            // For comparison: without a post method, shared memory cannot hand over memory outside of its pool. A socket and a device accept any
            // memory.
            for i in 0..TIMES {
                assert_eq!(keeper.take(own(i)).await.1, i * LEN as u64);
            }
            let copied = if transport == "shm" { TIMES } else { 0 };
            assert_eq!(copies(keeper).await, [copied, 0]);
        });
        ended(end, transport);
    }
}

struct Born(usize);

#[chare(index = usize)]
impl Born {
    #[init]
    fn new(row: Payload<u64>) -> Self {
        Self(place(&row))
    }
    #[entry]
    fn place(&self) -> usize {
        self.0
    }
}

#[test]
fn a_payload_among_a_constructors_arguments_keeps_its_memory() {
    let end = testing::threads(1, |job| async move {
        for row in [pooled(1), own(1)] {
            let before = place(&row);
            assert_eq!(job.array::<Born>(3, row).all().place().await, [before; 3]);
        }
        // Also if the creator keeps a reference.
        let kept = pooled(2);
        assert_eq!(job.array::<Born>(1, kept.clone()).at(0).place().await, place(&kept));
        assert_eq!(testing::copies(), 0);
    });
    assert_eq!(end.unwrap(), 0);
}
