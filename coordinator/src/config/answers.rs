//! Size of the largest answer that the limits allow, and the limit of clients.

use unanimo_core::ids::{ID_BYTES_MAX, NAME_BYTES_MAX};
use unanimo_core::{Limits, MEDIA_TYPE_BYTES_MAX, TEXT_BYTES_MAX};

use super::Config;
use crate::api::limits::{OPERATOR_BYTES_MAX, TIMELINE_BYTES_MAX, TIMELINE_ENTRIES_MAX};
use crate::store;

/// Most bytes of a message that gRPC clients accept by default, in Go, Java, Python and Node.js.
pub const CLIENT_BYTES_DEFAULT: usize = 4 << 20;

/// Texts of a branch: reason and message of its refusal, the first and the last error of Prepare
/// and of phase two, and the note of a heuristic outcome.
const BRANCH_TEXTS: usize = 7;

/// Tags, lengths, numbers and times of one branch, and tags and lengths of its texts.
const BRANCH_FIXED_BYTES: usize = 256;

/// Tags and lengths of a dependency, of an input, and of a lock with its mode and state.
const DEPENDENCY_FIXED_BYTES: usize = 4;
const INPUT_FIXED_BYTES: usize = 10;
const LOCK_FIXED_BYTES: usize = 14;

/// Tag and length of a line of the timeline.
const LINE_FIXED_BYTES: usize = 4;

/// Identifiers, states and times of a transaction.
const TRANSACTION_FIXED_BYTES: usize = 1024;

/// Most bytes on the wire for one byte of metadata: an entry with a key of one byte and an empty
/// value has a tag and a length of its own, and one of each for key and value.
const METADATA_FACTOR: usize = 7;

impl Config {
    /// Returns the largest size, in bytes, of an answer with one transaction in full: payloads,
    /// outputs, metadata, errors, notes and timeline, each at its limit.
    #[must_use]
    pub fn answer_bytes_max(&self) -> usize {
        let names = ID_BYTES_MAX + 2 * NAME_BYTES_MAX + 2 * MEDIA_TYPE_BYTES_MAX;
        // A note by an operator begins with the name.
        let texts = BRANCH_TEXTS * TEXT_BYTES_MAX + OPERATOR_BYTES_MAX;
        let branches = self.branches_max.saturating_mul(names + texts + BRANCH_FIXED_BYTES);
        // Branches name earlier ones, each once as a dependency and once as an input.
        let pairs = self.branches_max.saturating_mul(self.branches_max.saturating_sub(1)) / 2;
        // The transaction's own, and those of each branch.
        let Limits { locks_max, names_bytes_max, .. } = Limits::default();
        let locks = locks_max.saturating_mul(self.branches_max.saturating_add(1));
        [
            names_bytes_max,
            pairs.saturating_mul(DEPENDENCY_FIXED_BYTES + INPUT_FIXED_BYTES),
            locks.saturating_mul(LOCK_FIXED_BYTES),
            // Gid of the child that a branch is.
            self.branches_max.saturating_mul(ID_BYTES_MAX + DEPENDENCY_FIXED_BYTES),
            self.payloads_bytes_max,
            self.outputs_bytes_max,
            self.metadata_bytes_max.saturating_mul(METADATA_FACTOR),
            branches,
            TIMELINE_BYTES_MAX + TIMELINE_ENTRIES_MAX * LINE_FIXED_BYTES,
            TRANSACTION_FIXED_BYTES,
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }

    /// Returns warnings about allowed settings, to be logged when the coordinator starts. The program
    /// logs them; an embedder may.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let answer = self.answer_bytes_max();
        let large = (answer > CLIENT_BYTES_DEFAULT).then(|| {
            format!(
                "with these limits an answer may have up to {answer} bytes; clients in Go, Java, Python, \
                 Node.js and others accept {CLIENT_BYTES_DEFAULT} bytes by default: raise their limit \
                 for received messages"
            )
        });
        let open = self.insecure.then(|| {
            "insecure is set: addresses of other machines may be served without certificates, and calls to participants there \
             may be plaintext. Everybody on the way can read and change them, and whoever reaches the ports can commit and \
             roll back transactions"
                .to_owned()
        });
        large.into_iter().chain(open).chain(self.unguarded()).collect()
    }

