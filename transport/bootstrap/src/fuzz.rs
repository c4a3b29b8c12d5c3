//! The entry points of the fuzzer: messages between launchers and processes, key spaces, and command lines. No bytes may make
//! them panic.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::options::{Options, parse_launcher, parse_program};
use super::wire::{ToLauncher, ToProcess};
use super::{host_peers, pmi1, site};

/// Length of the prefix of every packet of a launcher's channel.
const BEGINNING: usize = 4;

/// Lines of a PMI-1 launcher as they arrive; the first byte gives the length of the pieces.
pub fn pmi(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    pmi1::fuzz(bytes.chunks(usize::from(*piece).max(1)));
}

/// A packet between a launcher and a process, between processes of a host, or that processes publish. The first byte says which, and
/// whether the common prefix of packets is put before the bytes.
pub fn packets(input: &[u8]) {
    let Some((which, bytes)) = input.split_first() else { return };
    let begun = [&ToProcess::Fenced.encode()[..BEGINNING], bytes].concat();
    let whole = if which & 4 == 0 { &begun } else { bytes };
    match which % 4 {
        0 => {
            if let Ok(message) = ToProcess::decode(whole) {
                assert_eq!(
                    ToProcess::decode(&message.encode()).as_ref(),
                    Ok(&message),
                    "a decoded value encodes to the same bytes"
                );
                if let ToProcess::Welcome(welcome) = message {
                    let _ = Options::from_pairs(&welcome.options);
                }
            }
        }
        1 => {
            if let Ok(message) = ToLauncher::decode(whole) {
                assert_eq!(
                    ToLauncher::decode(&message.encode()).as_ref(),
                    Ok(&message),
                    "a decoded value encodes to the same bytes"
                );
            }
        }
        2 => host_peers::fuzz(bytes),
        _ => site::fuzz(bytes),
    }
}

/// The words of a command line, each terminated by a zero byte.
pub fn words(input: &[u8]) {
    let words: Vec<OsString> = input.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    for parsed in [parse_launcher(words.clone()), parse_program(words.clone())] {
        let Ok(mut parsed) = parsed else { continue };
        assert!(parsed.rest.len() <= words.len(), "no word is added");
        let told = Options::from_pairs(&parsed.options.to_pairs()).expect("the options of a launcher can be parsed");
        assert_eq!(told.to_pairs(), parsed.options.to_pairs(), "and have the same meaning");
        let _ = told.overlaid(&parsed.options).expect("options do not contradict themselves");
        let _ = parsed.options.provision(None);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use charm4rs_transport_testkit::fuzz::replay;

    #[test]
    fn the_corpus_of_key_space_lines_causes_no_panic() {
        replay("pmi", pmi);
    }

    #[test]
    fn the_corpus_of_bootstrap_packets_causes_no_panic() {
        replay("packets", packets);
    }

    #[test]
    fn the_corpus_of_command_lines_causes_no_panic() {
        replay("words", words);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "(\\+\\+?(p|ppn|timeout|credit|seed|pemap|quiet|transport|hang-timeout)=?|[0-9a-z.kmg]{0,9}|\\x00){0,12}") {
            pmi(&bytes);
            packets(&bytes);
            words(&bytes);
            words(text.as_bytes());
        }
    }
}
