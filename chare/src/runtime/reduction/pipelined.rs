//! Pipelined (segmented) reductions: large contributions in pieces.
//!
//! A reducer that works element by element need not wait for a whole vector. So a large contribution is cut into pieces. Each piece (number of the
//! reduction, offset) is counted and merged as if it were a reduction of its own, and goes up when *it* is complete: while one piece is merged at the
//! root, the next is merged one level below, and the one after that is on its way there. All contributors cut at the same offsets, since their
//! vectors are equally long and their items equally large; if they are not, the labels of the pieces show it, and the job ends.
//!
//! *Memory.* The first contribution on a PE provides its memory, cut without a copy, and everything is merged into it: later contributions of the PE
//! at once, pieces of its children as they arrive (those that arrive before it wait). A piece that goes up takes its memory along; inside a process
//! nothing is copied. At the root the memory of the pieces is joined again, without a copy, and becomes the result.
//!
//! *Down.* A result for every contributor leaves the root piece by piece for other processes, each piece as soon as it is complete. A PE forwards
//! pieces to other processes at once and joins them for its own elements; the PEs of its process then share that one memory. A child that contributed
//! nothing gets nothing. The reducer's `finish` runs where elements wait, once for each.
//!
//! *A root without elements* cannot merge. It sends each piece's parts to the merger, as for small reductions; the PEs that can merge are the same
//! for all pieces, and the root takes the first of them, so all pieces go to one PE.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use charm4rs_transport::port::Tag;
use charm4rs_transport::{Pe, RegBuf};
use serde::{Deserialize, Serialize};

use super::results::deliver;
use super::unlike::unlike;
use super::{Merger, Reductions, end_in_order, end_ready};
use crate::message::envelope::{FutureId, tag};
use crate::message::wire::{self, WireError};
use crate::runtime::Route;
use crate::runtime::Rt;
use crate::runtime::chare::Arguments;
use crate::runtime::shared::{self, Opened};
use crate::runtime::{ByElement, Reducer};

/// The size of a piece: much longer to merge than to send, and several of them fit into a core's cache.
const PIECE: usize = 64 << 10;

/// Partial results of fewer bytes are packed whole, into the message.
const LARGE_MIN: usize = 1 << 10;

/// A PE's part of a collection's large reductions.
#[derive(Default)]
pub(super) struct Pipelined {
    open: RefCell<BTreeMap<u64, Open>>,
    /// One of each type that was used here, for the parts of a root that has none.
    merges: RefCell<Vec<Rc<dyn Merge>>>,
    /// Reductions that end here because the root cannot merge.
    ending: RefCell<BTreeMap<u64, Parts>>,
    /// Results for every contributor that must come down.
    coming: RefCell<BTreeMap<u64, Coming>>,
}

/// A large reduction that is not complete here.
struct Open {
    shape: Shape,
    route: Option<Route>,
    merger: Option<Merger>,
    merge: Option<Rc<dyn Merge>>,
    /// By offset; without those that have gone up.
    pieces: BTreeMap<u64, Piece>,
    /// Bytes of pieces that have gone up, or are complete at the root.
    gone: u64,
    /// At the root: the complete pieces.
    complete: Parts,
}

/// What all contributions have in common.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Shape {
    /// The types of the reducer and the value.
    kind: u64,
    len: u64,
}

#[derive(Default)]
struct Piece {
    count: u64,
    own: Option<RegBuf>,
    /// Pieces of children, until this PE contributes its own.
    below: Vec<Arc<RegBuf>>,
}

/// The label of a piece on its way up; its parts travel beside it.
#[derive(Serialize, Deserialize)]
struct Label {
    number: u64,
    shape: Shape,
    at: u64,
    count: u64,
    route: Option<Route>,
    merger: Option<Merger>,
    /// From a root that cannot merge: its receiver ends the reduction.
    last: bool,
}

