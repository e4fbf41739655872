//! The servers that a database URL names.
//!
//! A URL may name several, as libpq's may: `postgres://user@one:5432,two:5432/db`. They are one
//! database, of which one server at a time takes writes. The driver knows single servers only, so a
//! URL becomes one for each of them.

use std::str::FromStr;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::super::Error;

/// Most servers of a URL. More would not be tried within a heartbeat's time.
const SERVERS_MAX: usize = 8;

/// Parameters that are read here.
const OWN: [&str; 6] =
    ["connect_timeout", "host", "hostaddr", "load_balance_hosts", "port", "target_session_attrs"];

/// Parameters that the driver reads.
const DRIVER: [&str; 15] = [
    "application_name",
    "dbname",
    "options",
    "password",
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

/// Parameters of libpq that nobody reads.
const LIBPQ: [&str; 33] = [
    "channel_binding",
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "max_protocol_version",
    "min_protocol_version",
    "passfile",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcertmode",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslkeylogfile",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "tcp_user_timeout",
];

/// A server of the database.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// Its name in log lines and errors: host and port.
    pub(super) name: String,
    pub(super) options: PgConnectOptions,
}

/// The servers of a URL, in its order, and the longest time that connecting to one may take.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) servers: Vec<Server>,
    pub(super) connect_timeout: Option<Duration>,
}

/// Parts of a URL. `hosts` are those in front of the path, `lists` those in the parameters.
struct Parts<'a> {
    scheme: &'a str,
    user: &'a str,
    hosts: Vec<&'a str>,
    path: &'a str,
    /// Parameters that every server has.
    common: Vec<&'a str>,
    /// Parameters with an element for each server, or one for all.
    lists: Vec<(&'a str, Vec<String>)>,
    connect_timeout: Option<Duration>,
}

/// Reads a URL.
///
/// # Errors
/// [`Error::Url`], with the rule that it breaks.
pub(super) fn parse(url: &str) -> Result<Address, Error> {
    let parts = Parts::of(url)?;
    let listed = parts.lists.iter().filter(|(name, _)| *name != "port");
    let listed = listed.map(|(_, elements)| elements.len()).max();
    let count = listed.unwrap_or(0).max(parts.hosts.len());
    if count > SERVERS_MAX {
        return Err(bad(format!("must name at most {SERVERS_MAX} hosts, names {count}")));
    }
    let servers = (0..count).map(|index| parts.server(index, count)).collect::<Result<_, _>>()?;
    Ok(Address { servers, connect_timeout: parts.connect_timeout })
}

/// Returns the names of libpq's parameters in a URL that are passed over, and whether there are others: what is no name of a
/// parameter may be a part of a password.
pub(crate) fn passed_over(url: &str) -> (Vec<&'static str>, bool) {
    let (Some(("postgres" | "postgresql", _)), Some((_, query))) =
        (url.split_once("://"), url.split_once('?'))
    else {
        return (Vec::new(), false);
    };
    let names = query.split('&').filter(|parameter| !parameter.is_empty());
    let names =
        names.map(|parameter| parameter.split_once('=').map_or(parameter, |(name, _)| name));
    let unknown: Vec<_> = names.filter(|name| !OWN.contains(name) && !is_of_driver(name)).collect();
    let named: Vec<_> = LIBPQ.into_iter().filter(|libpq| unknown.contains(libpq)).collect();
    let is_more = unknown.iter().any(|name| !LIBPQ.contains(name));
    (named, is_more)
}

/// Tells whether a parameter may be shown with its value. All others may be secrets, under a name that is misspelt or unknown.
pub(crate) fn is_shown(name: &str) -> bool {
    OWN.contains(&name) || (DRIVER.contains(&name) && name != "password")
}

/// Tells whether the driver knows a parameter of this name, which may be encoded.
fn is_of_driver(name: &str) -> bool {
    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy();
    DRIVER.contains(&&*name) || (name.starts_with("options[") && name.ends_with(']'))
}

