//! Rules for the issuer of tokens.

use super::{Config, Rules};
use crate::config::values::KeysAt;
use crate::outbound::parse_url;

impl Config {
    pub(super) fn check_issuer(&self, rules: &mut Rules) {
        let issuer = [("jwt-issuer", &self.jwt_issuer), ("jwt-audience", &self.jwt_audience)];
        for (key, text) in issuer {
            let together = self.jwt_keys.is_set() != text.is_empty();
            rules.check(together, key, || "must be set together with jwt-keys".to_owned());
        }
        rules.check(!self.jwt_keys.is_set() || self.identities.is_set(), "jwt-keys", || {
            "needs identities: a token's claim is one's of them".to_owned()
        });
        rules.check(!self.jwt_claim.is_empty(), "jwt-claim", || "must not be empty".to_owned());
        let asked = match self.jwt_keys.place() {
            Some(KeysAt::Url(url)) => Some(("jwt-keys", url)),
            Some(KeysAt::Discovered) => Some(("jwt-issuer", self.jwt_issuer.as_str())),
            Some(KeysAt::File(_)) | None => None,
        };
        rules.check(asked.is_some() || !self.jwt_keys_ca.is_set(), "jwt-keys-ca", || {
            "needs jwt-keys that are fetched: an address, or discover".to_owned()
        });
        // An issuer that must be set is told above.
        if let Some((key, url)) = asked.filter(|(_, url)| !url.is_empty())
            && let Err(rule) = parse_url(url, self.plain())
        {
            rules.check(false, key, || rule.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Config), expected: &str) {
        let mut config = Config::default();
        change(&mut config);
        let found: Vec<String> = config.violations().iter().map(ToString::to_string).collect();
        assert_eq!(found.join("; "), expected);
    }

    #[test]
    fn an_issuer_is_set_as_a_whole() {
        check(
            |c| c.jwt_keys = "x".parse().expect("any text"),
            "jwt-issuer must be set together with jwt-keys; jwt-audience must be set together with jwt-keys; \
             jwt-keys needs identities: a token's claim is one's of them",
        );
        check(
            |c| c.jwt_audience = "unanimo".to_owned(),
            "jwt-audience must be set together with jwt-keys",
        );
    }

    #[test]
    fn keys_are_fetched_over_tls_or_on_this_machine() {
        let with = |keys: &str, issuer: &str| {
            let (keys, issuer) = (keys.to_owned(), issuer.to_owned());
            move |c: &mut Config| {
                c.jwt_keys = keys.parse().expect("any text");
                c.jwt_keys_ca = "ca.pem".parse().expect("any text");
                (c.jwt_issuer, c.jwt_audience) = (issuer, "unanimo".to_owned());
                c.identities = "identities.toml".parse().expect("any text");
            }
        };
        let plain = "must begin with https://, because it is on another machine, unless the setting insecure \
                     allows it";
        for (keys, issuer, expected) in [
            ("https://login.example/keys", "any", ""),
            ("http://127.0.0.1:8/keys", "any", ""),
            ("discover", "https://login.example/realm", ""),
            ("http://login.example/keys", "any", &*format!("jwt-keys {plain}")),
            ("discover", "http://login.example", &format!("jwt-issuer {plain}")),
            ("discover", "login", "jwt-issuer must be https://HOST/PATH, or http://HOST/PATH"),
            (
                "https://me:secret@login.example/keys",
                "any",
                "jwt-keys must have no name and no password before its host",
            ),
            (
                "keys.json",
                "any",
                "jwt-keys-ca needs jwt-keys that are fetched: an address, or discover",
            ),
        ] {
            check(with(keys, issuer), expected);
        }
        check(
            |c| {
                with("http://login.example/keys", "any")(c);
                c.insecure = true;
            },
            "",
        );
        check(
            |c| c.jwt_keys_refresh = crate::config::Period::secs(25 * 60 * 60),
            "jwt-keys-refresh must be at most jwt-keys-age-max, 24h; is 25h",
        );
    }
}
