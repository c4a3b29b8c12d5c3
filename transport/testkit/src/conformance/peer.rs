//! One PE of a law: its endpoint, its arrivals, and the checks that are part of every law.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use super::bytes;
use super::{Death, World};
use charm4rs_transport_core::memory::{Counted, Msg, RegBuf};
use charm4rs_transport_core::seed::Rng;
use charm4rs_transport_core::{
    Caps, Doorbell, Endpoint, Event, Imm, OpId, Pe, PostError, Posted, RemoteKey, TransportError, Window,
};

/// What the PEs of a group share besides the backend.
#[derive(Default)]
pub(super) struct GroupState {
    board: Mutex<BTreeMap<(&'static str, u32), Vec<u8>>>,
    arrivals: AtomicU64,
    pub(super) failed: AtomicBool,
    pub(super) counted: Counted,
}

/// How long a PE sleeps if nothing wakes it.
const NAP: Duration = Duration::from_micros(200);

/// The end of a pending operation.
#[derive(Debug)]
pub enum Outcome {
    /// It is done; the buffer is back unless it changed owner.
    Done(Option<RegBuf>),
    /// It failed.
    Failed(Option<RegBuf>, Box<TransportError>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OpKind {
    Send,
    Put,
    Get,
}

pub(super) enum Fate {
    Thread(Death),
    Stepped(Rc<dyn World>),
}

/// A PE of a law. Every method with an `await` makes progress while it waits.
pub struct Peer {
    /// Its number.
    pub pe: Pe,
    /// The number of PEs.
    pub pes: u32,
    /// The law's seed.
    pub seed: u64,
    caps: Caps,
    end: RefCell<Option<Box<dyn Endpoint>>>,
    doorbell: Option<Doorbell>,
    fate: Fate,
    pub(super) shared: std::sync::Arc<GroupState>,
    rng: RefCell<Rng>,
    batch: RefCell<Vec<Event>>,
    inbox: RefCell<VecDeque<(Pe, Imm, Msg)>>,
    announced: RefCell<VecDeque<(Pe, Imm)>>,
    pending: RefCell<BTreeMap<u64, OpKind>>,
    ended: RefCell<BTreeMap<u64, Outcome>>,
    lost: RefCell<Vec<Pe>>,
    losses_allowed: Cell<bool>,
    frozen: Cell<bool>,
    next_op: Cell<u64>,
    barriers: Cell<u64>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("pe", &self.pe).finish_non_exhaustive()
    }
}

impl Peer {
    pub(super) fn new(
        end: Box<dyn Endpoint>,
        pes: u32,
        seed: u64,
        doorbell: Option<Doorbell>,
        fate: Fate,
        shared: std::sync::Arc<GroupState>,
    ) -> Self {
        let pe = end.pe();
        let caps = end.caps().clone();
        assert!(caps.inject_max <= caps.send_max, "inject is no larger than send");
        Self {
            pe,
            pes,
            seed,
            caps,
            end: RefCell::new(Some(end)),
            doorbell,
            fate,
            shared,
            rng: RefCell::new(Rng::stream(seed, u64::from(pe.0))),
            batch: RefCell::default(),
            inbox: RefCell::default(),
            announced: RefCell::default(),
            pending: RefCell::default(),
            ended: RefCell::default(),
            lost: RefCell::default(),
            losses_allowed: Cell::new(false),
            frozen: Cell::new(false),
            next_op: Cell::new(1),
            barriers: Cell::new(0),
        }
    }

    /// The endpoint's capabilities.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// The other PEs.
    pub fn others(&self) -> impl Iterator<Item = Pe> + use<> {
        let me = self.pe;
        (0..self.pes).map(Pe).filter(move |pe| *pe != me)
    }

    /// This PE's own random numbers.
    pub fn rng<R>(&self, with: impl FnOnce(&mut Rng) -> R) -> R {
        with(&mut self.rng.borrow_mut())
    }

    /// Calls the endpoint.
    ///
    /// # Panics
    /// If it is closed.
    pub fn end<R>(&self, with: impl FnOnce(&mut dyn Endpoint) -> R) -> R {
        with(self.end.borrow_mut().as_deref_mut().expect("the law closed this endpoint"))
    }

    // ---- progress ------------------------------------------------------------------------------------------

    /// Makes progress once, with a batch of random length. Returns how many events came.
    pub(super) fn turn(&self) -> usize {
        if self.frozen.get() {
            return 0;
        }
        let max = 1 + self.rng(|rng| rng.below(64));
        self.progress(max)
    }

