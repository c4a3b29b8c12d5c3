//! The entry point of the fuzzer: datagrams of a faulty peer. No bytes may make it panic.

use super::{Connection, Header, Input as Became, Settings};
use crate::fuzz::Input;

const NAMES: [u32; 2] = [1, 2];

/// Datagrams, each preceded by its length and by whether to correct its checksum, to an end that has messages to send.
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
        // As many datagrams as there are, and no more: datagrams without reason would never end.
        let said = (0..1_000).take_while(|_| end.output(now_ns).is_some()).count();
        assert!(said < 1_000, "the output ends");
        if how & 2 != 0 {
            now_ns = end.wake_ns().map_or(now_ns, |at| at.max(now_ns));
        }
    }
}

/// A datagram with a correct checksum, made of: flags, three numbers of 8 bytes, the fragment.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Input(bytes);
    let (flags, ack, sack, number) = (fields.u8()?, fields.u64()?, fields.u64()?, fields.u64()?);
    Some(Header { flags, ack, sack, number }.write(fields.0, NAMES))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpus_of_datagrams_causes_no_panic() {
        crate::fuzz::replay("datagrams", super::datagrams);
    }
}