/// A piece of a result on its way down.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Down {
    number: u64,
    at: u64,
    len: u64,
    count: u64,
}

/// A result for every contributor that has not arrived completely.
#[derive(Default)]
struct Coming {
    /// The children that gave pieces, and therefore want the result. Complete for each piece that has gone up.
    children: Vec<Pe>,
    /// For elements here.
    memory: Option<RegBuf>,
    /// Bytes that have arrived.
    here: u64,
}

/// Complete pieces, by offset.
#[derive(Default)]
struct Parts(BTreeMap<u64, RegBuf>);

impl Parts {
    fn bytes(&self) -> u64 {
        self.0.values().map(|part| part.len() as u64).sum()
    }

    /// All parts as one, if there is no gap: without a copy if they are the parts of one buffer.
    fn join(self) -> Option<RegBuf> {
        let mut end = 0;
        for (&at, part) in &self.0 {
            if at != end {
                return None;
            }
            end += part.len() as u64;
        }
        let parts: Vec<RegBuf> = self.0.into_values().collect();
        Some(match parts.len() {
            1 => parts.into_iter().next()?,
            _ => RegBuf::join(parts).unwrap_or_else(|parts| {
                let mut whole = RegBuf::heap(parts.iter().map(|part| part.len()).sum());
                let mut rest = &mut whole[..];
                for part in &parts {
                    rest.split_off_mut(..part.len()).expect("it is as long as the parts").copy_from_slice(part);
                }
                whole
            }),
        })
    }
}

/// A reducer, independent of its type.
pub(super) trait Merge {
    fn kind(&self) -> TypeId;
    fn merge(&self, into: &mut [u8], from: &[u8]);
    fn room(&self, len: usize) -> RegBuf;
    /// Sends the result to the receiver that the contributors named.
    fn finish(&self, rt: Rt, reductions: &Reductions, whole: RegBuf, down: &Down, route: &Route);
    /// Gives the result to the futures that wait here.
    fn give(&self, rt: Rt, whole: Arc<RegBuf>, count: u64, to: Vec<FutureId>);
}

struct Typed<V, R: Reducer<V>> {
    reducer: R,
    by: ByElement<R, R::Partial>,
    value: PhantomData<fn(V)>,
}

impl<V: 'static, R: Reducer<V>> Typed<V, R> {
    fn value(&self, whole: Arc<RegBuf>, count: u64) -> R::Output {
        self.reducer.finish((self.by.from_memory)(whole), count)
    }
}

impl<V: 'static, R: Reducer<V>> Merge for Typed<V, R> {
    fn kind(&self) -> TypeId {
        TypeId::of::<Self>()
    }

    fn merge(&self, into: &mut [u8], from: &[u8]) {
        (self.by.merge)(&self.reducer, into, from);
    }

    fn room(&self, len: usize) -> RegBuf {
        (self.by.room)(len)
    }

    fn finish(&self, rt: Rt, reductions: &Reductions, whole: RegBuf, down: &Down, route: &Route) {
        deliver(rt, reductions, down.number, route, self.value(Arc::new(whole), down.count));
    }

    fn give(&self, rt: Rt, whole: Arc<RegBuf>, count: u64, to: Vec<FutureId>) {
        let mut to = to.into_iter();
        let last = to.next_back();
        for to in to {
            rt.futures.fulfil(to, self.value(whole.clone(), count));
        }
        if let Some(to) = last {
            rt.futures.fulfil(to, self.value(whole, count));
        }
    }
}

