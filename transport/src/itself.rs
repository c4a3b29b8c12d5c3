//! Puts and gets of a PE to itself, which all networks do alike: a copy, and the events of one that went out.

use crate::ready::Ready;
use crate::{Event, Imm, OpId, Pe, PostError, Posted, RegBuf};

/// Writes `src` into what a key of this PE's names, if it is there.
pub(crate) fn put(
    memory: Option<&mut [u8]>,
    src: RegBuf,
    me: Pe,
    imm: Option<Imm>,
    op: OpId,
    ready: &mut Ready,
) -> Result<Posted, PostError<RegBuf>> {
    let Some(memory) = memory else { return Err(PostError::BadKey(src)) };
    memory.copy_from_slice(&src);
    ready.extend(imm.map(|imm| Event::PutArrived { from: me, imm }));
    ready.push(Event::Sent { op, buf: Some(src) });
    Ok(Posted::Pending)
}

/// Reads it into `dst`.
pub(crate) fn get(
    memory: Option<&mut [u8]>,
    mut dst: RegBuf,
    op: OpId,
    ready: &mut Ready,
) -> Result<Posted, PostError<RegBuf>> {
    let Some(memory) = memory else { return Err(PostError::BadKey(dst)) };
    dst.copy_from_slice(memory);
    ready.push(Event::Got { op, buf: dst });
    Ok(Posted::Pending)
}
