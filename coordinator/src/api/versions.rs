//! Versions of a participant, and whether one of them may be switched off.
//!
//! Nothing is bound to a version: a call goes to any endpoint that is alive. So what a version alone can do is what its
//! features say that no other one can.

use std::collections::BTreeSet;

use unanimo_core::{ParticipantName, Timestamp};
use unanimo_proto::v1;

use crate::participants::directory::listing::Version;
use crate::wire::time_to_wire;

/// Most versions of a participant that are told.
const VERSIONS_MAX: usize = 16;

/// Makes the versions of a participant that is owed so many transactions.
pub(super) fn told(
    name: &ParticipantName,
    found: &[Version],
    owed: usize,
    now: Timestamp,
) -> Vec<v1::ParticipantVersion> {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let versions = found.iter().enumerate().take(VERSIONS_MAX).map(|(place, version)| {
        let others = found.iter().enumerate().filter(|(other, _)| *other != place);
        let others: Vec<&Version> = others.map(|(_, other)| other).collect();
        let (may_switch_off, sentence) = judged(name.local(), version, &others, owed);
        let silent_ms = u64::try_from(version.silent_for.as_millis()).unwrap_or(u64::MAX);
        v1::ParticipantVersion {
            sdk: version.sdk.clone(),
            features: version.features.iter().cloned().collect(),
            instance_count: count(version.instances),
            alive_count: count(version.alive),
            last_seen_at: Some(time_to_wire(Timestamp(now.0.saturating_sub(silent_ms)))),
            may_switch_off,
            sentence,
        }
    });
    versions.collect()
}

/// Tells whether a version may be switched off, and why.
fn judged(name: &str, version: &Version, others: &[&Version], owed: usize) -> (bool, String) {
    let instances = |count: usize| match count {
        1 => "1 instance".to_owned(),
        count => format!("{count} instances"),
    };
    let waits = match owed {
        1 => format!("1 transaction is owed to {name}"),
        owed => format!("{owed} transactions are owed to {name}"),
    };
    if !version.is_known && owed > 0 {
        let unknown =
            "their version is not known: they have not registered since this coordinator started";
        return (false, format!("No: {waits}, and {unknown}."));
    }
    let alive = others.iter().filter(|other| other.alive > 0 && other.is_known);
    let know = alive.clone().filter(|other| other.features.is_superset(&version.features));
    let knowing: usize = know.map(|other| other.alive).sum();
    if knowing > 0 {
        let them = instances(knowing);
        let (are, know) = if knowing == 1 { ("is", "knows") } else { ("are", "know") };
        let of_it = if version.alive == 0 { "It is off" } else { "Yes" };
        return (
            true,
            format!(
                "{of_it}: {them} of other versions {are} alive and {know} its features, so what is owed is sent there."
            ),
        );
    }
    if owed == 0 {
        let of_it = if version.alive == 0 { "It is off" } else { "Yes" };
        return (true, format!("{of_it}: this coordinator owes nothing to {name}."));
    }
    let missing: BTreeSet<&String> =
        alive.flat_map(|other| version.features.difference(&other.features)).collect();
    if !missing.is_empty() {
        let names: Vec<&str> = missing.into_iter().map(String::as_str).collect();
        let names = names.join(", ");
        return (
            false,
            format!("No: {waits}, and the other versions that are alive lack {names}."),
        );
    }
    match version.alive {
        0 => (false, format!("It is off, and so are all others: {waits}.")),
        _ => (false, format!("No: {waits}, and no other version is alive.")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn version(sdk: &str, features: &[&str], alive: usize) -> Version {
        Version {
            is_known: true,
            sdk: sdk.to_owned(),
            features: features.iter().map(|name| (*name).to_owned()).collect(),
            instances: 3,
            alive,
            silent_for: Duration::from_millis(1500),
        }
    }

    #[track_caller]
    fn check(found: &[Version], owed: usize, expected: &[(bool, &str)]) {
        let name = ParticipantName::new("bank").expect("a name");
        let told = told(&name, found, owed, Timestamp(10_000));
        let told: Vec<_> =
            told.iter().map(|of| (of.may_switch_off, of.sentence.as_str())).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn a_version_may_go_where_nothing_waits_for_it() {
        let (old, new) = (version("1", &["tcc"], 1), version("2", &["saga", "tcc"], 2));
        check(&[], 3, &[]);
        check(
            std::slice::from_ref(&old),
            0,
            &[(true, "Yes: this coordinator owes nothing to bank.")],
        );
        check(
            std::slice::from_ref(&old),
            1,
            &[(false, "No: 1 transaction is owed to bank, and no other version is alive.")],
        );
        check(
            &[new, old.clone()],
            7,
            &[
                (
                    false,
                    "No: 7 transactions are owed to bank, and the other versions that are alive lack saga.",
                ),
                (
                    true,
                    "Yes: 2 instances of other versions are alive and know its features, so what is owed is sent there.",
                ),
            ],
        );
        let off = version("2", &["tcc"], 0);
        check(
            &[old.clone(), off.clone()],
            7,
            &[
                (false, "No: 7 transactions are owed to bank, and no other version is alive."),
                (
                    true,
                    "It is off: 1 instance of other versions is alive and knows its features, so what is owed is sent there.",
                ),
            ],
        );
        let unknown = Version { is_known: false, ..version("", &[], 1) };
        check(
            &[old, unknown],
            2,
            &[
                (false, "No: 2 transactions are owed to bank, and no other version is alive."),
                (
                    false,
                    "No: 2 transactions are owed to bank, and their version is not known: they have not registered since this coordinator started.",
                ),
            ],
        );
        let never = version("3", &["xa"], 0);
        check(
            &[off, never],
            2,
            &[
                (false, "It is off, and so are all others: 2 transactions are owed to bank."),
                (false, "It is off, and so are all others: 2 transactions are owed to bank."),
            ],
        );
    }

    #[test]
    fn the_first_versions_are_told_and_all_are_judged_by() {
        let mut found: Vec<_> = (0..20).map(|n| version(&n.to_string(), &["one"], 1)).collect();
        found[19].features.insert("two".to_owned());
        found[0].features.insert("two".to_owned());
        let name = ParticipantName::new("bank").expect("a name");
        let told = told(&name, &found, 1, Timestamp(10_000));
        assert_eq!(told.len(), VERSIONS_MAX);
        assert!(told[0].may_switch_off, "the last one knows the same: {}", told[0].sentence);
        assert_eq!(told[0].last_seen_at, Some(time_to_wire(Timestamp(8_500))));
    }
}
