//! A PE's UCP worker, as safe Rust: it defines the owner of each buffer in flight, and what UCX's callbacks may access. Knows no protocol: a message
//! is a head and bytes.
//!
//! # Why this is sound
//! 1. A buffer that UCX reads or writes is owned by a *slot* until UCX has released it. Slots live as long as the worker, and are freed
//!    only after it was destroyed. So the memory of an operation exists however the operation ends.
//! 2. What UCX keeps pointers to (a slot's [`Context`], the [`CallbackState`]) is allocated once, is accessed through raw pointers or shared
//!    references only, and is freed after the worker.
//! 3. Callbacks run only within calls into UCX, on the thread of that call: the worker is not `Send` once open. They borrow the cells of [`CallbackState`],
//!    which are not borrowed elsewhere then: every borrow in this file ends before UCX is called, and UCX never calls back from within a callback.

use std::cell::{Cell, RefCell, RefMut};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr::{NonNull, null_mut};
use std::rc::Rc;
use std::sync::Arc;

use charm4rs_ucx_sys as sys;
use sys::{Answer, Ucp, ucp_ep_h, ucs_status_t};

use super::Protocol;
use super::context::{Context, Failure, check};
use super::endpoint::INJECT_MAX;
use super::head::{HEAD_MAX, Head};
use super::inbox::Inbox;
use charm4rs_transport_core::RegBuf;
use charm4rs_transport_core::memory::exposed::Part;

/// The one active message that is used.
const ID: u32 = 1;

/// A worker that is not in use yet. It may move to its thread.
#[derive(Debug)]
pub(super) struct Closed {
    context: Arc<Context>,
    raw: sys::ucp_worker_h,
    address: Box<[u8]>,
}

// SAFETY: a worker made for `UCS_THREAD_MODE_SERIALIZED` may be used by any thread, one at a time.
unsafe impl Send for Closed {}

impl Closed {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, Failure> {
        let ucp = context.ucp;
        let params = sys::ucp_worker_params_t {
            field_mask: u64::from(sys::UCP_WORKER_PARAM_FIELD_THREAD_MODE),
            thread_mode: sys::UCS_THREAD_MODE_SERIALIZED,
            ..Default::default()
        };
        let mut raw = null_mut();
        // SAFETY: a live context, parameters with the field that their mask names, memory for the result.
        check("ucp_worker_create", unsafe { (ucp.ucp_worker_create)(context.raw, &raw const params, &raw mut raw) })?;
        let mut this = Self { context: context.clone(), raw, address: Box::default() };
        let (mut address, mut len) = (null_mut(), 0);
        // SAFETY: a live worker, and memory for the results.
        let got = unsafe { (ucp.ucp_worker_get_address)(raw, &raw mut address, &raw mut len) };
        check("ucp_worker_get_address", got)?;
        // SAFETY: UCX returned that many bytes, which stay until they are released, below.
        this.address = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), len) }.into();
        // SAFETY: it came from this worker, and is not used again.
        unsafe { (ucp.ucp_worker_release_address)(raw, address) };
        Ok(this)
    }

    /// The address to which peers connect.
    pub(super) fn address(&self) -> &[u8] {
        &self.address
    }

    /// Opens it for messages, on the thread that will use it.
    pub(super) fn open(self, inbox: Inbox) -> Result<Worker, Failure> {
        let ucp = self.context.ucp;
        let mut fd = -1;
        // SAFETY: a live worker, and memory for the result.
        check("ucp_worker_get_efd", unsafe { (ucp.ucp_worker_get_efd)(self.raw, &raw mut fd) })?;
        let shared = Rc::new(CallbackState {
            ucp,
            inbox: RefCell::new(inbox),
            done: RefCell::default(),
            broken: RefCell::default(),
            news: Cell::new(false),
            flushed: Cell::new(false),
        });
        let handler = sys::ucp_am_handler_param_t {
            field_mask: u64::from(
                sys::UCP_AM_HANDLER_PARAM_FIELD_ID
                    | sys::UCP_AM_HANDLER_PARAM_FIELD_CB
                    | sys::UCP_AM_HANDLER_PARAM_FIELD_ARG,
            ),
            id: ID,
            cb: Some(arrived),
            arg: Rc::as_ptr(&shared).cast_mut().cast(),
            ..Default::default()
        };
        // SAFETY: a live worker; the handler's argument outlives it (2. in the module's text).
        let set = unsafe { (ucp.ucp_worker_set_am_recv_handler)(self.raw, &raw const handler) };
        check("ucp_worker_set_am_recv_handler", set)?;
        let mut sending = Worker::param(null_mut(), 0);
        sending.cb.send = Some(ended);
        Ok(Worker {
            closed: self,
            fd,
            shared,
            slots: Vec::new(),
            free: Vec::new(),
            watches: Vec::new(),
            sending,
            _here: PhantomData,
        })
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: it is live, and destroyed once.
            unsafe { (self.context.ucp.ucp_worker_destroy)(self.raw) }
        }
    }
}

