//! What a fuzzer calls: what launchers and processes say to each other, key spaces, and command lines. Nothing here may panic, whatever
//! the bytes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::options::{Options, parse_launcher, parse_program};
use super::wire::{ToLauncher, ToProcess};
use super::{host_peers, pmi1, site};

/// Bytes with which every packet of a launcher's channel begins.
const BEGINNING: usize = 4;

/// Lines of a launcher that speaks PMI-1, as they come; the first byte says in pieces of which length.
pub fn pmi(input: &[u8]) {
    let Some((piece, bytes)) = input.split_first() else { return };
    pmi1::fuzz(bytes.chunks(usize::from(*piece).max(1)));
}

/// A packet between a launcher and a process, between processes of a host, or what processes tell all others; the first byte says which, and
/// whether what every packet begins with is to be put before it.
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
                    "what was read is written alike"
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
                    "what was read is written alike"
                );
            }
        }
        2 => host_peers::fuzz(bytes),
        _ => site::fuzz(bytes),
    }
}

/// The words of a command line, each ended by a zero byte.
pub fn words(input: &[u8]) {
    let words: Vec<OsString> = input.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
    for parsed in [parse_launcher(words.clone()), parse_program(words.clone())] {
        let Ok(mut parsed) = parsed else { continue };
        assert!(parsed.rest.len() <= words.len(), "no word is made");
        let told = Options::from_pairs(&parsed.options.to_pairs()).expect("what a launcher tells is understood");
        assert_eq!(told.to_pairs(), parsed.options.to_pairs(), "and means the same");
        let _ = told.overlaid(&parsed.options).expect("nothing contradicts itself");
        let _ = parsed.options.provision(None);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use charm4rs_transport_testkit::fuzz::replay;

    #[test]
    fn the_corpus_of_the_lines_of_a_key_space_is_survived() {
        replay("pmi", pmi);
    }

    #[test]
    fn the_corpus_of_the_packets_of_a_bootstrap_is_survived() {
        replay("packets", packets);
    }

    #[test]
    fn the_corpus_of_command_lines_is_survived() {
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
