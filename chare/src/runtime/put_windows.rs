//! A PE's put windows, and its puts into the windows of other PEs.
//!
//! # Ownership of the memory
//! A put window's memory is accessed by its owner or by the holder of its put handle ([`Right`]). There is exactly one handle: it is created with the
//! put window; it is moved, or serialized for one reader, never copied; a put consumes it. So after a put no PE can put, until the owner, which
//! learns of the put by [`tag::PUT`], has read the data and sends [`tag::READ`]: then the putter has the handle again. No message precedes a put, and
//! the one that follows it is sent when the owner has read, not when the putter wants to continue.
//!
//! # How a put window ends
//! While a peer holds the handle it may be writing, so the memory stays exposed until the handle returns: by a put, whose putter then learns that the
//! put window is gone, or because it is dropped ([`tag::UNUSED`]). A wait for a put window whose handle was dropped would never end, so it fails.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use charm4rs_transport::port::{Incoming, PutWindowAddress, PutWindowId, PutWindowMemory, Tag};
use charm4rs_transport::{Pe, RegBuf};
use hashbrown::HashMap;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::exit::Failure;
use super::reduction::results;
use super::{Awaited, OpenFuture, Rt};
use crate::message::CallError;
use crate::message::envelope::{FutureId, HEADER, Header, tag};
use crate::message::{moved, wire};
use crate::runtime::Route;
use crate::runtime::chare::Arguments;

type Table<K, V> = RefCell<HashMap<K, V, foldhash::fast::FixedState>>;

/// See the module's text.
#[derive(Default)]
pub(crate) struct PutWindows {
    own: Table<PutWindowId, Own>,
    /// Puts of this PE that have not been read.
    puts: Table<(Pe, PutWindowId), (FutureId, Box<PutWindowAddress>)>,
}

/// Which side may access the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// The holder of the handle.
    Theirs,
    /// The owner: this PE has put.
    Ours(Pe),
    /// The owner, forever: the handle was dropped.
    Over,
}

type Notify = Rc<dyn Fn(Rt)>;

struct Own {
    turn: Turn,
    waiting: Vec<FutureId>,
    notify: Option<Notify>,
    /// The owner does not read it any more.
    dropped: bool,
}

/// In a [`tag::READ`]: the owner did not read, and will not.
const GONE: i32 = 1;

/// The header of a put and its offset, as a message.
fn notice(id: PutWindowId, from: Pe, offset: u64) -> Vec<u8> {
    let header = Header::of_put_window(id, from);
    [bytemuck::bytes_of(&header), &offset.to_le_bytes()].concat()
}

fn send(rt: Rt, to: Pe, tag: Tag, id: PutWindowId, what: i32) {
    let header = Header::of_put_window(id, rt.sched.pe()).with_outcome(what);
    rt.sched.send(to, tag, HEADER, |room| _ = moved::put_pod(room, 0, &header));
}

impl PutWindows {
    pub(super) fn clear(&self) {
        let (own, puts) = (self.own.take(), self.puts.take());
        drop((own, puts));
    }

    /// Whether there is something to read.
    pub(crate) fn is_here(&self, id: PutWindowId) -> bool {
        self.own.borrow().get(&id).is_some_and(|own| matches!(own.turn, Turn::Ours(_)))
    }
}

/// The part of a put handle that does not depend on its items: an address with one user, which can be moved. Empty once it was used or serialized.
pub(crate) struct Right(Cell<Option<Box<PutWindowAddress>>>);

impl Right {
    pub(crate) fn of(address: Box<PutWindowAddress>) -> Self {
        Self(Cell::new(Some(address)))
    }

    pub(crate) fn take(&self) -> Option<Box<PutWindowAddress>> {
        self.0.take()
    }