/// The state that callbacks access.
#[derive(Debug)]
struct CallbackState {
    ucp: &'static Ucp,
    inbox: RefCell<Inbox>,
    /// Slots whose operations have ended, and their status.
    done: RefCell<Vec<(u32, ucs_status_t)>>,
    /// Connections that broke, by their names, and why.
    broken: RefCell<Vec<(u32, ucs_status_t)>>,
    /// Whether there is anything to handle in these lists or in the inbox.
    news: Cell<bool>,
    flushed: Cell<bool>,
}

/// The parts of a slot that UCX has pointers to.
#[derive(Debug)]
struct Ticket {
    shared: *const CallbackState,
    index: u32,
    head: [u8; HEAD_MAX],
}

/// What an operation owns.
#[derive(Debug)]
pub(super) enum Held {
    /// Nothing.
    Nothing,
    /// A buffer.
    Buf(RegBuf),
    /// A part of a window.
    Part(Part),
}

impl Held {
    /// The address and length of its bytes.
    #[inline]
    fn bytes(&self) -> (*mut u8, usize) {
        match self {
            Self::Nothing => (null_mut(), 0),
            Self::Buf(buf) => (buf.as_ptr(), buf.len()),
            Self::Part(part) => (part.memory.as_ptr(), part.len),
        }
    }
}

#[derive(Debug)]
struct Slot {
    ticket: NonNull<Ticket>,
    held: Held,
    /// Memory for a message that is written in place. Made when it is first needed.
    block: Option<RegBuf>,
}

/// Bytes that wait at their sender, until they are fetched or refused.
#[derive(Debug)]
pub(super) struct Waiting(NonNull<c_void>);

/// A connection. It lasts as long as its worker, unless it is cut.
#[derive(Debug)]
pub(super) struct Connection {
    raw: ucp_ep_h,
    watched: bool,
}

/// The immediate result of an operation. What it owned comes back unless it is pending.
#[derive(Debug)]
pub(super) enum Began {
    Done(Held),
    /// It is pending, under this number.
    On(u32),
    Failed(ucs_status_t, Held),
}

/// The connection's name, which UCX passes to the callback.
#[derive(Debug)]
struct Watch {
    shared: *const CallbackState,
    name: u32,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Worker {
    closed: Closed,
    fd: RawFd,
    shared: Rc<CallbackState>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    watches: Vec<NonNull<Watch>>,
    /// The parameters of every send; those that differ are overwritten.
    sending: sys::ucp_request_param_t,
    /// Not `Send`: callbacks run on the thread that it is on.
    _here: PhantomData<*mut ()>,
}

impl Worker {
    fn ucp(&self) -> &'static Ucp {
        self.shared.ucp
    }