/// Identifies a type in every process of the job (FNV-1a of its path).
fn kind_of<V, R>() -> u64 {
    let path = std::any::type_name::<(V, R)>();
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A large contribution.
pub(super) struct Large<V, R: Reducer<V>> {
    memory: RegBuf,
    by: ByElement<R, R::Partial>,
}

impl<V, R: Reducer<V>> Large<V, R> {
    /// A partial result that is sent in pieces; returns others unchanged.
    pub(super) fn of(part: R::Partial) -> Result<Self, R::Partial> {
        match R::by_element() {
            Some(by) if (by.bytes)(&part) >= LARGE_MIN => Ok(Self { memory: (by.into_memory)(part), by }),
            _ => Err(part),
        }
    }
}

impl Pipelined {
    /// Whether a pipelined reduction of this number is in progress here.
    pub(super) fn has(&self, number: u64) -> bool {
        self.open.borrow().contains_key(&number)
    }

    /// The first one in progress.
    pub(super) fn first(&self) -> Option<u64> {
        self.open.borrow().keys().next().copied()
    }

    pub(super) fn clear(&self) {
        drop((self.open.take(), self.merges.take(), self.ending.take(), self.coming.take()));
    }

    /// The children that want a result.
    fn children(&self, number: u64) -> Vec<Pe> {
        self.coming.borrow().get(&number).map_or_else(Vec::new, |coming| coming.children.clone())
    }

    /// A piece of a result, or all of it, has arrived. Returns with the last piece the whole result: for elements here, if there are any.
    fn put(&self, down: &Down, piece: Arc<RegBuf>, merge: Option<&dyn Merge>) -> Option<Option<Arc<RegBuf>>> {
        let mut all = self.coming.borrow_mut();
        let coming = all.entry(down.number).or_default();
        coming.here += piece.len() as u64;
        let is_whole = piece.len() as u64 == down.len;
        if let (Some(merge), false) = (merge, is_whole) {
            // As long as a contribution that was made here, because only then futures wait.
            let len = usize::try_from(down.len).expect("a vector's length");
            let memory = coming.memory.get_or_insert_with(|| merge.room(len));
            let at = usize::try_from(down.at).expect("below the length");
            memory[at..at + piece.len()].copy_from_slice(&piece);
        }
        if coming.here < down.len {
            return None;
        }
        let whole = all.remove(&down.number).and_then(|coming| coming.memory).map(Arc::new);
        Some(merge.map(|_| whole.unwrap_or(piece)))
    }

    /// Keeps a reducer for parts that a root cannot merge; returns its number.
    fn keep(&self, merge: &Rc<dyn Merge>) -> u32 {
        let mut merges = self.merges.borrow_mut();
        let at = merges.iter().position(|other| other.kind() == merge.kind()).unwrap_or(merges.len());
        match merges.get_mut(at) {
            Some(kept) => *kept = merge.clone(),
            None => merges.push(merge.clone()),
        }
        u32::try_from(at).expect("a program has fewer reducers")
    }

    /// Accesses a reduction; `None` if its contributions have another shape.
    fn open<T>(&self, number: u64, shape: Shape, look: impl FnOnce(&mut Open) -> T) -> Option<T> {
        let mut all = self.open.borrow_mut();
        let open = all.entry(number).or_insert_with(|| Open {
            shape,
            route: None,
            merger: None,
            merge: None,
            pieces: BTreeMap::new(),
            gone: 0,
            complete: Parts::default(),
        });
        (open.shape == shape).then(|| look(open))
    }
}

fn first_of(a: Option<Merger>, b: Option<Merger>) -> Option<Merger> {
    a.into_iter().chain(b).min()
}

/// An element of this PE gives its part.
pub(super) fn give<V: Arguments, R: Reducer<V>>(
    rt: Rt,
    reductions: &Reductions,
    number: u64,
    large: Large<V, R>,
    reducer: R,
    route: Route,
) -> Result<(), &'static str> {
    let Large { memory, by } = large;
    let shape = Shape { kind: kind_of::<V, R>(), len: memory.len() as u64 };
    let piece_len = (PIECE / by.item_bytes).max(1) * by.item_bytes;
    let pieces = &reductions.pieces;
    let merge = pieces.open(number, shape, |open| {
        open.route.get_or_insert(route);
        let merge = open.merge.get_or_insert_with(|| Rc::new(Typed { reducer, by, value: PhantomData })).clone();
        let own = Merger { pe: rt.sched.pe(), reducer: pieces.keep(&merge) };
        open.merger = first_of(open.merger, Some(own));
        merge
    });
    let merge = merge.ok_or("a value of another length or type")?;
    if let Some(waiting) = reductions.everyone.borrow_mut().get_mut(number) {
        waiting.large.get_or_insert_with(|| (merge.clone(), shape.len));
    }
    let mut at = 0;
    for part in memory.split(piece_len) {
        let len = part.len() as u64;
        add(rt, reductions, number, at, 1, Added::Own(part));
        at += len;
    }
    Ok(())
}