    /// Makes progress once, with a batch of at most `max`.
    ///
    /// # Panics
    /// If the backend breaks the contract of events.
    pub fn progress(&self, max: usize) -> usize {
        let mut end = self.end.borrow_mut();
        let Some(end) = end.as_deref_mut() else { return 0 };
        let mut batch = self.batch.borrow_mut();
        let count = end.progress(&mut batch, max).unwrap_or_else(|e| panic!("PE {}: progress: {e}", self.pe));
        assert_eq!(count, batch.len(), "progress returns how many events it appended");
        assert!(count <= max, "{count} events in a batch of at most {max}");
        for event in batch.drain(..) {
            self.sort(event);
        }
        count
    }

    fn sort(&self, event: Event) {
        match event {
            Event::Recv { from, imm, msg } => {
                assert!(from.0 < self.pes, "a message from PE {from}, which does not exist");
                assert_eq!(msg.as_ptr() as usize % 16, 0, "a message is 16-byte aligned");
                self.inbox.borrow_mut().push_back((from, imm, msg));
            }
            Event::Missed { from, len, .. } => panic!("PE {}: no memory for {len} bytes of PE {from}", self.pe),
            Event::PutArrived { from, imm } => self.announced.borrow_mut().push_back((from, imm)),
            Event::Sent { op, buf } => {
                let kind = self.retire(op);
                assert!(matches!(kind, OpKind::Send | OpKind::Put), "a {kind:?} ended as Sent");
                self.ended.borrow_mut().insert(op.0, Outcome::Done(buf));
            }
            Event::Got { op, buf } => {
                assert_eq!(self.retire(op), OpKind::Get, "ended as Got");
                self.ended.borrow_mut().insert(op.0, Outcome::Done(Some(buf)));
            }
            Event::Failed { op, buf, error } => {
                self.retire(op);
                self.ended.borrow_mut().insert(op.0, Outcome::Failed(buf, error));
            }
            Event::PeerLost { pe, why } => {
                assert!(self.losses_allowed.get(), "PE {} lost PE {pe}, which is alive: {why}", self.pe);
                assert!(!self.lost.borrow().contains(&pe), "PE {pe} was lost twice");
                self.lost.borrow_mut().push(pe);
            }
        }
    }

    fn retire(&self, op: OpId) -> OpKind {
        let kind = self.pending.borrow_mut().remove(&op.0);
        kind.unwrap_or_else(|| panic!("an event for operation {}, which is not pending (twice? or Done before?)", op.0))
    }