    /// The arrivals. Release the borrow before any other call of the worker.
    #[inline]
    pub(super) fn inbox(&self) -> RefMut<'_, Inbox> {
        self.shared.inbox.borrow_mut()
    }

    /// Operations that ended, and their status.
    #[inline]
    pub(super) fn done(&self) -> RefMut<'_, Vec<(u32, ucs_status_t)>> {
        self.shared.done.borrow_mut()
    }

    /// Connections that broke, by name, and why.
    #[inline]
    pub(super) fn broken(&self) -> RefMut<'_, Vec<(u32, ucs_status_t)>> {
        self.shared.broken.borrow_mut()
    }

    /// UCX's text for a status.
    pub(super) fn words(&self, status: ucs_status_t) -> &'static str {
        super::library::words(self.ucp(), status)
    }

    /// Connects to the worker at this address. `watched`: report when the connection breaks, which not all transports support.
    pub(super) fn connect(&mut self, address: &[u8], name: u32, watched: bool) -> Result<Connection, Failure> {
        let watch = Box::new(Watch { shared: Rc::as_ptr(&self.shared), name });
        let watch = NonNull::from(Box::leak(watch));
        self.watches.push(watch);
        let params = sys::ucp_ep_params_t {
            field_mask: u64::from(
                sys::UCP_EP_PARAM_FIELD_REMOTE_ADDRESS
                    | sys::UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE
                    | sys::UCP_EP_PARAM_FIELD_ERR_HANDLER,
            ),
            address: address.as_ptr().cast(),
            err_mode: if watched { sys::UCP_ERR_HANDLING_MODE_PEER } else { sys::UCP_ERR_HANDLING_MODE_NONE },
            err_handler: sys::ucp_err_handler_t { cb: Some(broke), arg: watch.as_ptr().cast() },
            ..Default::default()
        };
        let mut raw = null_mut();
        // SAFETY: a live worker; parameters with the fields that their mask names; the address comes from a worker of the job,
        // through its bootstrap; the handler's argument outlives the worker.
        check("ucp_ep_create", unsafe {
            (self.ucp().ucp_ep_create)(self.closed.raw, &raw const params, &raw mut raw)
        })?;
        Ok(Connection { raw, watched })
    }

    /// Cuts a connection. Its operations in flight end, if it is watched.
    pub(super) fn cut(&mut self, connection: &Connection) {
        if !connection.watched {
            return;
        }
        let mut param = Self::param(Rc::as_ptr(&self.shared).cast_mut().cast(), sys::UCP_EP_CLOSE_FLAG_FORCE);
        param.cb.send = Some(forget);
        // SAFETY: a connection of this worker, which its owner does not use again; the callback's argument outlives the worker.
        let answer = unsafe { (self.ucp().ucp_ep_close_nbx)(connection.raw, &raw const param) };
        debug_assert!(!matches!(Answer::of(answer), Answer::Failed(_)));
    }

    fn param(user_data: *mut c_void, flags: u32) -> sys::ucp_request_param_t {
        sys::ucp_request_param_t {
            op_attr_mask: sys::UCP_OP_ATTR_FIELD_CALLBACK
                | sys::UCP_OP_ATTR_FIELD_USER_DATA
                | sys::UCP_OP_ATTR_FIELD_FLAGS,
            flags,
            user_data,
            ..Default::default()
        }
    }

    /// A free slot.
    #[inline]
    fn slot(&mut self) -> u32 {
        if let Some(index) = self.free.pop() {
            return index;
        }
        let index = u32::try_from(self.slots.len()).expect("operations are counted in 32 bits");
        let ticket = Box::new(Ticket { shared: Rc::as_ptr(&self.shared), index, head: [0; HEAD_MAX] });
        self.slots.push(Slot { ticket: NonNull::from(Box::leak(ticket)), held: Held::Nothing, block: None });
        index
    }

    /// Sends a head and what the operation owns.
    #[inline]
    pub(super) fn send(&mut self, to: &Connection, head: &Head, held: Held, protocol: Protocol) -> Began {
        let index = self.slot();
        let data = held.bytes();
        self.slots[index as usize].held = held;
        let answer = self.post(index, to, head, data, protocol);
        self.began(index, answer)
    }

    /// Sends a head and `len` bytes (at most [`INJECT_MAX`]) that `fill` writes. Returns the number of the operation, unless it is complete.
    #[inline]
    pub(super) fn inject(
        &mut self,
        to: &Connection,
        head: &Head,
        len: usize,
        fill: &mut dyn FnMut(&mut [MaybeUninit<u8>]),
    ) -> Result<Option<u32>, ucs_status_t> {
        let index = self.slot();
        let block = self.slots[index as usize].block.get_or_insert_with(|| RegBuf::heap(INJECT_MAX));
        block.set_len(len);
        block.fill_with(fill);
        let data = (block.as_ptr(), len);
        let ended = match self.post(index, to, head, data, Protocol::Eager) {
            Answer::Pending(_) => return Ok(Some(index)),
            Answer::Done => Ok(None),
            Answer::Failed(status) => Err(status),
        };
        self.free.push(index);
        ended
    }

    /// Sends a head and bytes that the slot owns.
    #[inline]
    fn post(
        &mut self,
        index: u32,
        to: &Connection,
        head: &Head,
        (data, len): (*mut u8, usize),
        protocol: Protocol,
    ) -> Answer {
        let ticket = self.slots[index as usize].ticket;
        // SAFETY: the slot was free, so neither UCX nor other code accesses its ticket.
        let head_len = head.encode(unsafe { &mut (*ticket.as_ptr()).head });
        let param = &mut self.sending;
        param.user_data = ticket.as_ptr().cast();
        param.flags = match protocol {
            Protocol::Eager => sys::UCP_AM_SEND_FLAG_EAGER,
            Protocol::Either => 0,
            Protocol::Collected => sys::UCP_AM_SEND_FLAG_RNDV,
        };
        let ucp = self.shared.ucp;
        // SAFETY: a live connection of this worker; head and bytes stay where they are until the operation has ended, since the slot
        // owns them (1. in the module's text).
        let answer = unsafe {
            let head = (&raw const (*ticket.as_ptr()).head).cast();
            (ucp.ucp_am_send_nbx)(to.raw, ID, head, head_len, data.cast(), len, &raw const *param)
        };
        Answer::of(answer)
    }

    /// Fetches all bytes that wait at their sender. `held` has the same length.
    pub(super) fn collect(&mut self, waiting: &Waiting, held: Held) -> Began {
        let index = self.slot();
        let ticket = self.slots[index as usize].ticket;
        let (data, len) = held.bytes();
        self.slots[index as usize].held = held;
        let mut param = Self::param(ticket.as_ptr().cast(), 0);
        param.cb.recv_am = Some(collected);
        // SAFETY: UCX gave the descriptor to `arrived`, which kept it, and it is used once (the owner of a `Waiting` fetches or refuses it);
        // the slot owns the memory, or is inside its window, until the operation has ended.
        let answer = unsafe {
            let collect = self.ucp().ucp_am_recv_data_nbx;
            collect(self.closed.raw, waiting.0.as_ptr(), data.cast(), len, &raw const param)
        };
        self.began(index, Answer::of(answer))
    }

    /// Refuses bytes that wait at their sender, for which they count as sent.
    pub(super) fn refuse(&mut self, waiting: &Waiting) {
        // SAFETY: as in `collect`.
        unsafe { (self.ucp().ucp_am_data_release)(self.closed.raw, waiting.0.as_ptr()) }
    }

    #[inline]
    fn began(&mut self, index: u32, answer: Answer) -> Began {
        match answer {
            Answer::Pending(_) => Began::On(index),
            Answer::Done => Began::Done(self.take(index)),
            Answer::Failed(status) => Began::Failed(status, self.take(index)),
        }
    }

    /// What an ended operation owned.
    #[inline]
    pub(super) fn take(&mut self, index: u32) -> Held {
        self.free.push(index);
        std::mem::replace(&mut self.slots[index as usize].held, Held::Nothing)
    }

    /// Makes progress. Returns how many things happened.
    #[inline]
    pub(super) fn progress(&mut self) -> u32 {
        // SAFETY: a live worker, on its thread; nothing of `CallbackState` is borrowed (3. in the module's text).
        unsafe { (self.ucp().ucp_worker_progress)(self.closed.raw) }
    }

    /// Whether there is nothing to handle.
    pub(super) fn is_quiet(&self) -> bool {
        !self.shared.news.get() && self.inbox().ready.is_empty()
    }

    /// Whether there is something to handle. Returns true once.
    #[inline]
    pub(super) fn take_news(&self) -> bool {
        self.shared.news.take()
    }

    /// Announces sleep. `false`: something has happened, make progress.
    pub(super) fn arm(&mut self) -> bool {
        // SAFETY: a live worker with `UCP_FEATURE_WAKEUP`.
        unsafe { (self.ucp().ucp_worker_arm)(self.closed.raw) == sys::UCS_OK }
    }

    /// Becomes readable when something has happened after `arm`.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to the worker, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    /// Starts a flush: [`Worker::has_flushed`] says when everything that was sent has left.
    pub(super) fn flush(&mut self) {
        self.shared.flushed.set(false);
        let mut param = Self::param(Rc::as_ptr(&self.shared).cast_mut().cast(), 0);
        param.cb.send = Some(flushed);
        // SAFETY: a live worker; the callback's argument outlives it.
        let answer = unsafe { (self.ucp().ucp_worker_flush_nbx)(self.closed.raw, &raw const param) };
        if !matches!(Answer::of(answer), Answer::Pending(_)) {
            self.shared.flushed.set(true);
        }
    }

    /// Whether everything has left.
    pub(super) fn has_flushed(&self) -> bool {
        self.shared.flushed.get()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The worker itself is freed with `closed`, which is dropped after this; what it may still point to is freed after it.
        let closed = std::mem::replace(&mut self.closed.raw, null_mut());
        // SAFETY: it is live, and destroyed once: `Closed` ignores null.
        unsafe { (self.ucp().ucp_worker_destroy)(closed) };
        for slot in &self.slots {
            // SAFETY: `slot` leaked it, and UCX no longer refers to it.
            drop(unsafe { Box::from_raw(slot.ticket.as_ptr()) });
        }
        for watch in &self.watches {
            // SAFETY: as above, by `connect`.
            drop(unsafe { Box::from_raw(watch.as_ptr()) });
        }
    }
}