enum Added {
    Own(RegBuf),
    Below(Vec<Arc<RegBuf>>),
}

/// Adds to a piece; sends it on if it is complete.
fn add(rt: Rt, reductions: &Reductions, number: u64, at: u64, count: u64, added: Added) {
    let taken = {
        let mut all = reductions.pieces.open.borrow_mut();
        let Some(open) = all.get_mut(&number) else { return };
        let merge = open.merge.clone();
        let piece = open.pieces.entry(at).or_default();
        (piece.own.take(), std::mem::take(&mut piece.below), merge)
    };
    // Merging is user code: nothing is borrowed, and the piece is not counted as here.
    let (mut own, mut below, merge) = taken;
    let mut waits = match added {
        Added::Own(part) if own.is_none() => {
            own = Some(part);
            Vec::new()
        }
        Added::Own(part) => vec![Arc::new(part)],
        Added::Below(parts) => parts,
    };
    below.append(&mut waits);
    if let (Some(own), Some(merge)) = (&mut own, merge) {
        for part in below.drain(..) {
            if part.len() != own.len() {
                return rt.fail(unlike(reductions, number, "vectors are of different lengths"));
            }
            merge.merge(own, &part);
        }
    }
    {
        let mut all = reductions.pieces.open.borrow_mut();
        let Some(open) = all.get_mut(&number) else { return };
        let piece = open.pieces.entry(at).or_default();
        piece.count += count;
        piece.own = own;
        piece.below = below;
    }
    advance(rt, reductions, number, at);
}

/// A piece of a child has arrived.
pub(super) fn arrived(rt: Rt, reductions: &Reductions, msg: &mut Opened) -> Result<(), WireError> {
    let parts = std::mem::take(&mut msg.beside);
    let label: Label = wire::unpack(msg.bytes(), Vec::new())?;
    let len = parts.first().map_or(0, |part| part.len());
    let fits = label.at.checked_add(len as u64).is_some_and(|end| end <= label.shape.len);
    if len == 0 || !fits || parts.iter().any(|part| part.len() != len) {
        rt.violation(msg.from, "a piece of a reduction that does not fit", label.at);
        return Ok(());
    }
    if label.last {
        end_for_root(rt, reductions, &label, parts);
        return Ok(());
    }
    let Label { number, shape, at, count, route, merger, .. } = label;
    if matches!(route, Some(Route::Everyone)) {
        let mut coming = reductions.pieces.coming.borrow_mut();
        let children = &mut coming.entry(number).or_default().children;
        if !children.contains(&msg.from) {
            children.push(msg.from);
        }
    }
    let alike = !reductions.has_whole(number)
        && reductions
            .pieces
            .open(number, shape, |open| {
                open.route = open.route.take().or(route);
                open.merger = first_of(open.merger, merger);
            })
            .is_some();
    if alike {
        add(rt, reductions, number, at, count, Added::Below(parts));
    } else {
        rt.fail(unlike(reductions, number, "values are of different lengths or types"));
    }
    Ok(())
}