    /// Returns warnings about callers, and about others on the way, who may do more than one would think.
    fn unguarded(&self) -> impl Iterator<Item = String> {
        let all_alike = self.tls_client_ca.is_set() && !self.identities.is_set();
        let all_alike = all_alike.then_some(
            "tls-client-ca is set and identities is not: every program with a certificate of these authorities has every \
             role, and can commit, roll back, resolve and forget all transactions and register as any participant; set \
             identities to say who may do what",
        );
        let is_unbounded =
            self.identities.is_set() && self.identity_rate == 0 && self.identity_calls == 0;
        let is_unbounded = is_unbounded.then_some(
            "identities is set, and neither identity-rate nor identity-calls is: one identity can take most of the time and \
             the places of the others; for a start set identity-rate to 1000 and identity-calls to 512",
        );
        let has_no_shares =
            all_alike.is_some() && self.address_rate == 0 && self.address_calls == 0;
        let has_no_shares = has_no_shares.then_some(
            "tls-client-ca is set without identities, and neither address-rate nor address-calls is: one program can take all \
             the places of the others; set identities and bound them, or for a start set address-rate to 1000 and \
             address-calls to 512",
        );
        let servers = store::unverified_servers(self.database_url.expose());
        let is_unverified = (!servers.is_empty()).then(|| {
            format!(
                "database-url does not find out who answers at {}, by sslmode=verify-full or verify-ca: whoever is on the way \
                 there can read and change everything that is stored",
                servers.join(", ")
            )
        });
        let told = all_alike.into_iter().chain(has_no_shares).chain(is_unbounded);
        let told = told.map(str::to_owned).chain(self.half_bounded());
        told.chain(is_unverified).chain(self.passed_over())
    }

    /// Returns a warning about parameters of the database's address that nobody reads.
    fn passed_over(&self) -> Option<String> {
        let (named, is_more) = store::passed_over(self.database_url.expose());
        let others = "others that are not known, whose names are not told: where a password has an &, write %26 for it";
        let all: Vec<_> = named.into_iter().chain(is_more.then_some(others)).collect();
        (!all.is_empty()).then(|| {
            format!(
                "database-url has parameters that are passed over, though they are given: {}",
                all.join(", ")
            )
        })
    }

