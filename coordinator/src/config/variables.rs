//! Variables of the environment that nobody reads: each is a mistake, and a misspelt one would leave
//! its setting at the default.

use std::ffi::{OsStr, OsString};

use unanimo_core::Violation;

use super::Config;

/// Variables of the program that are no settings of a coordinator.
const OTHERS: [&str; 8] = [
    "UNANIMO_CONFIG",
    "UNANIMO_ENDPOINT",
    "UNANIMO_CLIENT_TLS_CA",
    "UNANIMO_CLIENT_TLS_CERT",
    "UNANIMO_CLIENT_TLS_KEY",
    "UNANIMO_CLIENT_TLS_NAME",
    "UNANIMO_CLIENT_TOKEN_FILE",
    "UNANIMO_CLIENT_INSECURE",
];

/// Variables of this repository's tests.
#[cfg(feature = "failpoints")]
const TESTS: [&str; 2] = ["UNANIMO_CRASH_AT", "UNANIMO_CASES"];
#[cfg(not(feature = "failpoints"))]
const TESTS: [&str; 0] = [];

const PREFIX: &str = "UNANIMO_";

/// Letters by which a variable without the prefix may differ from a known one, to be taken for it:
/// `UNAMINO_LISTEN` is a mistake, and `LISTEN` is not ours.
const NEAR: usize = 2;

