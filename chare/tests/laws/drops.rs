//! Values are dropped exactly once, in every case.

use std::sync::atomic::{AtomicI64, Ordering};

use charm4rs::prelude::*;
use charm4rs::testing::{simulate, threads};

use crate::shapes;

/// Counts the living values, by kind.
#[derive(Debug)]
struct Token(usize);

static ALIVE: [AtomicI64; 8] = [const { AtomicI64::new(0) }; 8];

impl Token {
    fn new(kind: usize) -> Self {
        ALIVE[kind].fetch_add(1, Ordering::Relaxed);
        Self(kind)
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        ALIVE[self.0].fetch_sub(1, Ordering::Relaxed);
    }
}

impl Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        usize::deserialize(deserializer).map(Self::new)
    }
}

struct Holder {
    held: Vec<Token>,
}

#[chare(index = usize)]
impl Holder {
    #[init]
    fn new(token: Token) -> Self {
        Self { held: vec![token] }
    }
    #[entry]
    fn hold(&mut self, token: Token, _large: [[u64; 32]; 3]) {
        self.held.push(token);
    }
    #[entry]
    fn letter(&mut self, token: Token);
    #[entry]
    fn make(&self) -> Token {
        Token::new(self.held[0].0)
    }
    #[entry]
    async fn wait(this: This<Self>, token: Token) -> Token {
        let other = this.next_letter().await;
        drop(other);
        token
    }
    #[entry]
    fn fail(&self, token: Token) {
        panic!("with {token:?}")
    }
    #[entry]
    fn leave(&mut self, cx: &mut Cx<Self>) {
        cx.destroy();
    }
}

async fn use_them(job: Job, kind: usize) {
    let holders = job.array::<Holder>(5, Token::new(kind));
    let token = || Token::new(kind);
    for i in 0..5 {
        holders.at(i).hold(token(), [[0; 32]; 3]);
        drop(holders.at(i).make().call());
        holders.at(i).make().done().await;
        drop(holders.at(i).make().await);
        assert!(holders.at(i).fail(token()).checked().await.is_err());
        let waits = holders.at(i).wait(token()).call();
        holders.at(i).letter(token());
        drop(waits.await);
        drop(holders.at(i).wait(token()).call());
        holders.at(i).letter(token());
        holders.at(i).letter(token());
    }
    holders.all().hold(token(), [[1; 32]; 3]).done().await;
    assert_eq!(holders.all().make().await.len(), 5);
    let (promise, reply) = job.promise();
    promise.send(token());
    promise.send(token());
    drop(reply.await);
    let (promise, reply) = job.promise();
    promise.send(token());
    drop(reply);
    holders.at(2).leave().done().await;
    assert!(holders.at(2).hold(token(), [[0; 32]; 3]).checked().await.is_err());
    // These will not be delivered, or wait forever.
    for i in [0, 1, 3, 4] {
        drop(holders.at(i).wait(token()).call());
        holders.at(i).hold(token(), [[0; 32]; 3]);
        holders.at(i).make().await;
    }
    let sparse = job.sparse::<Sparse>();
    sparse.insert(3, token());
    sparse.at(4).take(token());
}

struct Sparse;

#[chare(index = usize)]
impl Sparse {
    #[init]
    fn new(_token: Token) -> Self {
        Self
    }
    #[entry]
    fn take(&self, _token: Token) {}
}

impl Default for Token {
    fn default() -> Self {
        Self::new(0)
    }
}

#[test]
fn on_threads_values_are_dropped_exactly_once() {
    for pes in [1, 2, 4] {
        assert_eq!(threads(pes, |job| use_them(job, 1)), Ok(0));
        assert_eq!(ALIVE[1].load(Ordering::Relaxed), 0, "on {pes} threads");
    }
}

#[test]
fn simulated_values_are_dropped_exactly_once() {
    for options in shapes(100) {
        assert_eq!(simulate(&options, |job| use_them(job, 2)).unwrap(), 0);
        assert_eq!(ALIVE[2].load(Ordering::Relaxed), 0, "{options:?}");
    }
}