/// Advances all pieces that may be complete now.
pub(super) fn advance_from(rt: Rt, reductions: &Reductions, from: u64) {
    let pieces: Vec<(u64, u64)> = {
        let all = reductions.pieces.open.borrow();
        all.range(from..).flat_map(|(&number, open)| open.pieces.keys().map(move |&at| (number, at))).collect()
    };
    pieces.into_iter().for_each(|(number, at)| advance(rt, reductions, number, at));
}

/// Sends a piece up, or keeps it at the root, if the subtree has contributed to it.
fn advance(rt: Rt, reductions: &Reductions, number: u64, at: u64) {
    let parent = reductions.place(rt).parent;
    let (piece, label) = {
        let mut all = reductions.pieces.open.borrow_mut();
        let Some(open) = all.get_mut(&number) else { return };
        let Some(count) = open.pieces.get(&at).map(|piece| piece.count) else { return };
        if reductions.counting.expected(number).is_none_or(|expected| count < expected) {
            return;
        }
        let Some(piece) = open.pieces.remove(&at) else { return };
        let (shape, route, merger) = (open.shape, open.route.clone(), open.merger);
        let label = Label { number, shape, at, count, route, merger, last: parent.is_none() };
        open.gone += piece.own.as_ref().or(piece.below.first().map(|part| &**part)).map_or(0, |part| part.len() as u64);
        if open.gone >= shape.len && (parent.is_some() || piece.own.is_none()) {
            reductions.counting.has_left(number);
            all.remove(&number);
        }
        (piece, label)
    };
    match (parent, piece.own) {
        (None, Some(own)) => complete(rt, reductions, &label, own),
        (parent, own) => {
            let parts = own.map_or(piece.below, |own| vec![Arc::new(own)]);
            let to = parent.or(label.merger.map(|merger| merger.pe)).expect("a PE that gave a part can merge");
            send(rt, reductions, to, tag::PIECE, &label, parts);
            if parent.is_none() {
                end_ready(rt, reductions);
            }
        }
    }
}

fn send<L: Serialize>(rt: Rt, reductions: &Reductions, to: Pe, tag: Tag, label: &L, parts: Vec<Arc<RegBuf>>) {
    rt.with_scratch(|bytes| {
        wire::pack(label, bytes).expect("numbers can be packed");
        shared::send(rt, to, tag, &reductions.header(rt), bytes, parts);
    });
}

/// At the root: a piece is complete, and with the last one the reduction.
fn complete(rt: Rt, reductions: &Reductions, label: &Label, own: RegBuf) {
    let &Label { number, at, count, shape: Shape { len, .. }, .. } = label;
    if matches!(label.route, Some(Route::Everyone)) {
        let children = reductions.pieces.children(number);
        for child in children.into_iter().filter(|&child| !rt.same_process(child)) {
            send_away(rt, reductions, child, Down { number, at, len, count }, &own);
        }
    }
    let open = {
        let mut all = reductions.pieces.open.borrow_mut();
        let Some(open) = all.get_mut(&number) else { return };
        open.complete.0.insert(at, own);
        if open.gone < len {
            return;
        }
        reductions.counting.has_left(number);
        all.remove(&number)
    };
    let Some(Open { complete, merge: Some(merge), route: Some(route), .. }) = open else { return };
    let Some(whole) = complete.join() else {
        return rt.violation(rt.sched.pe(), "a reduction whose pieces leave gaps", number);
    };
    let down = Down { number, at: 0, len, count };
    end_in_order(rt, reductions, number, move |rt, reductions| match route {
        Route::Everyone => spread(rt, reductions, down, Arc::new(whole), true),
        route => merge.finish(rt, reductions, whole, &down, &route),
    });
}