/// A message arrived.
unsafe extern "C" fn arrived(
    arg: *mut c_void,
    head: *const c_void,
    head_len: usize,
    data: *mut c_void,
    len: usize,
    param: *const sys::ucp_am_recv_param_t,
) -> ucs_status_t {
    // SAFETY: the argument is the worker's `CallbackState`, and lives (2. in the module's text); the parameters last for the call.
    let (shared, attr) = unsafe { (&*arg.cast::<CallbackState>(), (*param).recv_attr) };
    let bytes = |at: *const c_void, len: usize| match len {
        0 => &[][..],
        // SAFETY: UCX provides that many bytes for the call.
        _ => unsafe { std::slice::from_raw_parts(at.cast::<u8>(), len) },
    };
    let mut inbox = shared.inbox.borrow_mut();
    if attr & u64::from(sys::UCP_AM_RECV_ATTR_FLAG_RNDV) == 0 {
        if inbox.whole(bytes(head, head_len), bytes(data, len)) {
            shared.news.set(true);
        }
        return sys::UCS_OK;
    }
    shared.news.set(true);
    match NonNull::new(data) {
        Some(data) if inbox.offered(bytes(head, head_len), Waiting(data), len) => sys::UCS_INPROGRESS,
        _ => sys::UCS_OK,
    }
}

