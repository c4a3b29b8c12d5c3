//! Fuzz targets: input from other hosts, from processes, and from files. No input may cause a panic.

use std::path::Path;

use charm4rs_bootstrap::wire::{ToLauncher, ToProcess};
use charm4rs_transport_core::Layout;

use crate::board::Board;
pub use crate::frames::fuzz::frames;
use crate::guardian::{self, RECORD};
use crate::{nodelist, shell};

/// A nodelist, after two bytes: the number of PEs, and the PEs per process.
///
/// # Panics
/// If not every PE is assigned exactly once.
pub fn nodelist(input: &[u8]) {
    let Some((&[pes, ppn], text)) = input.split_first_chunk() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let _ = shell::split(text);
    let Ok(nodelist) = nodelist::parse(text, nodelist::MAIN, Path::new("nodes")) else { return };
    let hosts = nodelist.hosts;
    let cpus: Vec<u32> = hosts.iter().map(|host| host.cpus).collect();
    let pes = u32::from(pes) + 1;
    let (layout, used) = nodelist::deal(pes, (ppn > 0).then_some(ppn.into()), &cpus);
    assert_eq!((layout.pes(), layout.hosts() as usize), (pes, used.len()));
    for host in &hosts {
        let words = shell::words(&["ssh".to_owned()], host, &["charmrun".into()]);
        assert!(words.iter().skip(7).all(|word| !word.is_empty()), "no word gets lost");
    }
}

/// Input of a guardian, in pieces; the first byte gives their length.
///
/// # Panics
/// If it accepts a record that no launcher writes.
pub fn guardian(input: &[u8]) {
    let Some((piece, stream)) = input.split_first() else { return };
    let (mut bytes, mut found) = (Vec::new(), 0);
    for part in stream.chunks(usize::from(*piece).max(1)) {
        bytes.extend_from_slice(part);
        guardian::take_records(&mut bytes, |word, leader| {
            let record = guardian::record(word, leader);
            assert!(stream.windows(RECORD).any(|window| *window == record), "it stands there");
            assert!(leader.pid.as_raw_nonzero().get() > 1, "a launcher can lead the group");
            found += 1;
        });
        assert!(bytes.len() < RECORD, "only the beginning of a record is kept");
    }
    assert!(found * RECORD <= stream.len(), "each byte is of one record");
}

/// Packets of the processes of a job, each after its sender and the length of what follows its beginning: puts, requests and waits.
///
/// # Panics
/// If an answer is malformed.
pub fn board(mut input: &[u8]) {
    const PROCESSES: u32 = 3;
    /// Bytes with which every packet begins.
    const BEGINNING: usize = 4;
    let mut board = Board::new(&Layout::one_host(PROCESSES, 1));
    while let Some((&[from, len], rest)) = input.split_first_chunk() {
        let (packet, rest) = rest.split_at(rest.len().min(len.into()));
        input = rest;
        let rank = u32::from(from) % PROCESSES;
        let packet = [&ToLauncher::Fence.encode()[..BEGINNING], packet].concat();
        let answers = match ToLauncher::decode(&packet) {
            Ok(ToLauncher::Put { key, value }) => board.put(rank, key, value).map(|()| Vec::new()),
            Ok(ToLauncher::Get { rank: of, key }) => Ok(vec![board.get(rank, of, &key)]),
            Ok(ToLauncher::Fence) => board.fence(rank),
            _ => continue,
        };
        let Ok(answers) = answers else { return };
        for answer in answers {
            assert!(answer.to < PROCESSES && ToProcess::decode(&answer.packet).is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use charm4rs_transport_testkit::fuzz::replay;

    use super::*;

    #[test]
    fn the_corpora_of_what_a_launcher_reads_are_survived() {
        replay("agent", frames);
        replay("nodelist", nodelist);
        replay("board", board);
        replay("guardian", guardian);
    }
}
