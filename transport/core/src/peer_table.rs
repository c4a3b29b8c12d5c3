//! Numbers the peers that an endpoint communicates with, in the order of first contact. The endpoint keeps its state of each peer in a list with these
//! numbers as indices, so it needs no memory for peers that it never communicates with.

use std::collections::HashMap;

use crate::Pe;

/// See the module's text.
#[derive(Debug, Default)]
pub struct PeerTable {
    index: HashMap<Pe, u32>,
    /// The result of the last lookup: the next one is likely to be for the same peer.
    last: Option<(Pe, u32)>,
}

impl PeerTable {
    /// Returns the index of a peer in the list. For a new peer it calls `add`, which must append an entry to the list.
    #[inline]
    pub fn place(&mut self, peer: Pe, add: impl FnOnce()) -> usize {
        if let Some((last, place)) = self.last
            && last == peer
        {
            return place as usize;
        }
        let next = self.index.len();
        let place = *self.index.entry(peer).or_insert_with(|| {
            add();
            u32::try_from(next).expect("PEs are counted in 32 bits")
        });
        self.last = Some((peer, place));
        place as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_is_added_once_and_keeps_its_index() {
        let (mut table, mut list) = (PeerTable::default(), Vec::new());
        let places = [7, 7, 3, 7, 9, 3].map(|pe| table.place(Pe(pe), || list.push(pe)));
        assert_eq!(places, [0, 0, 1, 0, 2, 1]);
        assert_eq!(list, [7, 3, 9]);
    }
}
