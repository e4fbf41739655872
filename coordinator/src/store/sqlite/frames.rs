//! Frames of a write-ahead log, and whether they are of the time of the database file beside it.
//!
//! Nothing in a log says which file it belongs to (<https://www.sqlite.org/fileformat2.html#walformat>). But page 1 has a
//! change counter. A commit that writes page 1 leaves it or adds 1 to it, and a log is begun anew only after all of it has been
//! copied into the file. So with the first and the last counter that is committed in a log, its own file has one from the
//! first less 1 up to the last, whatever part of the log has been copied.
//!
//! Nothing is read here that SQLite itself would not read, and a log that cannot be judged is not called foreign.

use std::io::{self, Read};

/// Bytes of a database file that are needed to judge a log.
pub(super) const HEAD_BYTES: usize = 100;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Magic numbers of a log: with checksums over little-endian words, or with 1 added, over big-endian ones.
const LOG_MAGIC: u32 = 0x377f_0682;

const LOG_VERSION: u32 = 3_007_000;

const LOG_HEAD_BYTES: usize = 32;

const FRAME_HEAD_BYTES: usize = 24;

/// Place of the change counter in page 1.
const COUNTER: usize = 24;

/// Content of a log that is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Committed {
    page_bytes: u32,
    /// First and last change counter, if page 1 was written.
    counters: Option<(u32, u32)>,
}

/// Judges a log by the head of the database file beside it. Returns why it is not its own; `None` if it is, or if that cannot be
/// told.
///
/// # Errors
/// The log cannot be read.
pub(super) fn foreign(head: &[u8; HEAD_BYTES], log: impl Read) -> io::Result<Option<String>> {
    if !head.starts_with(MAGIC) {
        return Ok(None);
    }
    let Some(Committed { page_bytes, counters }) = committed(log)? else { return Ok(None) };
    let own_bytes = match u16::from_be_bytes([head[16], head[17]]) {
        1 => 1 << 16,
        bytes => u32::from(bytes),
    };
    if own_bytes != page_bytes {
        return Ok(Some(format!(
            "the pages of the file have {own_bytes} bytes, and those of the log {page_bytes}"
        )));
    }
    // SQLite writes a log only for a file that says so, and takes the log away before it says otherwise.
    if head[19] == 1 {
        return Ok(Some(
            "the file says that it has no log, as a backup by VACUUM INTO does".to_owned(),
        ));
    }
    let Some((first, last)) = counters else { return Ok(None) };
    let own = word(head, COUNTER);
    // Counters begin again after the largest one.
    let before = first.wrapping_sub(1);
    if own.wrapping_sub(before) <= last.wrapping_sub(before) {
        return Ok(None);
    }
    Ok(Some(format!(
        "the file is at change {own}, and the log has what came after change {before}, up to {last}"
    )))
}

/// Reads a log, up to its last commit; `None` if it has none.
fn committed(mut log: impl Read) -> io::Result<Option<Committed>> {
    let mut head = [0; LOG_HEAD_BYTES];
    if !fill(&mut log, &mut head)? {
        return Ok(None);
    }
    let (magic, page_bytes, salts) = (word(&head, 0), word(&head, 8), &head[16..24]);
    let mut sum = Sum { is_big: magic & 1 == 1, sums: (0, 0) };
    sum.add(&head[..24]);
    let is_one = magic & !1 == LOG_MAGIC && word(&head, 4) == LOG_VERSION;
    let is_page = page_bytes.is_power_of_two() && (512..=1 << 16).contains(&page_bytes);
    if !is_one || !is_page || !sum.is_at(&head, 24) {
        return Ok(None);
    }
    let mut frame = vec![0; FRAME_HEAD_BYTES + page_bytes as usize];
    let (mut counters, mut found) = (None, None);
    while fill(&mut log, &mut frame)? {
        let (head, page) = frame.split_at(FRAME_HEAD_BYTES);
        sum.add(&head[..8]);
        sum.add(page);
        let number = word(head, 0);
        if number == 0 || head[8..16] != *salts || !sum.is_at(head, 16) {
            break;
        }
        if number == 1 {
            let counter = word(page, COUNTER);
            let (first, _) = counters.unwrap_or((counter, counter));
            counters = Some((first, counter));
        }
        // It ends a transaction: all up to here counts.
        if word(head, 4) != 0 {
            found = Some(Committed { page_bytes, counters });
        }
    }
    Ok(found)
}

/// The running checksum.
struct Sum {
    is_big: bool,
    sums: (u32, u32),
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let (mut first, mut second) = self.sums;
        let read = if self.is_big { u32::from_be_bytes } else { u32::from_le_bytes };
        for pair in bytes.as_chunks::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *pair;
            first = first.wrapping_add(read([a, b, c, d])).wrapping_add(second);
            second = second.wrapping_add(read([e, f, g, h])).wrapping_add(first);
        }
        self.sums = (first, second);
    }

    fn is_at(&self, bytes: &[u8], at: usize) -> bool {
        self.sums == (word(bytes, at), word(bytes, at + 4))
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Fills a buffer; `false` if the file ends before.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
