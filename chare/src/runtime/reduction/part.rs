//! Parts of reductions, independent of their types: what has been merged so far on a PE whose elements contribute. Knows nothing of how parts are
//! sent.

use std::any::{Any, TypeId};

use super::Reductions;
use super::results::deliver;
use super::unlike::contribution;
use crate::message::envelope::FutureId;
use crate::message::wire::{self, Packed, WireError};
use crate::runtime::Reducer;
use crate::runtime::Route;
use crate::runtime::Rt;
use crate::runtime::shared::{Beside, Opened};

/// The parts merged so far.
pub(super) trait Part {
    fn as_any(&mut self) -> &mut dyn Any;
    /// The reducer's and the value's types.
    fn kind(&self) -> TypeId;
    /// The same, for a message.
    fn name(&self) -> String;
    fn merge(&mut self, other: Packed) -> Result<(), WireError>;
    /// Merges this and others in their order: it comes after the first `own` of them. `None`: they replace it.
    fn fold(&mut self, others: &mut dyn Iterator<Item = Given>, own: Option<usize>) -> Result<(), WireError>;
    /// Takes the part out; the reducer stays.
    fn pack(&mut self) -> Result<Packed, WireError>;
    /// Appends the part to bytes; returns its payloads.
    fn append(&self, bytes: &mut Vec<u8>) -> Result<Beside, WireError>;
    fn finish(&mut self, rt: Rt, reductions: &Reductions, number: u64, count: u64, route: &Route);
    /// Gives the result to futures of this PE.
    fn give(&mut self, rt: Rt, count: u64, to: &[FutureId]) -> Result<(), WireError>;
}

/// A value from another PE.
#[derive(Debug)]
pub(super) enum Given {
    /// All bytes of a message are the value.
    Whole(Opened),
    Terms(Terms),
}

/// A value that was computed where its type is not known: a program for a stack, onto which each term is pushed; after each, the given number of
/// merges of two values follows. So every PE that knows the type merges in the same order. Without terms there is no value.
#[derive(Default, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Terms(Vec<(Packed, u32)>);

impl Terms {
    /// These values, merged in this order.
    pub(super) fn chain(values: impl IntoIterator<Item = Given>) -> Self {
        let mut all = Self::default();
        for value in values {
            let mut value = match value {
                Given::Whole(mut msg) => {
                    Self(vec![(Packed::taken(msg.bytes().to_vec(), std::mem::take(&mut msg.beside)), 0)])
                }
                Given::Terms(terms) => terms,
            };
            if let (false, Some((_, merges))) = (all.is_empty(), value.0.last_mut()) {
                *merges = merges.saturating_add(1);
            }
            all.0.append(&mut value.0);
        }
        all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A part of a type that is known.
pub(super) struct Typed<V, R: Reducer<V>> {
    reducer: R,
    part: Option<R::Partial>,
}

const TAKEN: &str = "a part is taken only at its end";

impl<V: 'static, R: Reducer<V>> Part for Typed<V, R> {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }

    fn kind(&self) -> TypeId {
        TypeId::of::<Self>()
    }

    fn name(&self) -> String {
        contribution::<V, R>()
    }

    fn merge(&mut self, other: Packed) -> Result<(), WireError> {
        self.add(other.read()?);
        Ok(())
    }

    fn fold(&mut self, others: &mut dyn Iterator<Item = Given>, own: Option<usize>) -> Result<(), WireError> {
        let mut mine = self.part.take().filter(|_| own.is_some());
        for (place, other) in others.enumerate() {
            if own == Some(place) {
                mine.take().into_iter().for_each(|mine| self.add(mine));
            }
            let other = match other {
                Given::Whole(mut msg) => Some(msg.read()?),
                Given::Terms(terms) => self.value(terms)?,
            };
            other.into_iter().for_each(|other| self.add(other));
        }
        mine.into_iter().for_each(|mine| self.add(mine));
        Ok(())
    }

    fn pack(&mut self) -> Result<Packed, WireError> {
        Packed::of(&self.part.take().expect(TAKEN))
    }

    fn append(&self, bytes: &mut Vec<u8>) -> Result<Beside, WireError> {
        wire::pack(self.part.as_ref().expect(TAKEN), bytes)
    }

    fn finish(&mut self, rt: Rt, reductions: &Reductions, number: u64, count: u64, route: &Route) {
        let value = self.result(count);
        deliver(rt, reductions, number, route, value);
    }

    fn give(&mut self, rt: Rt, count: u64, to: &[FutureId]) -> Result<(), WireError> {
        let value = self.result(count);
        let Some((last, others)) = to.split_last() else { return Ok(()) };
        if !others.is_empty() {
            let packed = Packed::of(&value)?;
            for other in others {
                let (bytes, beside) = packed.parts();
                rt.futures.fulfil_wire(*other, bytes, beside);
            }
        }
        rt.futures.fulfil(*last, value);
        Ok(())
    }
}

impl<V, R: Reducer<V>> Typed<V, R> {
    pub(super) fn new(reducer: R) -> Self {
        Self { reducer, part: None }
    }

    pub(super) fn add(&mut self, other: R::Partial) {
        let part = match self.part.take() {
            Some(part) => self.reducer.merge(part, other),
            None => other,
        };
        self.part = Some(part);
    }

    pub(super) fn take(&mut self) -> Option<R::Partial> {
        self.part.take()
    }

    pub(super) fn result(&mut self, count: u64) -> R::Output {
        let part = self.part.take().expect(TAKEN);
        self.reducer.finish(part, count)
    }

    /// Runs the program.
    fn value(&self, terms: Terms) -> Result<Option<R::Partial>, WireError> {
        let mut stack: Vec<R::Partial> = Vec::new();
        for (term, merges) in terms.0 {
            let mut value = term.read()?;
            for _ in 0..merges {
                let below = stack.pop().ok_or_else(WireError::disorder)?;
                value = self.reducer.merge(below, value);
            }
            stack.push(value);
        }
        let value = stack.pop();
        if stack.is_empty() { Ok(value) } else { Err(WireError::disorder()) }
    }
}
