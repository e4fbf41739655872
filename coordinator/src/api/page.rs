//! Pages of lists: bounded in number, in bytes, and in elements.

use prost::{Message, Name};
use unanimo_proto::{ELEMENTS_MAX, elements};

/// Entries of a page that asks for none.
pub const PAGE_DEFAULT: u32 = 50;

/// Most entries of a page; whoever asks for more gets so many.
pub const PAGE_MAX: u32 = 500;

/// Most bytes of a page's entries. An answer has to fit into 4 MiB, the message size at which gRPC
/// clients of most languages stop unless they are set otherwise.
pub const PAGE_BYTES_MAX: usize = 3 << 20;

/// Most elements of a page's entries. Whoever receives a message with more than [`ELEMENTS_MAX`] refuses it, and the answer has
/// a few of its own.
const PAGE_ELEMENTS_MAX: usize = ELEMENTS_MAX - 64;

/// Returns the number of entries that a page has at most.
pub(super) fn size(asked: u32) -> u32 {
    if asked == 0 { PAGE_DEFAULT } else { asked.min(PAGE_MAX) }
}

/// Returns the longest beginning of the list that fits into a page, which is at least one entry, and
/// whether all of the list is in it.
pub(super) fn fitting<T: Message + Name>(
    entries: impl IntoIterator<Item = T>,
    bytes_max: usize,
) -> (Vec<T>, bool) {
    let (mut page, mut bytes, mut all) = (Vec::new(), 0, 0);
    for entry in entries {
        bytes += entry.encoded_len();
        // Its own field is one, too.
        all += 1 + elements(&entry);
        if (bytes > bytes_max || all > PAGE_ELEMENTS_MAX) && !page.is_empty() {
            return (page, false);
        }
        page.push(entry);
    }
    (page, true)
}

#[cfg(test)]
mod tests {
    use unanimo_proto::v1;

    use super::*;

    #[test]
    fn a_page_is_cut_by_bytes_and_never_empty() {
        for (bytes_max, expected) in [(0, 1), (9, 1), (10, 2), (14, 2), (15, 3), (100, 3)] {
            // Each takes 5 bytes: a key, a length and the text.
            let entries = ["abc", "def", "ghi"].map(str::to_owned);
            let (page, whole) = fitting(entries, bytes_max);
            assert_eq!((page.len(), whole), (expected, expected == 3), "{bytes_max} bytes");
        }
    }

    /// L5: whoever asks for a page gets one that it takes.
    #[test]
    fn l5_a_page_has_no_more_elements_than_its_receiver_takes() {
        let branch =
            v1::Branch { branch_id: "b".into(), participant: "p".into(), ..Default::default() };
        let large = v1::Transaction {
            gid: "g".into(),
            branches: vec![branch; 1_000],
            ..Default::default()
        };
        let entries = || std::iter::repeat_n(large.clone(), 100);
        let (transactions, whole) = fitting(entries(), PAGE_BYTES_MAX);
        assert!(!whole && transactions.len() > 10, "{}", transactions.len());
        let page = |transactions| v1::ListTransactionsResponse {
            transactions,
            next_page_token: "next".into(),
            ..Default::default()
        };
        let count = elements(&page(transactions.clone()));
        assert!(count < ELEMENTS_MAX, "{count}");
        let more = [transactions, vec![large]].concat();
        assert!(elements(&page(more)) > PAGE_ELEMENTS_MAX, "no more would fit");
    }

    #[test]
    fn a_page_size_is_coerced() {
        assert_eq!([0, 1, 500, 501, u32::MAX].map(size), [50, 1, 500, 500, 500]);
    }
}
