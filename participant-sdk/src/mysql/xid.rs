//! Names of prepared transactions: X/Open's xid, of a format id, a global part (gtrid) and a branch's
//! part (bqual) of up to 64 bytes each.
//!
//! The servers compare the two parts alone and not the format id, so the branch's number is in them.

use std::fmt;

use uuid::Uuid;

use crate::handler::Branch;
use crate::names::{CLUSTER_BYTES_MAX, NAME_BYTES_MAX, is_name};

/// Format id of every name of ours: `UNAN` in ASCII.
const FORMAT_ID: i64 = 0x554E_414E;

/// Bytes of the transaction's id, and of the branch's number behind it.
const TX_BYTES: usize = 16;
const NUMBER_BYTES: usize = 2;

/// Name of a branch's prepared transaction. The gtrid is the transaction's id, the branch's number in two
/// bytes and the cluster's id; the bqual is the participant's name. As text it is what the servers read,
/// in hexadecimal digits: its first 32 are those of the transaction's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Xid {
    pub(super) cluster_id: String,
    pub(super) participant: String,
    pub(super) tx_id: Uuid,
    pub(super) number: u16,
}

impl Xid {
    /// Returns the name of a branch. The identifiers were checked when the call came in, and its number
    /// fits.
    pub(super) fn of(branch: &Branch) -> Self {
        Self {
            cluster_id: branch.cluster_id.clone(),
            participant: branch.participant.clone(),
            tx_id: branch.tx_id,
            number: u16::try_from(branch.number).unwrap_or(u16::MAX),
        }
    }

    /// Reads a row of `XA RECOVER`: format id, lengths of the two parts, and both parts. Whatever
    /// [`Self::of`] would not have made is somebody else's.
    pub(super) fn parse(format_id: i64, lengths: (i64, i64), data: &[u8]) -> Option<Self> {
        let gtrid_len = usize::try_from(lengths.0).ok()?;
        let bqual_len = usize::try_from(lengths.1).ok()?;
        if format_id != FORMAT_ID || data.len() != gtrid_len.checked_add(bqual_len)? {
            return None;
        }
        let (gtrid, bqual) = data.split_at(gtrid_len);
        let (tx_id, rest) = gtrid.split_at_checked(TX_BYTES)?;
        let (number, cluster_id) = rest.split_at_checked(NUMBER_BYTES)?;
        let number = u16::from_be_bytes(number.try_into().ok()?);
        let cluster_id = std::str::from_utf8(cluster_id).ok()?;
        let participant = std::str::from_utf8(bqual).ok()?;
        let fits = number > 0
            && is_name(cluster_id, CLUSTER_BYTES_MAX)
            && is_name(participant, NAME_BYTES_MAX);
        fits.then(|| Self {
            cluster_id: cluster_id.to_owned(),
            participant: participant.to_owned(),
            tx_id: Uuid::from_slice(tx_id).unwrap_or_default(),
            number,
        })
    }
}

impl fmt::Display for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |f: &mut fmt::Formatter<'_>, text: &str| {
            text.bytes().try_for_each(|byte| write!(f, "{byte:02x}"))
        };
        write!(f, "X'{}{:04x}", self.tx_id.simple(), self.number)?;
        hex(f, &self.cluster_id)?;
        f.write_str("',X'")?;
        hex(f, &self.participant)?;
        write!(f, "',{FORMAT_ID}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TX: Uuid = Uuid::from_u128(0x0189_0a5d_ac96_774b_bcce_b302_099a_8057);

    fn xid(cluster_id: &str, participant: &str, number: u16) -> Xid {
        let (cluster_id, participant) = (cluster_id.to_owned(), participant.to_owned());
        Xid { cluster_id, participant, tx_id: TX, number }
    }

    /// The row of `XA RECOVER` for a name, made from its text.
    fn listed(xid: &Xid) -> (i64, (i64, i64), Vec<u8>) {
        let text = xid.to_string();
        let parts: Vec<&str> = text.split(',').collect();
        let bytes = |part: &str| -> Vec<u8> {
            let digits = part.trim_start_matches("X'").trim_end_matches('\'');
            let pairs = (0..digits.len()).step_by(2).map(|at| &digits[at..at + 2]);
            pairs.map(|pair| u8::from_str_radix(pair, 16).expect("two digits")).collect()
        };
        let (gtrid, bqual) = (bytes(parts[0]), bytes(parts[1]));
        assert!(gtrid.len() <= 64 && bqual.len() <= 64, "X/Open's limit: {text}");
        let len = |part: &[u8]| i64::try_from(part.len()).expect("a length");
        let lengths = (len(&gtrid), len(&bqual));
        (parts[2].parse().expect("a number"), lengths, [gtrid, bqual].concat())
    }

    #[test]
    fn a_name_fits_and_comes_back() {
        let longest = xid(&"c".repeat(CLUSTER_BYTES_MAX), &"p".repeat(NAME_BYTES_MAX), u16::MAX);
        for xid in [longest, xid("c.1", "bank_a:x-y", 1), xid("_", "0", 256)] {
            let (format_id, lengths, data) = listed(&xid);
            assert_eq!(Xid::parse(format_id, lengths, &data), Some(xid));
        }
    }

    #[test]
    fn the_digits_of_the_transaction_come_first() {
        let text = xid("c", "p", 7).to_string();
        assert_eq!(text, "X'01890a5dac96774bbcceb302099a8057000763',X'70',1431191886");
    }

    #[test]
    fn branches_of_a_transaction_differ_in_what_the_servers_compare() {
        let [first, second] = [1, 2].map(|number| listed(&xid("c", "p", number)));
        assert_ne!(first.2, second.2);
    }

    #[test]
    fn s12_other_peoples_names_are_no_names_of_ours() {
        let (format_id, (gtrid, bqual), data) = listed(&xid("c", "p", 1));
        assert!(Xid::parse(format_id, (gtrid, bqual), &data).is_some());
        let with = |at: usize, byte: u8| {
            let mut data = data.clone();
            data[at] = byte;
            data
        };
        for (what, format_id, lengths, data) in [
            ("format id", 1, (gtrid, bqual), data.clone()),
            ("no number", format_id, (16, 0), data[..16].to_vec()),
            ("no cluster", format_id, (18, 1), [&data[..18], b"p"].concat()),
            ("no participant", format_id, (19, 0), data[..19].to_vec()),
            ("number 0", format_id, (gtrid, bqual), with(17, 0)),
            ("alphabet of the cluster", format_id, (gtrid, bqual), with(18, b'/')),
            ("alphabet of the participant", format_id, (gtrid, bqual), with(19, 0xff)),
            ("lengths", format_id, (gtrid, bqual + 1), data.clone()),
            ("negative length", format_id, (-1, 21), data.clone()),
            ("short", format_id, (3, 1), data[..4].to_vec()),
            ("cluster too long", format_id, (18 + 33, 1), [&data[..18], &[b'c'; 34]].concat()),
        ] {
            assert_eq!(Xid::parse(format_id, lengths, &data), None, "{what}");
        }
    }
}