    pub(crate) fn address<R>(&self, look: impl FnOnce(&PutWindowAddress) -> R) -> R {
        let address = self.0.take().expect("a handle that was not used has its address");
        let seen = look(&address);
        self.0.set(Some(address));
        seen
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        if let (Some(address), Some(rt)) = (self.take(), super::try_current()) {
            give_up(rt, &address);
        }
    }
}

impl fmt::Debug for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.take();
        let shown = match &address {
            Some(address) => write!(f, "PutHandle({} bytes on PE {})", address.len, address.owner),
            None => f.write_str("PutHandle(given away)"),
        };
        self.0.set(address);
        shown
    }
}

/// Serializing gives the handle away, so that its reader is the only holder.
impl Serialize for Right {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        wire::is_once("a put handle goes to one chare, in a call or as a result").map_err(S::Error::custom)?;
        let address = self.take().ok_or_else(|| S::Error::custom("a put handle that was given away"))?;
        address.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Right {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        wire::is_once("a put handle comes in a call or as a result").map_err(D::Error::custom)?;
        PutWindowAddress::deserialize(deserializer).map(|address| Self::of(address.into()))
    }
}

/// Opens a put window of so many bytes.
pub(crate) fn open(rt: Rt, bytes: usize) -> (Right, PutWindowMemory) {
    let here = rt.sched.pe();
    let opened = rt.sched.open_put_window(bytes, tag::PUT, |id| notice(id, here, 0));
    let (address, memory) = opened.expect("put windows are made while the PE runs");
    let own = Own { turn: Turn::Theirs, waiting: Vec::new(), notify: None, dropped: false };
    rt.put_windows.own.borrow_mut().insert(address.id, own);
    (Right::of(address.into()), memory)
}

/// Completes when there is something to read.
pub(crate) fn arrival(rt: Rt, id: PutWindowId) -> OpenFuture<()> {
    let arrival = OpenFuture::new(rt, Awaited::PUT);
    let turn = rt.put_windows.own.borrow().get(&id).map(|own| own.turn);
    match turn {
        Some(Turn::Ours(_)) => rt.futures.fulfil(arrival.id(), ()),
        Some(Turn::Theirs) => {
            if let Some(own) = rt.put_windows.own.borrow_mut().get_mut(&id) {
                own.waiting.push(arrival.id());
            }
        }
        Some(Turn::Over) | None => rt.futures.fail(arrival.id(), CallError::HandleGone { owner: rt.sched.pe() }),
    }
    arrival
}

/// From now on every put gives `value` to a sink; including one that has already arrived.
pub(crate) fn notify<V: Arguments + Clone>(rt: Rt, id: PutWindowId, to: Route, value: V) {
    let give: Notify = Rc::new(move |rt: Rt| {
        if let Err(error) = results::give_to(rt, &to, value.clone()) {
            rt.fail(Failure { code: 1, what: format!("the notice of a put cannot be sent: {error}") });
        }
    });
    if let Some(own) = rt.put_windows.own.borrow_mut().get_mut(&id) {
        own.notify = Some(give.clone());
    }
    if rt.put_windows.is_here(id) {
        give(rt);
    }
}

/// The owner has read: the putter may put again.
pub(crate) fn give_back(rt: Rt, id: PutWindowId) {
    let from = {
        let mut own = rt.put_windows.own.borrow_mut();
        let Some(own) = own.get_mut(&id) else { return };
        let Turn::Ours(from) = own.turn else { return };
        own.turn = Turn::Theirs;
        from
    };
    send(rt, from, tag::READ, id, 0);
}

/// The owner does not read any more.
pub(crate) fn drop_put_window(rt: Rt, id: PutWindowId) {
    // At the job's end the port keeps the memory as long as peers may put.
    if rt.sched.stopping().is_some() {
        return;
    }
    let (turn, notify) = {
        let mut table = rt.put_windows.own.borrow_mut();
        let Some(own) = table.get_mut(&id) else { return };
        own.dropped = true;
        (own.turn, own.notify.take())
    };
    drop(notify);
    match turn {
        Turn::Theirs => {}
        Turn::Ours(from) => end(rt, id, Some(from)),
        Turn::Over => end(rt, id, None),
    }
}

