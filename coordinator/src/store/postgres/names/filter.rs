//! A filter of an epoch's names: it tells of most names that they are not among them, and of none that is.
//!
//! A Bloom filter in blocks, as Parquet has them: one name sets one bit in each of the eight words of one block, so that
//! a look touches one line of the processor's cache. The keys are pieces of a SHA-256, so nothing needs to be hashed.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Words of a block.
const WORDS: usize = 8;

/// Names for each block of 512 bits: 12.2 bits for each name, of which about 1 in 200 that is not there is taken for one
/// that may be.
const NAMES_OF_A_BLOCK: u64 = 42;

/// Bytes of the digest that a stored filter begins with.
const DIGEST: usize = 16;

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    /// Names that were put in.
    names: u64,
    blocks: Vec<[u64; WORDS]>,
}

impl Filter {
    /// Makes one without a name, for so many.
    pub(super) fn new(names: u64) -> Self {
        let blocks = usize::try_from(names / NAMES_OF_A_BLOCK + 1).unwrap_or(usize::MAX);
        Self { names: 0, blocks: vec![[0; WORDS]; blocks] }
    }

    pub(super) fn insert(&mut self, key: Uuid) {
        let (block, bits) = self.place(key);
        for (word, bit) in self.blocks[block].iter_mut().zip(bits) {
            *word |= bit;
        }
        self.names += 1;
    }

    /// Tells whether a name may be among them.
    pub(super) fn may_have(&self, key: Uuid) -> bool {
        let (block, bits) = self.place(key);
        self.blocks[block].iter().zip(bits).all(|(word, bit)| word & bit != 0)
    }

    /// Returns the number of names that were put in.
    pub(super) fn names(&self) -> u64 {
        self.names
    }

    pub(super) fn bytes(&self) -> usize {
        self.blocks.len() * WORDS * 8
    }

    /// Returns the block of a name, and a bit in each of its words. The first half of the key is for the block, the
    /// second one for the bits.
    fn place(&self, key: Uuid) -> (usize, [u64; WORDS]) {
        let (first, second) = key.as_u64_pair();
        let (first, second) = (first.swap_bytes(), second.swap_bytes());
        let block = (u128::from(first) * self.blocks.len() as u128) >> 64;
        let bits = std::array::from_fn(|word| 1 << ((second >> (word * 6)) & 63));
        (usize::try_from(block).unwrap_or_default(), bits)
    }

    /// Returns it as it is stored: a digest, the number of names, and the words.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut stored = vec![0; DIGEST];
        stored.extend(self.names.to_le_bytes());
        stored.extend(self.blocks.as_flattened().iter().flat_map(|word| word.to_le_bytes()));
        let digest = Sha256::digest(&stored[DIGEST..]);
        stored[..DIGEST].copy_from_slice(&digest[..DIGEST]);
        stored
    }

    /// Reads one that was stored; `None` if it is not whole: a name that it passes over would be inserted twice.
    pub(super) fn decode(stored: &[u8]) -> Option<Self> {
        let (digest, rest) = stored.split_at_checked(DIGEST)?;
        if Sha256::digest(rest)[..DIGEST] != *digest {
            return None;
        }
        let (words, _) = rest.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let names = words.next()?;
        let words: Vec<u64> = words.collect();
        let (blocks, left) = words.as_chunks::<WORDS>();
        (left.is_empty() && !blocks.is_empty()).then(|| Self { names, blocks: blocks.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::gid_key;

    fn filter_of(names: std::ops::Range<u32>) -> Filter {
        let mut filter = Filter::new(names.len() as u64);
        names.for_each(|name| filter.insert(gid_key(&format!("order-{name}"))));
        filter
    }

    #[test]
    fn s9_no_name_is_passed_over_and_few_others_are_taken_for_one() {
        let filter = filter_of(0..50_000);
        let may_have = |name: &u32| filter.may_have(gid_key(&format!("order-{name}")));
        assert_eq!((0..50_000).filter(may_have).count(), 50_000);
        let wrong = (50_000..100_000).filter(may_have).count();
        assert!(wrong < 500, "{wrong} of 50,000 are taken for names that may be there");
        assert_eq!(filter.names(), 50_000);
        assert!(filter.bytes() < 50_000 * 2, "{} bytes", filter.bytes());
    }

    #[test]
    fn s9_a_stored_filter_that_is_not_whole_is_none() {
        let filter = filter_of(0..1_000);
        let stored = filter.encode();
        assert_eq!(Filter::decode(&stored), Some(filter));
        for place in [0, DIGEST, DIGEST + 8, stored.len() - 1] {
            let mut broken = stored.clone();
            broken[place] ^= 1;
            assert_eq!(Filter::decode(&broken), None, "byte {place}");
        }
        assert_eq!(Filter::decode(&stored[..stored.len() - 64]), None);
        assert_eq!(Filter::decode(&[]), None);
    }

    #[test]
    fn a_filter_without_a_name_has_none() {
        assert!(!Filter::new(0).may_have(gid_key("order-1")));
    }
}