/// Returns the servers on other machines of which nobody finds out, by their certificate, who answers.
pub(crate) fn unverified(url: &str) -> Vec<String> {
    let servers = match url.split_once(':') {
        Some(("postgres" | "postgresql", _)) => parse(url).map(|address| address.servers),
        _ => return Vec::new(),
    };
    let is_verified = |options: &PgConnectOptions| match options.get_ssl_mode() {
        PgSslMode::VerifyCa | PgSslMode::VerifyFull => true,
        // As libpq has it: with authorities it finds out.
        PgSslMode::Require => url.contains("sslrootcert="),
        PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => false,
    };
    let is_here = |options: &PgConnectOptions| {
        options.get_socket().is_some() || unanimo_tls::is_loopback(options.get_host())
    };
    let servers = servers.unwrap_or_default().into_iter();
    let unverified = servers.filter(|of| !is_here(&of.options) && !is_verified(&of.options));
    unverified.map(|server| server.name).collect()
}

impl<'a> Parts<'a> {
    fn of(url: &'a str) -> Result<Self, Error> {
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| bad("must begin with postgres://"))?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        let (user, hosts) = match authority.rfind('@') {
            Some(at) => authority.split_at(at + 1),
            None => ("", authority),
        };
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let hosts = hosts.split(',').collect();
        let (common, lists) = (Vec::new(), Vec::new());
        let mut parts = Self { scheme, user, hosts, path, common, lists, connect_timeout: None };
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            parts.take(parameter)?;
        }
        Ok(parts)
    }

    fn take(&mut self, parameter: &'a str) -> Result<(), Error> {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name {
            "host" | "hostaddr" | "port" => {
                let value = value.replace("%2C", ",").replace("%2c", ",");
                self.lists.push((name, value.split(',').map(str::to_owned).collect()));
            }
            "target_session_attrs" => match value {
                // A server that takes no writes is never used, whatever stands here.
                "any" | "read-write" | "primary" => {}
                other => {
                    return Err(bad(format!(
                        "target_session_attrs must be read-write or primary, is {other}: the \
                         coordinator writes, and reads nothing from a standby"
                    )));
                }
            },
            "connect_timeout" => {
                let seconds = value.parse().map_err(|_| {
                    bad(format!("connect_timeout must be a number of seconds, is {value}"))
                })?;
                // As libpq has it: 0 is no limit of its own.
                self.connect_timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
            }
            // Any order will do: the one that takes writes is looked for.
            "load_balance_hosts" => {}
            _ if is_of_driver(name) => self.common.push(parameter),
            // The driver would tell it in the log, with its value, which may be a password under a name that is misspelt.
            _ => {}
        }
        Ok(())
    }

    fn server(&self, index: usize, count: usize) -> Result<Server, Error> {
        let host = element(&self.hosts, "hosts", index, count)?;
        let mut parameters = self.common.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (name, elements) in &self.lists {
            let element = element(elements, name, index, count)?;
            if !element.is_empty() {
                parameters.push(format!("{name}={element}"));
            }
        }
        let Self { scheme, user, path, .. } = self;
        let url = format!("{scheme}://{user}{host}{path}?{}", parameters.join("&"));
        let options = PgConnectOptions::from_str(&url).map_err(|error| bad(error.to_string()))?;
        let name = match options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };
        // Poolers refuse start-up parameters that they do not know; what the coordinator relies on
        // is set afterwards.
        let options = options.extra_float_digits(None).application_name("unanimo");
        Ok(Server { name, options: options.disable_statement_logging() })
    }
}

/// The element of a list for this server; one alone is for all of them.
fn element<'a, T>(list: &'a [T], what: &str, index: usize, count: usize) -> Result<&'a T, Error> {
    if list.len() != 1 && list.len() != count {
        let found = list.len();
        let rule = format!("{what} must be one for all {count} hosts or one for each, are {found}");
        return Err(bad(rule));
    }
    Ok(if list.len() == 1 { &list[0] } else { &list[index] })
}

