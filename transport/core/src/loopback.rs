//! Puts and gets of a PE to itself. Every network handles them the same way: it copies the bytes and queues the events of a completed operation.

use crate::event_queue::EventQueue;
use crate::{Event, Imm, OpId, Pe, PostError, Posted, RegBuf};

/// Copies `src` into the memory that one of this PE's keys names. `memory` is `None` if the key is not valid.
pub fn put(
    memory: Option<&mut [u8]>,
    src: RegBuf,
    me: Pe,
    imm: Option<Imm>,
    op: OpId,
    ready: &mut EventQueue,
) -> Result<Posted, PostError<RegBuf>> {
    let Some(memory) = memory else { return Err(PostError::BadKey(src)) };
    memory.copy_from_slice(&src);
    ready.extend(imm.map(|imm| Event::PutArrived { from: me, imm }));
    ready.push(Event::Sent { op, buf: Some(src) });
    Ok(Posted::Pending)
}

/// Copies that memory into `dst`.
pub fn get(
    memory: Option<&mut [u8]>,
    mut dst: RegBuf,
    op: OpId,
    ready: &mut EventQueue,
) -> Result<Posted, PostError<RegBuf>> {
    let Some(memory) = memory else { return Err(PostError::BadKey(dst)) };
    dst.copy_from_slice(memory);
    ready.push(Event::Got { op, buf: dst });
    Ok(Posted::Pending)
}