/// The handle has returned, and the owner does not read: frees the memory.
fn end(rt: Rt, id: PutWindowId, putter: Option<Pe>) {
    drop(rt.put_windows.own.borrow_mut().remove(&id));
    rt.sched.close_put_window(id);
    if let Some(putter) = putter {
        send(rt, putter, tag::READ, id, GONE);
    }
}

/// Puts; the handle comes back when the owner has read.
pub(crate) fn put(rt: Rt, address: Box<PutWindowAddress>, offset: u64, src: RegBuf) -> OpenFuture<Right> {
    let back = OpenFuture::new(rt, Awaited::PUT_WINDOW);
    let notice = |offset| notice(address.id, rt.sched.pe(), offset);
    rt.sched.put(&address, offset, src, tag::PUT, &notice(offset));
    rt.put_windows.puts.borrow_mut().insert((address.owner, address.id), (back.id(), address));
    back
}

/// A handle is dropped.
pub(crate) fn give_up(rt: Rt, address: &PutWindowAddress) {
    if rt.sched.stopping().is_none() {
        send(rt, address.owner, tag::UNUSED, address.id, 0);
    }
}

/// A put has arrived.
pub(super) fn arrived(rt: Rt, header: &Header, msg: Incoming) {
    let id = header.put_window();
    let Some(&offset) = msg.msg[HEADER..].first_chunk() else {
        return rt.violation(msg.from, "a put without an offset", header.collection().0);
    };
    let mut table = rt.put_windows.own.borrow_mut();
    let Some(own) = table.get_mut(&id).filter(|own| own.turn == Turn::Theirs) else {
        return rt.violation(msg.from, "a put into an unknown put window, or out of turn", header.collection().0);
    };
    for payload in msg.payloads.iter() {
        if !rt.sched.fill_put_window(id, u64::from_le_bytes(offset), payload) {
            return rt.violation(msg.from, "a put outside of its put window", u64::from_le_bytes(offset));
        }
    }
    own.turn = Turn::Ours(msg.from);
    let (waiting, notify, dropped) = (std::mem::take(&mut own.waiting), own.notify.clone(), own.dropped);
    drop(table);
    if dropped {
        return end(rt, id, Some(msg.from));
    }
    waiting.into_iter().for_each(|future| rt.futures.fulfil(future, ()));
    if let Some(notify) = notify {
        notify(rt);
    }
}

/// A put of this PE was read, or the owner will not read it.
pub(super) fn read(rt: Rt, header: &Header, msg: &Incoming) {
    let id = header.put_window();
    let put = rt.put_windows.puts.borrow_mut().remove(&(msg.from, id));
    match put {
        Some((future, _)) if header.outcome() == GONE => {
            rt.futures.fail(future, CallError::WindowGone { owner: msg.from });
        }
        Some((future, address)) => rt.futures.fulfil(future, Right::of(address)),
        None => rt.violation(msg.from, "an answer without a put", header.collection().0),
    }
}

/// The handle of a put window of this PE was dropped.
pub(super) fn unused(rt: Rt, header: &Header, msg: &Incoming) {
    let id = header.put_window();
    let mut table = rt.put_windows.own.borrow_mut();
    let Some(own) = table.get_mut(&id).filter(|own| own.turn == Turn::Theirs) else {
        return rt.violation(msg.from, "a put handle was dropped that no peer holds", header.collection().0);
    };
    own.turn = Turn::Over;
    let (waiting, dropped) = (std::mem::take(&mut own.waiting), own.dropped);
    drop(table);
    if dropped {
        return end(rt, id, None);
    }
    for future in waiting {
        rt.futures.fail(future, CallError::HandleGone { owner: rt.sched.pe() });
    }
}
