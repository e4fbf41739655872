//! Names of prepared transactions.

use uuid::Uuid;

use crate::handler::Branch;
use crate::names::{CLUSTER_BYTES_MAX, NAME_BYTES_MAX, is_name};

/// Beginning of every name of ours.
pub(super) const PREFIX: &str = "u/";

/// Name of a branch's prepared transaction: under 200 bytes, of an alphabet that needs no quoting.
/// The identifiers were checked when the call came in.
pub(super) fn name(branch: &Branch) -> String {
    let Branch { cluster_id, participant, tx_id, number, .. } = branch;
    format!("{PREFIX}{cluster_id}/{participant}/{tx_id}/{number}")
}

/// Parts of such a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed<'a> {
    pub(super) cluster_id: &'a str,
    pub(super) participant: &'a str,
    pub(super) tx_id: Uuid,
    pub(super) number: u16,
}

/// Reads a name. Whatever [`name`] would not have written is somebody else's.
pub(super) fn parse(text: &str) -> Option<Parsed<'_>> {
    let mut parts = text.strip_prefix(PREFIX)?.split('/');
    let (cluster_id, participant) = (parts.next()?, parts.next()?);
    let (tx_id, number) = (parts.next()?, parts.next()?);
    if parts.next().is_some()
        || !is_name(cluster_id, CLUSTER_BYTES_MAX)
        || !is_name(participant, NAME_BYTES_MAX)
    {
        return None;
    }
    let parsed = Parsed {
        cluster_id,
        participant,
        tx_id: Uuid::try_parse(tx_id).ok()?,
        number: number.parse().ok().filter(|number| *number > 0)?,
    };
    let same = parsed.tx_id.to_string() == tx_id && parsed.number.to_string() == number;
    same.then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TX: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn branch(cluster_id: &str, participant: &str) -> Branch {
        Branch {
            tx_id: Uuid::try_parse(TX).expect("a UUID"),
            gid: "g".into(),
            branch_id: "b".into(),
            number: u32::from(u16::MAX),
            cluster_id: cluster_id.into(),
            participant: participant.into(),
        }
    }

    #[test]
    fn a_name_fits_needs_no_quoting_and_comes_back() {
        let longest = name(&branch(&"c".repeat(CLUSTER_BYTES_MAX), &"p".repeat(NAME_BYTES_MAX)));
        // PostgreSQL's GIDSIZE, the NUL included.
        assert!(longest.len() < 200, "{} bytes", longest.len());
        let name = name(&branch("c.1", "bank_a:x-y"));
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:-/".contains(c);
        assert!(name.chars().all(allowed), "{name}");
        let parsed = parse(&name).expect("a name of ours");
        assert_eq!((parsed.cluster_id, parsed.participant), ("c.1", "bank_a:x-y"));
        assert_eq!((parsed.tx_id.to_string().as_str(), parsed.number), (TX, u16::MAX));
    }

    #[test]
    fn s12_other_peoples_names_are_no_names_of_ours() {
        let upper = TX.to_uppercase();
        for foreign in [
            "",
            "u/",
            "backup",
            TX,
            &format!("u/c/p/{TX}"),
            &format!("u/c/p/{TX}/"),
            &format!("u/c/p/{TX}/0"),
            &format!("u/c/p/{TX}/01"),
            &format!("u/c/p/{TX}/+1"),
            &format!("u/c/p/{TX}/65536"),
            &format!("u/c/p/{TX}/1/2"),
            &format!("u/c/p/{upper}/1"),
            &format!("u/c/p/{}/1", TX.replace('-', "")),
            &format!("u//p/{TX}/1"),
            &format!("u/c//{TX}/1"),
            &format!("u/c d/p/{TX}/1"),
            &format!("v/c/p/{TX}/1"),
            &format!("U/c/p/{TX}/1"),
            &format!(" u/c/p/{TX}/1"),
        ] {
            assert_eq!(parse(foreign), None, "{foreign}");
        }
    }
}