    /// Returns warnings about bounds that hold less than one would think: half of a pair, and those of callers who are not
    /// there.
    fn half_bounded(&self) -> Vec<String> {
        let has_identities = self.identities.is_set();
        let pairs = [
            ("identity", "one identity", has_identities, self.identity_rate, self.identity_calls),
            (
                "namespace",
                "one namespace",
                has_identities,
                self.namespace_rate,
                self.namespace_calls,
            ),
            ("address", "one address", !has_identities, self.address_rate, self.address_calls),
        ];
        let told = pairs.into_iter().filter_map(|(of, whose, has_any, rate, calls)| {
            let is = if has_identities { "is" } else { "is not" };
            Some(match (rate > 0, calls > 0) {
                (false, false) => return None,
                _ if !has_any => format!(
                    "{of}-rate or {of}-calls is set, and bounds nobody, because identities {is} set"
                ),
                (true, true) => return None,
                (true, false) => format!(
                    "{of}-rate is set and {of}-calls is not: calls of {whose} that wait, and streams, can take the places \
                     of others; for a start set {of}-calls to 512"
                ),
                (false, true) => format!(
                    "{of}-calls is set and {of}-rate is not: {whose} can take the time of others by calls that are short; \
                     for a start set {of}-rate to 1000"
                ),
            })
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DatabaseUrl;

    #[test]
    fn every_answer_fits_into_what_clients_take_by_default() {
        let config = Config::default();
        let answer = config.answer_bytes_max();
        assert!(answer <= CLIENT_BYTES_DEFAULT, "{answer} bytes");
        assert_eq!(config.warnings(), [""; 0]);
    }

    #[test]
    fn defaults_are_those_of_the_core() {
        assert_eq!(Config::default().engine().policy, unanimo_core::Policy::default());
    }

    #[test]
    fn what_is_not_safe_is_told() {
        let config = Config { insecure: true, ..Config::default() };
        let warnings = config.warnings();
        assert!(warnings.len() == 1 && warnings[0].contains("insecure is set"), "{warnings:?}");
    }

    #[test]
    fn callers_who_may_do_more_than_one_would_think_are_told() {
        let file = || "x.pem".parse().expect("a path");
        let warnings = |change: &dyn Fn(&mut Config)| {
            let mut config = Config { tls_client_ca: file(), ..Config::default() };
            change(&mut config);
            config.warnings()
        };
        let [first, second] = &warnings(&|_| ())[..] else { panic!("two") };
        assert!(first.contains("every program with a certificate"), "{first}");
        assert!(second.contains("neither address-rate nor address-calls"), "{second}");
        let bounded = |config: &mut Config| (config.address_rate, config.address_calls) = (1, 1);
        let [only] = &warnings(&bounded)[..] else { panic!("one") };
        assert!(only.contains("every program with a certificate"), "{only}");
        let [only] = &warnings(&|config| config.identities = file())[..] else { panic!("one") };
        assert!(only.contains("neither identity-rate nor identity-calls"), "{only}");
        let warnings = warnings(&|config| {
            config.identities = file();
            (config.identity_rate, config.identity_calls) = (1, 1);
        });
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn half_a_bound_and_one_of_nobody_are_told() {
        type Change = fn(&mut Config);
        let cases: [(bool, Change, &str); 10] = [
            (true, |of| of.identity_rate = 1, "identity-rate is set and identity-calls is not"),
            (true, |of| of.identity_calls = 1, "identity-calls is set and identity-rate is not"),
            (true, |of| of.namespace_rate = 1, "namespace-rate is set and namespace-calls is not"),
            (true, |of| of.namespace_calls = 1, "namespace-calls is set and namespace-rate is not"),
            (false, |of| of.address_rate = 1, "address-rate is set and address-calls is not"),
            (false, |of| of.address_calls = 1, "address-calls is set and address-rate is not"),
            (true, |of| of.address_calls = 1, "bounds nobody, because identities is set"),
            (false, |of| of.identity_rate = 1, "bounds nobody, because identities is not set"),
            (
                false,
                |of| (of.identity_rate, of.identity_calls) = (1, 1),
                "bounds nobody, because identities is not set",
            ),
            (false, |of| of.namespace_calls = 1, "bounds nobody, because identities is not set"),
        ];
        for (has_identities, change, expected) in cases {
            let mut config = Config::default();
            if has_identities {
                config.identities = "x.toml".parse().expect("a path");
                (config.identity_rate, config.identity_calls) = (1, 1);
                if expected.starts_with("identity") {
                    (config.identity_rate, config.identity_calls) = (0, 0);
                }
            }
            change(&mut config);
            let [only] = &config.warnings()[..] else {
                panic!("{expected}: {:?}", config.warnings())
            };
            assert!(only.contains(expected), "{expected} in: {only}");
        }
        let mut config = Config::default();
        (config.address_rate, config.address_calls) = (1, 1);
        assert_eq!(config.warnings(), [""; 0]);
    }

    #[test]
    fn a_database_that_may_be_anybody_is_told() {
        let database_url = DatabaseUrl::new("postgres://ann:secret@db:7/x?sslmode=require");
        let config = Config { database_url, ..Config::default() };
        let [only] = &config.warnings()[..] else { panic!("one") };
        assert!(
            only.contains("at db:7, by sslmode=verify-full") && !only.contains("secret"),
            "{only}"
        );
    }

    #[test]
    fn parameters_of_the_database_that_nobody_reads_are_told() {
        let url = "postgres://ann@127.0.0.1/x?channel_binding=require&passwd=secret";
        let config = Config { database_url: DatabaseUrl::new(url), ..Config::default() };
        let [only] = &config.warnings()[..] else { panic!("one") };
        assert!(only.contains("are given: channel_binding, others that are not known"), "{only}");
        assert!(!only.contains("secret") && !only.contains("passwd"), "{only}");
    }

    #[test]
    fn larger_limits_tell_which_clients_must_raise_theirs() {
        let config = Config { outputs_bytes_max: 4 << 20, ..Config::default() };
        let warnings = config.warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("Go, Java, Python"), "{warnings:?}");
        assert!(!warnings[0].contains('\n'), "{warnings:?}");
    }
}
