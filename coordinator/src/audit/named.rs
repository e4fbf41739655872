//! Changes of named things: identities, keys of an issuer, tokens.

use sha2::{Digest, Sha256};

use super::chain::hex;
use super::entry::{Entry, Kind, bounded};
use crate::identity::AllTold;

/// Bytes of the hash that tells whether something changed while no coordinator ran.
const FINGERPRINT_BYTES: usize = 8;

/// Makes the entry about what is used from the start.
pub(crate) fn started(setting: &str, all: &AllTold, fingerprint: Fingerprint) -> Entry {
    let of_all = match fingerprint {
        Fingerprint::Shown => format!(" (fingerprint {})", print_of(all)),
        Fingerprint::Kept => String::new(),
    };
    let names: Vec<_> = all.keys().map(String::as_str).collect();
    let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
    entry(setting, format!("in use from the start{of_all}: {names}"))
}

/// Decision whether a hash over all is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fingerprint {
    /// It is of what is public, or of hashes of random tokens.
    Shown,
    /// It could help to guess a token.
    Kept,
}

/// Makes the entry about a change; `None` if nothing is another one.
pub(crate) fn changes(setting: &str, before: &AllTold, now: &AllTold) -> Option<Entry> {
    let mut told = Vec::new();
    for (name, new) in now {
        let shown = |told: &str| if told.is_empty() { String::new() } else { format!(" ({told})") };
        match before.get(name) {
            None => told.push(format!("added {name}{}", shown(&new.shown))),
            Some(old) if old == new => {}
            Some(old) if old.shown == new.shown => {
                told.push(format!("changed {name}{}", shown(&new.shown)));
            }
            Some(old) => told.push(format!("changed {name} ({}) to ({})", old.shown, new.shown)),
        }
    }
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    told.extend(gone.map(|name| format!("removed {name}")));
    (!told.is_empty()).then(|| entry(setting, told.join("; ")))
}

/// Makes the entry about a change of which no more is told.
pub(crate) fn changed(setting: &str, what: &str) -> Entry {
    entry(setting, what.to_owned())
}

fn entry(setting: &str, reason: String) -> Entry {
    let act = setting.to_owned();
    Entry { act, reason: bounded(reason), ..Entry::new(Kind::Changed) }
}

fn print_of(all: &AllTold) -> String {
    let mut hash = Sha256::new();
    for (name, told) in all {
        hash.update(name);
        hash.update(&told.hash);
    }
    hex(&hash.finalize()[..FINGERPRINT_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Told;

    fn all(of: &[(&str, &str, &str)]) -> AllTold {
        let told = |(name, shown, secret): &(&str, &str, &str)| {
            let told = Told::new((*shown).to_owned(), &[shown.as_bytes(), secret.as_bytes()]);
            ((*name).to_owned(), told)
        };
        of.iter().map(told).collect()
    }

    #[test]
    fn a_change_is_told_by_names_and_without_secrets() {
        let before = all(&[
            ("ann", "operator, tokens: 1", "s1"),
            ("bob", "viewer", "s2"),
            ("eve", "", "s3"),
        ]);
        let now = all(&[
            ("ann", "operator, tokens: 1", "s4"),
            ("bob", "operator", "s2"),
            ("web", "", "s5"),
        ]);
        let entry = changes("identities", &before, &now).expect("a change");
        assert_eq!((entry.kind, &*entry.act), (Kind::Changed, "identities"));
        assert_eq!(
            entry.reason,
            "changed ann (operator, tokens: 1); changed bob (viewer) to (operator); added web; removed eve"
        );
        assert_eq!(changes("identities", &now, &now), None);
        let told = |all: &AllTold| started("identities", all, Fingerprint::Shown).reason;
        assert!(told(&now).ends_with("): ann, bob, web"), "{}", told(&now));
        assert_ne!(told(&before), told(&all(&[("ann", "operator, tokens: 1", "s4")])));
        let kept = started("participant-tokens", &now, Fingerprint::Kept);
        assert_eq!(kept.reason, "in use from the start: ann, bob, web");
        let many: Vec<String> = (0..999).map(|number| format!("name-{number}")).collect();
        let many = all(&many.iter().map(|name| (&**name, "", "")).collect::<Vec<_>>());
        assert!(changes("identities", &now, &many).expect("a change").reason.len() < 2_100);
    }
}
