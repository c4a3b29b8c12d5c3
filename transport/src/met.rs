//! The peers that an endpoint has met, in the order in which it met them: its own list of what it knows of each grows with them.
//! So an endpoint holds nothing of peers that it never deals with.

use std::collections::HashMap;

use crate::Pe;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Met {
    index: HashMap<Pe, u32>,
    /// The peer that was looked for last, which is the likeliest next.
    last: Option<(Pe, u32)>,
}

impl Met {
    /// The place of a peer in the list. Calls `add` first, if it is new: then it gets the place at the list's end.
    #[inline]
    pub(crate) fn place(&mut self, peer: Pe, add: impl FnOnce()) -> usize {
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
    fn each_peer_keeps_the_place_at_which_it_was_added_once() {
        let (mut met, mut list) = (Met::default(), Vec::new());
        let places = [7, 7, 3, 7, 9, 3].map(|pe| met.place(Pe(pe), || list.push(pe)));
        assert_eq!(places, [0, 0, 1, 0, 2, 1]);
        assert_eq!(list, [7, 3, 9]);
    }
}