/// A send has ended.
unsafe extern "C" fn ended(request: *mut c_void, status: ucs_status_t, user_data: *mut c_void) {
    // SAFETY: it is the slot's ticket, which lives (2. in the module's text), as does what it points to; UCX has finished the request.
    unsafe {
        let ticket = &*user_data.cast::<Ticket>();
        let shared = &*ticket.shared;
        shared.done.borrow_mut().push((ticket.index, status));
        shared.news.set(true);
        (shared.ucp.ucp_request_free)(request);
    }
}

/// Bytes were fetched.
unsafe extern "C" fn collected(request: *mut c_void, status: ucs_status_t, _len: usize, user_data: *mut c_void) {
    // SAFETY: as for a send.
    unsafe { ended(request, status, user_data) }
}

/// A connection was cut.
unsafe extern "C" fn forget(request: *mut c_void, _: ucs_status_t, user_data: *mut c_void) {
    // SAFETY: it is the worker's `CallbackState`, which lives; UCX has finished the request.
    unsafe { ((*user_data.cast::<CallbackState>()).ucp.ucp_request_free)(request) }
}

/// Everything that was sent has left.
unsafe extern "C" fn flushed(request: *mut c_void, status: ucs_status_t, user_data: *mut c_void) {
    // SAFETY: as above.
    unsafe {
        (*user_data.cast::<CallbackState>()).flushed.set(true);
        forget(request, status, user_data);
    }
}

/// A connection broke.
unsafe extern "C" fn broke(arg: *mut c_void, _: ucp_ep_h, status: ucs_status_t) {
    // SAFETY: it is the connection's watch, which lives, as does what it points to.
    unsafe {
        let watch = &*arg.cast::<Watch>();
        let shared = &*watch.shared;
        shared.broken.borrow_mut().push((watch.name, status));
        shared.news.set(true);
    }
}