    /// Makes progress until `ready` returns a value.
    pub async fn until<R>(&self, mut ready: impl FnMut() -> Option<R>) -> R {
        poll_fn(|_| ready().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// Lets the other PEs run, and makes progress once.
    pub async fn breathe(&self) {
        let mut first = true;
        self.until(|| (!std::mem::take(&mut first)).then_some(())).await;
    }

    /// Waits without making progress itself.
    pub async fn until_frozen<R>(&self, ready: impl FnMut() -> Option<R>) -> R {
        self.frozen.set(true);
        let value = self.until(ready).await;
        self.frozen.set(false);
        value
    }

    // ---- beside the backend --------------------------------------------------------------------------------

    /// Writes a value to the board, for the other PEs.
    pub fn post(&self, name: &'static str, number: u32, value: Vec<u8>) {
        self.board().insert((name, number), value);
    }

    /// The value on the board, if there is one.
    pub fn peek(&self, name: &'static str, number: u32) -> Option<Vec<u8>> {
        self.board().get(&(name, number)).cloned()
    }

    /// Waits for a value on the board.
    pub async fn read(&self, name: &'static str, number: u32) -> Vec<u8> {
        self.until(|| self.peek(name, number)).await
    }

    fn board(&self) -> std::sync::MutexGuard<'_, BTreeMap<(&'static str, u32), Vec<u8>>> {
        self.shared.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a window's key to the board.
    pub fn post_key(&self, name: &'static str, number: u32, key: &RemoteKey) {
        let mut value = key.len.to_le_bytes().to_vec();
        value.extend_from_slice(&key.bytes);
        self.post(name, number, value);
    }

    /// Waits for a window's key.
    pub async fn read_key(&self, name: &'static str, number: u32) -> RemoteKey {
        let value = self.read(name, number).await;
        let (len, bytes) = value.split_first_chunk::<8>().expect("a key starts with its length");
        RemoteKey { len: u64::from_le_bytes(*len), bytes: bytes.into() }
    }

    /// Waits for all PEs.
    pub async fn barrier(&self) {
        self.barriers.set(self.barriers.get() + 1);
        self.shared.arrivals.fetch_add(1, Ordering::AcqRel);
        let all = self.barriers.get() * u64::from(self.pes);
        self.until(|| (self.shared.arrivals.load(Ordering::Acquire) >= all).then_some(())).await;
    }

    // ---- buffers -------------------------------------------------------------------------------------------

    /// A counted buffer on the heap.
    pub fn heap(&self, len: usize) -> RegBuf {
        self.shared.counted.wrap(RegBuf::heap(len))
    }

    /// A counted buffer in a vector of the user.
    pub fn vec<T: bytemuck::Pod + Send>(&self, vec: Vec<T>) -> RegBuf {
        self.shared.counted.wrap(RegBuf::from_vec(vec))
    }

    /// A buffer from the backend's pool, or from the heap if the pool has none of that size.
    pub fn pooled(&self, len: usize) -> RegBuf {
        self.end(|end| end.alloc(len)).unwrap_or_else(|| self.heap(len))
    }

    /// One of these three kinds, in turn, with the contents of a message.
    pub fn loaded(&self, to: Pe, imm: Imm, len: usize) -> RegBuf {
        let mut buf = match imm.0 % 3 {
            0 => self.pooled(len),
            1 => self.heap(len),
            _ => self.vec(vec![0u8; len]),
        };
        assert_eq!(buf.len(), len, "a buffer has the requested length");
        bytes::pour(self.key(to, imm), &mut buf);
        buf
    }

    /// The key of the contents of a message of this PE.
    pub fn key(&self, to: Pe, imm: Imm) -> u64 {
        bytes::key(self.seed, self.pe, to, imm)
    }

    /// Checks the contents of a message to this PE.
    pub fn expect(&self, from: Pe, imm: Imm, got: &[u8]) {
        bytes::expect(bytes::key(self.seed, from, self.pe, imm), got, format_args!("from PE {from}, {imm:?}"));
    }

    // ---- operations ----------------------------------------------------------------------------------------

    /// A new operation id.
    pub fn op(&self) -> OpId {
        self.next_op.set(self.next_op.get() + 1);
        OpId(self.next_op.get())
    }

    fn posted(&self, op: OpId, kind: OpKind, posted: Posted) -> Option<OpId> {
        (posted == Posted::Pending).then(|| {
            self.pending.borrow_mut().insert(op.0, kind);
            op
        })
    }

    /// Posts until the post is accepted.
    async fn insist(
        &self,
        kind: OpKind,
        buf: RegBuf,
        mut attempt: impl FnMut(&mut dyn Endpoint, RegBuf, OpId) -> Result<Posted, PostError<RegBuf>>,
    ) -> Result<Option<OpId>, PostError<RegBuf>> {
        let op = self.op();
        let identity = |buf: &RegBuf| (buf.as_ptr() as usize, buf.len());
        let mine = identity(&buf);
        let mut buf = buf;
        loop {
            match self.end(|end| attempt(end, buf, op)) {
                Ok(posted) => return Ok(self.posted(op, kind, posted)),
                Err(PostError::Busy(back)) => {
                    assert_eq!(identity(&back), mine, "a refusal gives the same buffer back");
                    buf = back;
                }
                Err(PostError::PeerDown(pe, back)) => {
                    assert_eq!(identity(&back), mine, "a refusal gives the same buffer back");
                    return Err(PostError::PeerDown(pe, back));
                }
                Err(other) => return Err(other),
            }
            self.breathe().await;
        }
    }

    /// Sends, and retries while it is busy. `Some`: pending.
    pub async fn try_send(&self, to: Pe, imm: Imm, buf: RegBuf) -> Result<Option<OpId>, PostError<RegBuf>> {
        self.insist(OpKind::Send, buf, |end, buf, op| end.send(to, imm, buf, op)).await
    }

    /// Sends. Expects no other refusal than `Busy`.
    pub async fn send(&self, to: Pe, imm: Imm, buf: RegBuf) -> Option<OpId> {
        self.try_send(to, imm, buf).await.unwrap_or_else(|e| panic!("PE {} to {to}: send: {e:?}", self.pe))
    }

    /// Sends once, and returns the answer.
    pub fn send_once(&self, to: Pe, imm: Imm, buf: RegBuf) -> Result<Option<OpId>, PostError<RegBuf>> {
        let op = self.op();
        let posted = self.end(|end| end.send(to, imm, buf, op))?;
        Ok(self.posted(op, OpKind::Send, posted))
    }

    /// Injects the contents for `imm`, and retries while it is busy.
    pub async fn inject(&self, to: Pe, imm: Imm, len: usize) {
        while let Err(refusal) = self.inject_once(to, imm, len) {
            assert!(matches!(refusal, PostError::Busy(())), "PE {} to {to}: inject: {refusal:?}", self.pe);
            self.breathe().await;
        }
    }

    /// Injects once, and returns the answer.
    ///
    /// # Panics
    /// If the backend does not call `fill` as the contract says.
    pub fn inject_once(&self, to: Pe, imm: Imm, len: usize) -> Result<(), PostError<()>> {
        let mut calls = 0;
        let key = self.key(to, imm);
        let mut fill = |bytes: &mut [MaybeUninit<u8>]| {
            calls += 1;
            assert_eq!(bytes.len(), len, "fill gets exactly the requested bytes");
            bytes::pour_uninit(key, bytes);
        };
        let answer = self.end(|end| end.inject(to, imm, len, &mut fill));
        assert_eq!(calls, u32::from(answer.is_ok()), "fill is called once if the post is accepted, otherwise never");
        answer
    }

    /// Puts, and retries while it is busy.
    pub async fn try_put(
        &self,
        to: Pe,
        src: RegBuf,
        dst: &RemoteKey,
        offset: u64,
        imm: Option<Imm>,
    ) -> Result<Option<OpId>, PostError<RegBuf>> {
        self.insist(OpKind::Put, src, |end, src, op| end.put(to, src, dst, offset, imm, op)).await
    }

    /// Puts. Expects no other refusal than `Busy`.
    pub async fn put(&self, to: Pe, src: RegBuf, dst: &RemoteKey, offset: u64, imm: Option<Imm>) -> Option<OpId> {
        let answer = self.try_put(to, src, dst, offset, imm).await;
        answer.unwrap_or_else(|e| panic!("PE {} to {to}: put: {e:?}", self.pe))
    }

    /// Gets, and retries while it is busy.
    pub async fn try_get(
        &self,
        from: Pe,
        src: &RemoteKey,
        offset: u64,
        dst: RegBuf,
    ) -> Result<Option<OpId>, PostError<RegBuf>> {
        self.insist(OpKind::Get, dst, |end, dst, op| end.get(from, src, offset, dst, op)).await
    }

    /// Gets, and waits for the bytes.
    pub async fn get(&self, from: Pe, src: &RemoteKey, offset: u64, dst: RegBuf) -> RegBuf {
        let answer = self.try_get(from, src, offset, dst).await;
        let op = answer.unwrap_or_else(|e| panic!("PE {} from {from}: get: {e:?}", self.pe));
        let op = op.expect("a get is pending: its buffer comes back in an event");
        match self.outcome(op).await {
            Outcome::Done(Some(buf)) => buf,
            other => panic!("PE {} from {from}: get: {other:?}", self.pe),
        }
    }

    /// Exposes memory.
    pub fn expose(&self, buf: RegBuf) -> Window {
        self.end(|end| end.expose(buf)).unwrap_or_else(|(e, _)| panic!("PE {}: expose: {e}", self.pe))
    }

    /// Exposes memory for repeated puts.
    pub fn expose_for_long(&self, buf: RegBuf) -> Window {
        self.end(|end| end.expose_for_long(buf)).unwrap_or_else(|(e, _)| panic!("PE {}: expose: {e}", self.pe))
    }

    /// Takes memory back.
    pub fn unexpose(&self, window: Window) -> RegBuf {
        self.end(|end| end.unexpose(window))
    }

    // ---- what comes back -----------------------------------------------------------------------------------

    /// Waits for the end of a pending operation.
    pub async fn outcome(&self, op: OpId) -> Outcome {
        self.until(|| self.ended.borrow_mut().remove(&op.0)).await
    }

    /// Waits until a send or put has released its buffer. Returns the buffer if it came back.
    pub async fn done(&self, op: Option<OpId>) -> Option<RegBuf> {
        match self.outcome(op?).await {
            Outcome::Done(buf) => buf,
            Outcome::Failed(_, error) => panic!("PE {}: operation failed: {error}", self.pe),
        }
    }

    /// Waits until nothing is pending. Drops the buffers, and fails if an operation failed.
    pub async fn flush(&self) {
        self.until(|| self.pending.borrow().is_empty().then_some(())).await;
        for (_, outcome) in std::mem::take(&mut *self.ended.borrow_mut()) {
            assert!(matches!(outcome, Outcome::Done(_)), "PE {}: {outcome:?}", self.pe);
        }
    }

    /// Waits until nothing is pending, and returns how each operation ended.
    pub async fn drain(&self) -> Vec<Outcome> {
        self.until(|| self.pending.borrow().is_empty().then_some(())).await;
        std::mem::take(&mut *self.ended.borrow_mut()).into_values().collect()
    }

    /// How many operations are pending.
    pub fn pending(&self) -> usize {
        self.pending.borrow().len()
    }

    /// Waits for a message.
    pub async fn recv(&self) -> (Pe, Imm, Msg) {
        self.until(|| self.inbox.borrow_mut().pop_front()).await
    }

    /// A message, if one has arrived.
    pub fn try_recv(&self) -> Option<(Pe, Imm, Msg)> {
        self.inbox.borrow_mut().pop_front()
    }

    /// Waits for the announcement of a put.
    pub async fn announced(&self) -> (Pe, Imm) {
        self.until(|| self.announced.borrow_mut().pop_front()).await
    }

    /// The announcement of a put, if one has arrived.
    pub fn try_announced(&self) -> Option<(Pe, Imm)> {
        self.announced.borrow_mut().pop_front()
    }

    // ---- sleep and death -----------------------------------------------------------------------------------

    /// Sleeps as an idle PE does, for at most `limit`. If arrivals do not wake a PE, it sleeps briefly. True: it was woken, or had no need to sleep.
    ///
    /// # Panics
    /// If the world has no sleep, or the kernel refuses to poll.
    pub fn sleep(&self, limit: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let doorbell = self.doorbell.as_ref().expect("only threads sleep");
        let mut end = self.end.borrow_mut();
        let end = end.as_deref_mut().expect("the law closed this endpoint");
        if !end.arm() {
            return true;
        }
        let bell = doorbell.fd();
        let mut fds = vec![PollFd::new(&bell, PollFlags::IN)];
        let fd = end.wait_fd();
        fds.extend(fd.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let naps = !end.caps().wakes;
        let limit = Timespec::try_from(if naps { NAP } else { limit }).expect("a limit of seconds");
        let woken = loop {
            match poll(&mut fds, Some(&limit)) {
                Ok(ready) => break ready > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => panic!("poll: {e}"),
            }
        };
        doorbell.clear();
        woken || naps
    }

    /// From now on peers may be lost.
    pub fn allow_losses(&self) {
        self.losses_allowed.set(true);
    }

    /// The peers that this PE has lost.
    pub fn lost(&self) -> Vec<Pe> {
        self.lost.borrow().clone()
    }

    /// Kills this PE. The role should end soon after.
    pub fn die(&self) {
        match &self.fate {
            Fate::Thread(Death::Drop) => {}
            Fate::Thread(Death::By(kill)) => kill(self.pe),
            Fate::Stepped(world) => world.kill(self.pe),
        }
        drop(self.end.borrow_mut().take());
        self.pending.borrow_mut().clear();
        self.ended.borrow_mut().clear();
        self.inbox.borrow_mut().clear();
        self.announced.borrow_mut().clear();
    }

    /// Closes the endpoint.
    ///
    /// # Panics
    /// If that fails.
    pub fn close(&self) {
        if let Some(end) = self.end.borrow_mut().take() {
            end.close().unwrap_or_else(|e| panic!("PE {}: close: {e}", self.pe));
        }
    }

    /// The end of every role: checks that nothing is left over.
    pub(super) async fn finish(&self) {
        if self.end.borrow().is_some() {
            self.drain().await;
        }
        self.barrier().await;
        for _ in 0..3 {
            self.breathe().await;
        }
        assert!(self.inbox.borrow().is_empty(), "PE {}: unexpected messages: {:?}", self.pe, self.inbox);
        assert!(self.announced.borrow().is_empty(), "PE {}: announcements: {:?}", self.pe, self.announced);
        self.barrier().await;
        self.allow_losses();
    }
}
