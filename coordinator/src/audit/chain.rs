//! The chain of entries, and the check of it.
//!
//! The hash of an entry is the SHA-256 of the hash before it (32 bytes; zeros before the first entry), its number and
//! its time in milliseconds since 1970, each as a netstring, and its bytes.

use sha2::{Digest, Sha256};
use unanimo_core::Timestamp;

use super::entry::{Entry, Kind, netstring};
pub use crate::store::AuditLink as Link;

/// Returns the hash of an entry that follows one with this hash.
#[must_use]
pub fn hash_of(before: &[u8], number: u64, at: Timestamp, body: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update(netstring(&number.to_string()));
    hash.update(netstring(&at.0.to_string()));
    hash.update(body);
    hash.finalize().to_vec()
}

/// Returns bytes as text.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the bytes of such a text; `None` if it is none.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit()) && text.len().is_multiple_of(2);
    let pairs = is_hex.then(|| (0..text.len()).step_by(2))?;
    pairs.map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// The first fault of a chain, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Numbers have a gap.
    #[error("entries {from} to {to} are missing")]
    Missing {
        /// The first one.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// An entry stands behind one with a larger number.
    #[error("entry {number} stands behind entry {behind}")]
    Order {
        /// Its number.
        number: u64,
        /// The number before it.
        behind: u64,
    },
    /// A hash is another one.
    #[error(
        "entry {0} does not follow from what is before it: it, or that, is not as it was written"
    )]
    Changed(u64),
    /// The chain is shorter than it was.
    #[error("the chain ends with entry {found}, and had {known}: the last ones are missing")]
    Cut {
        /// The last one that is there.
        found: u64,
        /// The last one that was written.
        known: u64,
    },
    /// The chain has another entry than the one that was noted.
    #[error("entry {0} has another hash than the one that was noted: the chain was written anew")]
    Another(u64),
    /// Entries are gone without an entry about it.
    #[error("entries up to {0} are missing, and no entry says that their retention was over")]
    Unvouched(u64),
    /// The entry that was noted is before the start: it tells nothing about what is there.
    #[error(
        "entry {noted}, which was noted, was purged, as entries up to {purged} were: note a later one"
    )]
    NotedPurged {
        /// Number of the entry that was noted.
        noted: u64,
        /// The last one that was purged.
        purged: u64,
    },
}

/// Entry about a purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// Its number.
    pub number: u64,
    /// When it was written.
    pub at: Timestamp,
    /// Number of the last entry that it says is gone.
    pub of: u64,
    /// Hash of that one, in its words.
    pub hash: String,
}

/// Check of a chain, entry by entry.
#[derive(Clone, Debug)]
pub struct Verifier {
    start: Link,
    last: Link,
    /// Entries about purges.
    purges: Vec<Purge>,
    /// A link that must be in it.
    noted: Option<Link>,
}

impl Verifier {
    /// Begins behind what was purged. `noted` is a link that must be in the chain.
    #[must_use]
    pub fn new(start: Link, noted: Option<Link>) -> Self {
        Self { last: start.clone(), start, purges: Vec::new(), noted }
    }

    /// Returns the last link.
    #[must_use]
    pub fn last(&self) -> &Link {
        &self.last
    }

    /// Returns the entry that says that what is before the start was purged.
    #[must_use]
    pub fn vouching(&self) -> Option<&Purge> {
        let hash = hex(&self.start.hash);
        self.purges.iter().find(|purge| purge.of == self.start.number && purge.hash == hash)
    }