fn bad(rule: impl Into<String>) -> Error {
    Error::Url(rule.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(url: &str) -> Vec<String> {
        parse(url).expect(url).servers.into_iter().map(|server| server.name).collect()
    }

    #[test]
    fn servers_elsewhere_are_to_say_who_they_are() {
        for (url, expected) in [
            ("postgres://u@h/db", &["h:5432"][..]),
            ("postgresql://u@h/db?sslmode=require", &["h:5432"]),
            (
                "postgres://u@10.0.0.1:7,localhost,two/db?sslmode=disable",
                &["10.0.0.1:7", "two:5432"],
            ),
            ("postgres://u@h/db?sslmode=require&sslrootcert=/ca.pem", &[]),
            ("postgres://u@h/db?sslmode=verify-ca&sslrootcert=/ca.pem", &[]),
            ("postgres://u@one,two/db?sslmode=verify-full", &[]),
            ("postgres://u@127.0.0.1/db", &[]),
            ("postgres://u@[::1]:7/db", &[]),
            ("postgres:///db?user=u&host=/run/postgresql", &[]),
            ("postgres://u@%2Frun%2Fpostgresql/db", &[]),
            ("sqlite://h/db", &[]),
            ("sqlite:unanimo.db", &[]),
        ] {
            assert_eq!(unverified(url), expected, "{url}");
        }
    }

    #[test]
    fn parameters_that_nobody_reads_are_told_without_what_may_be_a_password() {
        for (url, named, is_more) in [
            ("postgres://u@h/db", &[][..], false),
            (
                "postgres://u@h/db?sslmode=require&password=x&connect_timeout=3&pass%77ord=y",
                &[],
                false,
            ),
            ("postgres://u@h/db?sslpassword=s&sslcrl=/c", &["sslcrl", "sslpassword"], false),
            ("postgres://u@h/db?passwd=secret", &[], true),
            ("postgres://u@h/db?password=a&secret&gssencmode=require", &["gssencmode"], true),
            ("sqlite:x.db", &[], false),
        ] {
            assert_eq!(passed_over(url), (named.to_vec(), is_more), "{url}");
            if url.starts_with("postgres") {
                parse(url).expect(url);
            }
        }
    }

    #[test]
    fn a_url_names_one_server_or_several() {
        for (url, expected) in [
            ("postgres://u@h/db", &["h:5432"][..]),
            ("postgresql://u:p@h:7/db?sslmode=disable", &["h:7"]),
            ("postgres://u@one:1,two:2/db", &["one:1", "two:2"]),
            (
                "postgres://u@one,two:2,three/db?target_session_attrs=read-write",
                &["one:5432", "two:2", "three:5432"],
            ),
            (
                "postgres:///db?user=u&host=one,two&port=1,2&target_session_attrs=primary",
                &["one:1", "two:2"],
            ),
            ("postgres:///db?user=u&host=one%2Ctwo&port=7", &["one:7", "two:7"]),
            (
                "postgres://u@[::1]:1,[::2]:2/db?connect_timeout=3&load_balance_hosts=random",
                &["[::1]:1", "[::2]:2"],
            ),
            ("postgres://u@%2Ftmp%2Fpg/db", &["/tmp/pg"]),
            ("postgres://u:a%40b@one,two/db", &["one:5432", "two:5432"]),
        ] {
            assert_eq!(names(url), expected, "{url}");
        }
        let address = parse("postgres://u@h/db?connect_timeout=3").expect("a URL");
        assert_eq!(address.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(address.servers[0].options.get_database(), Some("db"));
    }

    #[test]
    fn a_url_that_breaks_a_rule_is_refused_with_the_rule() {
        for (url, rule) in [
            ("postgres://u@h/db?target_session_attrs=standby", "must be read-write or primary"),
            ("postgres://u@a,b/db?target_session_attrs=prefer-standby", "nothing from a standby"),
            ("postgres://u@a,b/db?target_session_attrs=read-only", "is read-only: the coordinator"),
            ("postgres://u@h/db?connect_timeout=soon", "connect_timeout must be a number"),
            ("postgres://u@/db?host=a,b,c&port=1,2", "port must be one for all 3 hosts"),
            ("postgres://u@a,b/db?host=x,y,z", "hosts must be one for all 3 hosts"),
            ("postgres://u@a,b,c,d,e,f,g,h,i/db", "must name at most 8 hosts"),
            ("postgres://u@h:x/db", "port"),
        ] {
            let error = parse(url).expect_err(url).to_string();
            assert!(error.contains(rule), "{url}: {error}");
        }
    }
}
