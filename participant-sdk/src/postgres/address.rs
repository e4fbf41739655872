//! The address of a database, without what the driver would repeat in the log.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use crate::schema::Error;

/// Parameters that the driver knows. Any other one it passes over with a line in the log that has its value, which may be a
/// password under a name that is misspelt.
const KNOWN: [&str; 18] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// Reads an address.
///
/// # Errors
/// It is none.
pub(super) fn read(url: &str) -> Result<PgConnectOptions, Error> {
    let (known, left_out) = known_only(url);
    if left_out > 0 {
        tracing::warn!(
            left_out,
            "the address of the database has parameters that are not known, and are left out; an & in a password is \
             written %26"
        );
    }
    PgConnectOptions::from_str(&known).map_err(|error| Error::Url(error.to_string()))
}

/// Returns an address without the parameters that are not known, and their number.
fn known_only(url: &str) -> (String, usize) {
    let Some((place, query)) = url.split_once('?') else { return (url.to_owned(), 0) };
    let is_known = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        // As the driver reads it.
        let name = &*percent_encoding::percent_decode_str(name).decode_utf8_lossy();
        let is_option = name.starts_with("options[") && name.ends_with(']');
        KNOWN.contains(&name) || is_option
    };
    let given = query.split('&').filter(|parameter| !parameter.is_empty());
    let (known, others): (Vec<_>, Vec<_>) = given.partition(is_known);
    (format!("{place}?{}", known.join("&")), others.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_does_not_know_is_left_out() {
        for (url, expected, left_out) in [
            ("postgres://u@h/db", "postgres://u@h/db", 0),
            (
                "postgres://u@h/db?sslmode=require&user=x",
                "postgres://u@h/db?sslmode=require&user=x",
                0,
            ),
            ("postgres://u@h/db?options[a]=b", "postgres://u@h/db?options[a]=b", 0),
            (
                "postgres://u@h/db?options%5Ba%5D=b&ssl%6Dode=require",
                "postgres://u@h/db?options%5Ba%5D=b&ssl%6Dode=require",
                0,
            ),
            ("postgres://u@h/db?passwd=secret&user=x", "postgres://u@h/db?user=x", 1),
            ("postgres://u@h/db?password=a&secret", "postgres://u@h/db?password=a", 1),
            ("postgres://u@h/db?sslpassword=secret", "postgres://u@h/db?", 1),
        ] {
            assert_eq!(known_only(url), (expected.to_owned(), left_out), "{url}");
            read(expected).expect(expected);
        }
    }
}