    /// Returns the entries about purges that are behind the one that was noted.
    pub fn purges_since_noted(&self) -> impl Iterator<Item = &Purge> {
        let noted = self.noted.as_ref().map(|noted| noted.number);
        self.purges.iter().filter(move |purge| noted.is_some_and(|noted| purge.number > noted))
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// It is not the next one, or not as it was written.
    pub fn take(&mut self, link: &Link, at: Timestamp, body: &[u8]) -> Result<(), Broken> {
        let number = link.number;
        let next = self.last.number.checked_add(1).filter(|next| number >= *next);
        let Some(next) = next else {
            return Err(Broken::Order { number, behind: self.last.number });
        };
        if number > next {
            return Err(Broken::Missing { from: next, to: number - 1 });
        }
        if hash_of(&self.last.hash, number, at, body) != link.hash {
            return Err(Broken::Changed(number));
        }
        if self.noted.as_ref().is_some_and(|noted| noted.number == number && *noted != *link) {
            return Err(Broken::Another(number));
        }
        let purged = Entry::decode(body).filter(|entry| entry.kind == Kind::Purged);
        self.purges.extend(purged.map(|Entry { of, reason: hash, .. }| Purge {
            number,
            at,
            of,
            hash,
        }));
        self.last = link.clone();
        Ok(())
    }

    /// Ends the check: the chain must reach this link at least. An entry that came meanwhile may be behind it.
    ///
    /// # Errors
    /// The end is missing, or another one; or what is before the start is, and nothing says why; or the entry that was
    /// noted is before the start.
    pub fn end(&self, known: &Link) -> Result<(), Broken> {
        let noted = self.noted.iter().map(|noted| noted.number).max().unwrap_or(0);
        let known_number = known.number.max(noted);
        if self.last.number < known_number {
            return Err(Broken::Cut { found: self.last.number, known: known_number });
        }
        if self.last.number == known.number && self.last != *known {
            return Err(Broken::Changed(known.number));
        }
        if self.start.number != 0 && self.vouching().is_none() {
            return Err(Broken::Unvouched(self.start.number));
        }
        let purged = self.start.number;
        match &self.noted {
            Some(noted) if noted.number < purged => {
                Err(Broken::NotedPurged { noted: noted.number, purged })
            }
            Some(noted) if noted.number == purged && *noted != self.start => {
                Err(Broken::Another(purged))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zero() -> Link {
        Link { number: 0, hash: vec![0; 32] }
    }

    type Row = (Link, Timestamp, Vec<u8>);

    /// A chain behind this link.
    fn chain(mut last: Link, bodies: &[Entry]) -> Vec<Row> {
        let mut rows = Vec::new();
        for (at, entry) in bodies.iter().enumerate() {
            let (number, at, body) = (last.number + 1, Timestamp(at as u64), entry.encode());
            last = Link { number, hash: hash_of(&last.hash, number, at, &body) };
            rows.push((last.clone(), at, body));
        }
        rows
    }

    fn check(start: Link, noted: Option<Link>, rows: &[Row], end: &Link) -> Result<(), Broken> {
        let mut verifier = Verifier::new(start, noted);
        rows.iter().try_for_each(|(link, at, body)| verifier.take(link, *at, body))?;
        verifier.end(end)
    }

    #[test]
    fn each_fault_of_a_chain_is_found_where_it_is() {
        let entries: Vec<_> =
            (0..5).map(|count| Entry { count, ..Entry::new(Kind::Denied) }).collect();
        let rows = chain(zero(), &entries);
        let end = rows[4].0.clone();
        let checked = |rows: &[Row]| check(zero(), None, rows, &end);
        assert_eq!(checked(&rows), Ok(()));
        let with = |change: &dyn Fn(&mut Vec<Row>)| {
            let mut rows = rows.clone();
            change(&mut rows);
            checked(&rows)
        };
        assert_eq!(with(&|rows| rows[1].2 = entries[3].encode()), Err(Broken::Changed(2)));
        assert_eq!(with(&|rows| rows[1].1 = Timestamp(9)), Err(Broken::Changed(2)), "its time");
        assert_eq!(with(&|rows| rows[1].0.hash[0] ^= 1), Err(Broken::Changed(2)), "its hash");
        let missing = Err(Broken::Missing { from: 2, to: 3 });
        assert_eq!(with(&|rows| drop(rows.drain(1..3))), missing);
        assert_eq!(with(&|rows| rows.swap(1, 2)), Err(Broken::Missing { from: 2, to: 2 }));
        let moved = |rows: &mut Vec<Row>| {
            let (one, two) = (rows[1].clone(), rows[2].clone());
            (rows[1].1, rows[1].2) = (two.1, two.2);
            (rows[2].1, rows[2].2) = (one.1, one.2);
        };
        assert_eq!(with(&moved), Err(Broken::Changed(2)), "with their numbers exchanged");
        let twice = |rows: &mut Vec<Row>| rows.insert(2, rows[1].clone());
        assert_eq!(with(&twice), Err(Broken::Order { number: 2, behind: 2 }));
        assert_eq!(with(&|rows| rows.truncate(3)), Err(Broken::Cut { found: 3, known: 5 }));
        // Whoever writes all of it anew is found by a link that was noted elsewhere.
        let anew = chain(zero(), &vec![Entry::new(Kind::Denied); 5]);
        let (anew_end, noted) = (anew[4].0.clone(), Some(rows[2].0.clone()));
        assert_eq!(check(zero(), None, &anew, &anew_end), Ok(()));
        assert_eq!(check(zero(), noted, &anew, &anew_end), Err(Broken::Another(3)));
        let later = Some(Link { number: 7, ..zero() });
        assert_eq!(check(zero(), later, &rows, &end), Err(Broken::Cut { found: 5, known: 7 }));
    }

    #[test]
    fn what_was_purged_is_vouched_for_by_an_entry() {
        let start = chain(zero(), &vec![Entry::new(Kind::Denied); 3])[2].0.clone();
        let purged = Entry { of: 3, reason: hex(&start.hash), ..Entry::new(Kind::Purged) };
        let other = Entry { of: 3, reason: hex(&[1; 32]), ..Entry::new(Kind::Purged) };
        for (entry, expected) in [
            (purged, Ok(())),
            (other, Err(Broken::Unvouched(3))),
            (Entry::new(Kind::Denied), Err(Broken::Unvouched(3))),
        ] {
            let rows = chain(start.clone(), &[Entry::new(Kind::Asked), entry]);
            assert_eq!(check(start.clone(), None, &rows, &rows[1].0), expected);
        }
        assert_eq!(unhex(&hex(&start.hash)), Some(start.hash));
        assert_eq!((unhex("0"), unhex("zz"), unhex("ää")), (None, None, None));
        assert_eq!((unhex("+f"), unhex("-0")), (None, None), "numbers, and no bytes");
    }

    #[test]
    fn a_noted_entry_is_compared_where_the_chain_begins_and_is_not_there_before_it() {
        let gone = chain(zero(), &vec![Entry::new(Kind::Denied); 3]);
        let start = gone[2].0.clone();
        let purged = Entry { of: 3, reason: hex(&start.hash), ..Entry::new(Kind::Purged) };
        let rows = chain(start.clone(), &[purged]);
        let other = Link { number: 3, hash: vec![7; 32] };
        for (noted, expected) in [
            (start.clone(), Ok(())),
            (rows[0].0.clone(), Ok(())),
            (other, Err(Broken::Another(3))),
            (gone[1].0.clone(), Err(Broken::NotedPurged { noted: 2, purged: 3 })),
            (zero(), Err(Broken::NotedPurged { noted: 0, purged: 3 })),
        ] {
            assert_eq!(check(start.clone(), Some(noted), &rows, &rows[0].0), expected);
        }
        let of_nothing = Link { number: 0, hash: vec![7; 32] };
        let checked = check(zero(), Some(of_nothing), &gone, &start);
        assert_eq!(checked, Err(Broken::Another(0)));
    }

    #[test]
    fn each_purge_behind_the_noted_entry_is_told() {
        let gone = chain(zero(), &vec![Entry::new(Kind::Denied); 3]);
        let start = gone[2].0.clone();
        let purged =
            |of: u64, hash: &[u8]| Entry { of, reason: hex(hash), ..Entry::new(Kind::Purged) };
        let entries = [purged(2, &[2; 32]), purged(3, &start.hash), Entry::new(Kind::Asked)];
        let rows = chain(start.clone(), &entries);
        let told = |noted: Option<&Row>| {
            let mut verifier = Verifier::new(start.clone(), noted.map(|row| row.0.clone()));
            let taken = rows.iter().try_for_each(|(link, at, body)| verifier.take(link, *at, body));
            assert_eq!(taken, Ok(()));
            let since: Vec<u64> = verifier.purges_since_noted().map(|purge| purge.number).collect();
            (verifier.vouching().cloned(), since)
        };
        let hash = hex(&start.hash);
        let vouching = Some(Purge { number: 5, at: Timestamp(1), of: 3, hash });
        assert_eq!(told(Some(&gone[2])), (vouching.clone(), vec![4, 5]));
        assert_eq!(told(Some(&rows[0])), (vouching.clone(), vec![5]));
        assert_eq!(told(Some(&rows[1])), (vouching.clone(), vec![]));
        assert_eq!(told(None), (vouching, vec![]));
    }

    #[test]
    fn nothing_is_behind_the_largest_number() {
        let start = Link { number: u64::MAX, hash: vec![1; 32] };
        for number in [0, 1, u64::MAX] {
            let mut verifier = Verifier::new(start.clone(), None);
            let link = Link { number, hash: vec![2; 32] };
            let taken = verifier.take(&link, Timestamp(0), b"");
            assert_eq!(taken, Err(Broken::Order { number, behind: u64::MAX }));
        }
    }
}