/// Merges a piece that the root could not; the last one ends the reduction.
fn end_for_root(rt: Rt, reductions: &Reductions, label: &Label, parts: Vec<Arc<RegBuf>>) {
    let at = label.merger.map_or(usize::MAX, |merger| merger.reducer as usize);
    let merge = reductions.pieces.merges.borrow().get(at).cloned();
    let (Some(merge), Some(route)) = (merge, &label.route) else {
        return rt.violation(reductions.root(), "a reduction for a PE that took no part in it", label.number);
    };
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else { return };
    // On the heap, where it is aligned for every item.
    let mut own = RegBuf::copy_of(&first);
    parts.for_each(|part| merge.merge(&mut own, &part));
    let whole = {
        let mut ending = reductions.pieces.ending.borrow_mut();
        let parts = ending.entry(label.number).or_default();
        parts.0.insert(label.at, own);
        if parts.bytes() < label.shape.len {
            return;
        }
        ending.remove(&label.number).and_then(Parts::join)
    };
    let Some(whole) = whole else {
        return rt.violation(reductions.root(), "a reduction whose pieces leave gaps", label.number);
    };
    let down = Down { number: label.number, at: 0, len: label.shape.len, count: label.count };
    match route {
        Route::Everyone => hand_on(rt, reductions, reductions.root(), down, &Arc::new(whole)),
        route => merge.finish(rt, reductions, whole, &down, route),
    }
}

/// A piece of a result, or all of it, has arrived.
pub(super) fn result_arrived(rt: Rt, reductions: &Reductions, msg: &mut Opened) -> Result<(), WireError> {
    let mut parts = std::mem::take(&mut msg.beside);
    let down: Down = wire::unpack(msg.bytes(), Vec::new())?;
    match (parts.pop(), parts.is_empty()) {
        (Some(part), true) if down.at.checked_add(part.len() as u64).is_some_and(|end| end <= down.len) => {
            spread(rt, reductions, down, part, false);
        }
        _ => rt.violation(msg.from, "a piece of a result that does not fit", down.at),
    }
    Ok(())
}

/// Forwards a piece of a result, or all of it, down the tree, and gives it to the futures that wait here. `near`: other processes have it already.
fn spread(rt: Rt, reductions: &Reductions, mut down: Down, memory: Arc<RegBuf>, near: bool) {
    let large = reductions.everyone.borrow().get(down.number).and_then(|waiting| waiting.large.clone());
    if large.as_ref().is_some_and(|(_, len)| *len != down.len) {
        return rt.violation(reductions.root(), "a result of another length", down.len);
    }
    let is_whole = memory.len() as u64 == down.len;
    // A result that is joined here is forwarded inside the process when it is whole.
    let put_together = large.is_some() && !is_whole;
    let children = reductions.pieces.children(down.number);
    for &child in &children {
        if if rt.same_process(child) { !put_together } else { !near } {
            hand_on(rt, reductions, child, down, &memory);
        }
    }
    let merge = large.as_ref().map(|(merge, _)| &**merge);
    let (Some(Some(whole)), Some(merge)) = (reductions.pieces.put(&down, memory, merge), merge) else { return };
    if put_together {
        down.at = 0;
        for child in children.into_iter().filter(|&child| rt.same_process(child)) {
            hand_on(rt, reductions, child, down, &whole);
        }
    }
    let waiting = reductions.everyone.borrow_mut().remove(down.number).unwrap_or_default();
    merge.give(rt, whole, down.count, waiting.futures.into_vec());
}

/// Sends a piece of a result, or all of it, to a PE: shared, or in pieces.
fn hand_on(rt: Rt, reductions: &Reductions, to: Pe, down: Down, memory: &Arc<RegBuf>) {
    if rt.same_process(to) {
        send(rt, reductions, to, tag::RESULT_PIECE, &down, vec![memory.clone()]);
    } else {
        send_away(rt, reductions, to, down, memory);
    }
}

/// Sends a copy to another process, in pieces.
fn send_away(rt: Rt, reductions: &Reductions, to: Pe, mut down: Down, memory: &[u8]) {
    for piece in memory.chunks(PIECE) {
        send(rt, reductions, to, tag::RESULT_PIECE, &down, vec![Arc::new(rt.copy(piece))]);
        down.at += piece.len() as u64;
    }
}
