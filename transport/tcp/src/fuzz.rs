//! The entry points of the fuzzer: bytes of a stranger, or of a faulty peer that has proven itself.
//!
//! No bytes may make them panic. A unit test runs the same functions over the committed corpus.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use super::TcpConfig;
use super::endpoint::core;
use super::frame::{Format, FrameKind, Head};
use super::link::Link;
use super::operations::Pending;
use super::shared::Shared;
use charm4rs_transport_core::auth::{Acceptor, Dialer, Hello, JobId, Keys, Purpose, Secret, Step, Terms};
use charm4rs_transport_core::memory::RegBuf;
use charm4rs_transport_core::{Layout, OpId, Pe};

/// Bytes before authentication, to both ends of a handshake. None of them may prove anything.
pub fn handshake(input: &[u8]) {
    let keys = Keys::new(JobId(*b"fuzz job"), &Secret::new([7; 32]));
    let terms = Terms { version: 1, digest: [0; 32] };
    let mut acceptor = Acceptor::new(&keys, terms, 0, [1; 32]);
    let hello = Hello { purpose: Purpose::Data, terms, rank: 1, from: Pe(1), to: Pe(0), generation: 1 };
    let mut dialer = Dialer::new(&keys, hello, 0, [2; 32]);
    // In pieces, as a network may deliver them; the first byte gives their length.
    let Some((piece, rest)) = input.split_first() else { return };
    for bytes in rest.chunks(usize::from(*piece).max(1)) {
        let step = acceptor.accept_bytes(bytes);
        assert!(!matches!(step, Ok(Step::Proven(_))), "proven without the secret");
        let step = dialer.accept_bytes(bytes);
        assert!(!matches!(step, Ok(Step::Reply(_) | Step::Proven(_))), "answered without the secret");
    }
}

/// Bytes after authentication: a link with a window, a pending put and a pending get reads them from a socket.
pub fn stream(input: &[u8]) {
    let Some(((settings, piece), bytes)) =
        input.split_first_chunk::<2>().map(|(first, rest)| ((first[0], first[1]), rest))
    else {
        return;
    };
    let mut config =
        TcpConfig::new(Arc::new(Layout::one_host(2, 1)), 0, JobId::default(), Secret::new([0; 32]), [0; 32]);
    config.message_max = 1 << 17;
    config.checksum = settings & 1 != 0;
    let format = Format { checksum: config.checksum, message_max: config.message_max };
    let shared = Arc::new(Shared::new(config).expect("a descriptor"));
    // Generations start at 0, so that a fuzzer can guess a key.
    let mut core = core(Pe(0), shared, 0).expect("a descriptor");
    let mut link = Link::new(Pe(1), 0, format);
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).expect("descriptors");
    link.adopt(&mut core, ours, 1, false).expect("a socket that epoll takes");

    let window = RegBuf::heap(5_000);
    let _ = core.windows.add(&window, false);
    for (op, is_get) in [(1, false), (2, true)] {
        let buf = is_get.then(|| RegBuf::heap(3_000));
        core.operations.add(Pending { op: OpId(op), peer: Pe(1), buf, received: 0, is_get });
    }
    link.outbox.push_head(Head::new(FrameKind::Get, 0));
    link.outbox.push(Head::new(FrameKind::Data, 3), 3, |to| to.iter_mut().for_each(|b| _ = b.write(0)));

    let mut answers = [0; 4096];
    for bytes in bytes.chunks(usize::from(piece) * 64 + 1) {
        if send(theirs.as_fd(), bytes, SendFlags::NOSIGNAL).is_err() || link.read(&mut core).is_err() {
            break;
        }
        if link.flush(&mut core).is_err() || link.socket.is_none() {
            break;
        }
        while recv(theirs.as_fd(), &mut answers, RecvFlags::DONTWAIT).is_ok_and(|(_, n)| n > 0) {}
        core.ready.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::HEAD_MAX;
    use super::*;
    use charm4rs_transport_testkit::fuzz::replay;

    #[test]
    fn the_corpus_of_handshakes_causes_no_panic() {
        replay("handshake", handshake);
    }

    #[test]
    fn the_corpus_of_streams_causes_no_panic() {
        replay("stream", stream);
    }

    /// Frames with well-formed heads and arbitrary fields.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let word = prop_oneof![0u64..4, Just(1 << 32), Just(2), 0u64..6_000, any::<u64>()];
        let kind = proptest::sample::select(vec![
            FrameKind::Ack,
            FrameKind::Resume,
            FrameKind::Gone,
            FrameKind::Data,
            FrameKind::Data,
            FrameKind::Bye,
            FrameKind::Put,
            FrameKind::Put,
            FrameKind::PutDone,
            FrameKind::Get,
            FrameKind::GetReply,
            FrameKind::Refused,
        ]);
        let len = prop_oneof![0u64..100, 0u64..20_000, any::<u64>()];
        let frame = (kind, any::<u8>(), 0u32..4, len, [word.clone(), word.clone(), word.clone(), word], any::<bool>());
        (any::<u8>(), proptest::collection::vec(frame, 0..12)).prop_map(|(piece, frames)| {
            let format = Format { checksum: false, message_max: 1 << 40 };
            let mut bytes = vec![0, piece];
            let mut head_bytes = [0; HEAD_MAX];
            let resume = Head::new(FrameKind::Resume, 0);
            let n = format.encode(&resume, 0, &mut head_bytes);
            bytes.extend_from_slice(&head_bytes[..n]);
            for (kind, flags, ack, len, words, whole) in frames {
                let has_body = matches!(kind, FrameKind::Data | FrameKind::Put | FrameKind::GetReply);
                let len = if has_body { len & 0xffff_ffff } else { 0 };
                let head = Head { flags, ack: ack / 3, words, ..Head::new(kind, len) };
                let n = format.encode(&head, 0, &mut head_bytes);
                bytes.extend_from_slice(&head_bytes[..n]);
                let body = if whole { len.min(20_000) } else { len.min(7) };
                bytes.resize(bytes.len() + usize::try_from(body).unwrap(), 0xbb);
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn well_formed_frames_with_any_contents_cause_no_panic(bytes in frames()) {
            stream(&bytes);
        }

        #[test]
        fn any_bytes_after_authentication_cause_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            stream(&bytes);
        }
    }
}
