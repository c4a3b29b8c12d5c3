//! Results of a call of all elements that are merged on their way to the caller: a broadcast's wave goes up its tree with one partial result in place
//! of a list. This is independent of the elements' own contributions: neither waits for the other, nor do they share an order.

use std::any::Any;

use super::part::Typed;
use crate::message::CallError;
use crate::message::envelope::FutureId;
use crate::message::wire::{Packed, WireError};
use crate::runtime::Reducer;
use crate::runtime::chare::Arguments;
use crate::runtime::{Rt, post};

/// The results of a PE's elements, and of the PEs below it.
pub(crate) trait Merging {
    /// Adds a result of an element, from an `Option`, which becomes empty.
    fn add(&mut self, result: &mut dyn Any);
    /// Adds the packed results of another PE.
    fn merge(&mut self, other: Packed) -> Result<(), WireError>;
    /// Packs and removes the merged results, if there are any.
    fn pack(&mut self) -> Result<Option<Packed>, WireError>;
    /// Gives the caller the result, or `why` if there is none.
    fn answer(&mut self, rt: Rt, to: FutureId, why: CallError);
}

pub(crate) struct Merged<V, R: Reducer<V>> {
    reducer: R,
    merged: Typed<V, R>,
    count: u64,
}

impl<V: Arguments, R: Reducer<V> + Copy> Merged<V, R> {
    pub(crate) fn new(reducer: R) -> Self {
        Self { reducer, merged: Typed::new(reducer), count: 0 }
    }

    /// The result of these values; `None` if there are none, and the reducer has no result for no values.
    pub(crate) fn of(reducer: R, values: Vec<V>) -> Option<R::Output> {
        let mut merged = Self::new(reducer);
        values.into_iter().for_each(|value| merged.add_value(value));
        merged.result()
    }

    fn add_value(&mut self, value: V) {
        self.merged.add(self.reducer.start(value));
        self.count += 1;
    }

    fn result(&mut self) -> Option<R::Output> {
        if self.count == 0 { self.reducer.empty() } else { Some(self.merged.result(self.count)) }
    }
}

impl<V: Arguments, R: Reducer<V> + Copy> Merging for Merged<V, R> {
    fn add(&mut self, result: &mut dyn Any) {
        let result = result.downcast_mut::<Option<V>>().and_then(Option::take);
        self.add_value(result.expect("a reducer's number names the type of the results"));
    }

    fn merge(&mut self, other: Packed) -> Result<(), WireError> {
        let (count, part) = other.read::<(u64, R::Partial)>()?;
        self.merged.add(part);
        self.count = self.count.saturating_add(count);
        Ok(())
    }

    fn pack(&mut self) -> Result<Option<Packed>, WireError> {
        self.merged.take().map(|part| Packed::of(&(self.count, part))).transpose()
    }

    fn answer(&mut self, rt: Rt, to: FutureId, why: CallError) {
        match self.result() {
            Some(result) => post::reply(rt, to, result),
            None => post::send_failure(rt, to, why),
        }
    }
}