/// Returns a violation for each variable that looks like one of Unanimo's and is none, with the name
/// that was probably meant.
pub fn unknown_variables(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<Violation> {
    let described = Config::described();
    let settings = described.iter().map(|setting| setting.env).filter(|env| !env.is_empty());
    let known: Vec<&str> = settings.chain(OTHERS).chain(TESTS).collect();
    let mut unknown: Vec<Violation> =
        variables.into_iter().filter_map(|(name, value)| check(&name, &value, &known)).collect();
    unknown.sort_by(|one, two| one.field.cmp(&two.field));
    unknown
}

fn check(name: &OsStr, value: &OsStr, known: &[&str]) -> Option<Violation> {
    let name = name.to_string_lossy();
    if known.contains(&&*name) {
        return None;
    }
    let upper = name.to_uppercase();
    let nearest = known.iter().map(|known| (distance(&upper, known), *known));
    let (distance, nearest) = nearest.min_by_key(|(distance, _)| *distance)?;
    let is_ours = upper.starts_with(PREFIX) && !is_of_a_service(&name, &value.to_string_lossy());
    if !is_ours && strsim::osa_distance(&upper, nearest) > NEAR {
        return None;
    }
    // Half of the letters may differ: more would be another word.
    let longest = upper.len().max(nearest.len()).saturating_sub(PREFIX.len());
    let hint = match distance <= longest / 2 {
        true => format!("; did you mean {nearest}?"),
        false => String::new(),
    };
    Some(Violation::new(name, format!("is no variable that unanimo reads{hint}")))
}

/// Returns the key of a setting that was probably meant by one that is none.
pub(super) fn nearest_key(key: &str) -> Option<String> {
    let described = Config::described();
    let variable = |key: &str| PREFIX.to_owned() + &key.to_uppercase().replace('-', "_");
    let meant = variable(key);
    let near = described.iter().map(|setting| {
        let known = variable(&setting.key);
        let longest = meant.len().max(known.len()) - PREFIX.len();
        (distance(&meant, &known), longest, &setting.key)
    });
    let (distance, longest, key) = near.min_by_key(|(distance, ..)| *distance)?;
    // As for a variable.
    (distance <= longest / 2).then(|| key.clone())
}

/// Number of letters to insert, remove, replace or swap, less the letters of whole words that both have.
/// A name that goes on after a known one, or ends before it, is near: `UNANIMO_DATABASE`.
fn distance(name: &str, known: &str) -> usize {
    let distance = strsim::osa_distance(name, known);
    let words = |text: &str| text.split('_').skip(1).map(str::to_owned).collect::<Vec<_>>();
    let (own, theirs) = (words(name), words(known));
    let shared: usize = own.iter().filter(|word| theirs.contains(word)).map(String::len).sum();
    let is_part = name.len() > PREFIX.len() && (known.starts_with(name) || name.starts_with(known));
    let most = if is_part { NEAR } else { usize::MAX };
    distance.saturating_sub(shared).max(1).min(most)
}

/// Tells whether a variable is one of those that Kubernetes, or Docker's links, make for a service
/// whose name begins with `unanimo`.
fn is_of_a_service(name: &str, value: &str) -> bool {
    let parts: Vec<&str> = name.split('_').collect();
    let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_protocol = |text: &&str| matches!(*text, "TCP" | "UDP" | "SCTP");
    match &parts[1..] {
        [.., "SERVICE", "HOST" | "PORT"] | [.., "SERVICE", "PORT", _] => true,
        [.., "PORT", number, protocol] if is_number(number) && is_protocol(protocol) => true,
        [.., "PORT", number, protocol, "PROTO" | "PORT" | "ADDR"] => {
            is_number(number) && is_protocol(protocol)
        }
        [.., "PORT"] => ["tcp://", "udp://", "sctp://"].iter().any(|p| value.starts_with(p)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, value: &str, expected: Option<&str>) {
        let found = unknown_variables([(name.into(), value.into())]);
        let found: Vec<String> = found.iter().map(Violation::to_string).collect();
        assert_eq!(found.first().map(String::as_str), expected, "{name}={value}");
    }

    #[test]
    fn a_misspelt_variable_is_told_with_the_one_that_was_meant() {
        let meant = |name: &str, meant: &str| {
            let told = format!("{name} is no variable that unanimo reads; did you mean {meant}?");
            check(name, "x", Some(&told));
        };
        meant("UNANIMO_DATABASEURL", "UNANIMO_DATABASE_URL");
        meant("UNANIMO_DATABSE_URL", "UNANIMO_DATABASE_URL");
        meant("UNANIMO_DATABASE", "UNANIMO_DATABASE_URL");
        meant("UNANIMO_DB_URL", "UNANIMO_DATABASE_URL");
        meant("UNANIMO_DATABASE-URL", "UNANIMO_DATABASE_URL");
        meant("unanimo_database_url", "UNANIMO_DATABASE_URL");
        meant("UNAMINO_DATABASE_URL", "UNANIMO_DATABASE_URL");
        meant("UNANIMODATABASE_URL", "UNANIMO_DATABASE_URL");
        meant("UNANIMO_LISTENS", "UNANIMO_LISTEN");
        meant("UNANIMO_CONFIGURATION", "UNANIMO_CONFIG");
        check("UNANIMO_FRUIT", "x", Some("UNANIMO_FRUIT is no variable that unanimo reads"));
        check("UNANIMO_", "x", Some("UNANIMO_ is no variable that unanimo reads"));
        check("UNANIMO_PORT", "7610", Some("UNANIMO_PORT is no variable that unanimo reads"));
    }

    #[test]
    fn what_is_known_or_somebody_elses_is_accepted() {
        for setting in Config::described() {
            check(setting.env, "x", None);
        }
        for name in ["UNANIMO_CONFIG", "UNANIMO_ENDPOINT", "PATH", "LISTEN", "DATABASE_URL", ""] {
            check(name, "x", None);
        }
        for (name, value) in [
            ("UNANIMO_SERVICE_HOST", "10.0.0.1"),
            ("UNANIMO_SERVICE_PORT", "7610"),
            ("UNANIMO_SERVICE_PORT_GRPC", "7610"),
            ("UNANIMO_PORT", "tcp://10.0.0.1:7610"),
            ("UNANIMO_PORT_7610_TCP", "tcp://10.0.0.1:7610"),
            ("UNANIMO_PORT_7610_TCP_PROTO", "tcp"),
            ("UNANIMO_PORT_7610_TCP_PORT", "7610"),
            ("UNANIMO_PORT_7610_TCP_ADDR", "10.0.0.1"),
            ("UNANIMO_ADMIN_SERVICE_HOST", "10.0.0.1"),
            ("UNANIMO_ADMIN_PORT", "tcp://10.0.0.1:7611"),
        ] {
            check(name, value, None);
        }
    }
}
