//! What a fuzzer calls: datagrams as they might come from a peer that goes mad. Nothing here may panic, whatever the bytes.

use super::{Connection, Header, Input as Became, Settings};
use crate::fuzz::Input;

const NAMES: [u32; 2] = [1, 2];

/// Datagrams, each behind its length and whether its sum is to be made right, to an end that has something to say itself.
///
/// # Panics
/// If the connection does.
pub fn datagrams(input: &[u8]) {
    let settings =
        Settings { datagram_max: 200, message_max: 1_000, timeout_ns_min: 20_000, timeout_ns_max: 5_000_000 };
    let [theirs, ours] = NAMES;
    let mut end = Connection::new(settings, ours, theirs);
    let (mut input, mut now_ns, mut delivered) = (Input(input), 0, Vec::new());
    for len in [0, 10, 700] {
        end.send(now_ns, vec![7; len]);
    }
    while let Some(how) = input.u8() {
        let Some(bytes) = input.run() else { break };
        let sealed = sealed(bytes).filter(|_| how & 1 == 0);
        let became = end.input(now_ns, sealed.as_deref().unwrap_or(bytes), &mut delivered);
        assert!(delivered.drain(..).all(|message| message.len() <= 1_000), "a message has a limit");
        if let Became::Violation(_) = became {
            break;
        }
        now_ns += u64::from(how) << 12;
        // As many as there are, and no more: what is said for nothing would be said for ever.
        let said = (0..1_000).take_while(|_| end.output(now_ns).is_some()).count();
        assert!(said < 1_000, "it comes to an end");
        if how & 2 != 0 {
            now_ns = end.wake_ns().map_or(now_ns, |at| at.max(now_ns));
        }
    }
}

/// A datagram with a right sum, of: flags, three numbers of 8 bytes, the fragment.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Input(bytes);
    let (flags, ack, sack, number) = (fields.u8()?, fields.u64()?, fields.u64()?, fields.u64()?);
    Some(Header { flags, ack, sack, number }.write(fields.0, NAMES))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_of_the_datagrams_is_survived() {
        crate::fuzz::replay("datagrams", super::datagrams);
    }
}
