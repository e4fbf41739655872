//! The file of webhooks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, Uri};
use ring::hmac;
use serde::Deserialize;
use toml::Spanned;
use unanimo_core::ParticipantName;
use unanimo_tls::{Error, File};

use super::{Begin, Rules, WEBHOOKS_MAX, Webhook, Webhooks};
use crate::entries::Entries;
use crate::feed::Kind;
use crate::identity::Told;
use crate::outbound::{Plain, parse_url};

/// Most secrets of a webhook: the one in use, and those that are about to go or to come.
const SECRETS_MAX: usize = 4;

/// Bytes of a secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Prefix of a secret, by which it is known where it is found.
const SECRET_PREFIX: &str = "whsec_";

/// Most headers of a webhook.
const HEADERS_MAX: usize = 16;

/// Most bytes of a header's value.
const HEADER_BYTES_MAX: usize = 4_096;

/// Headers that the coordinator makes itself.
const OWN_HEADERS: [&str; 10] = [
    "content-type",
    "content-length",
    "transfer-encoding",
    "connection",
    "host",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "user-agent",
];

/// Bounds of `timeout`. A receiver that needs longer should answer first and work afterwards.
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(60));

/// Bounds of `give-up-after`.
const GIVE_UP: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(30 * 24 * 60 * 60));

/// Bounds of `backoff-max`.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(60 * 60));

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    webhook: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    name: Spanned<String>,
    url: String,
    secrets: Vec<String>,
    #[serde(default)]
    kinds: Vec<Kind>,
    #[serde(default)]
    gid_prefix: String,
    participant: Option<String>,
    #[serde(default)]
    begin: Begin,
    timeout: Option<String>,
    give_up_after: Option<String>,
    backoff_max: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// Reads the file.
///
/// # Errors
/// It is malformed, or an entry breaks a rule. The message repeats no value of the file, which might be a secret.
pub(super) fn read(file: &File, content: &[u8], rules: Rules) -> Result<Webhooks, Error> {
    let entries = Entries::new(file, content)?;
    let document: Document = entries.read("webhook", rule)?;
    let count = document.webhook.len();
    if count > WEBHOOKS_MAX {
        return Err(file.breaks(format!("must have at most {WEBHOOKS_MAX} webhooks, has {count}")));
    }
    let mut webhooks = Webhooks::default();
    for (index, entry) in document.webhook.into_iter().enumerate() {
        let line = entries.line_at(entry.name.span().start);
        let place = format!("webhook {} (line {line})", index + 1);
        let webhook = webhook(entry, rules);
        let webhook = webhook.map_err(|rule| file.breaks(format!("{place}: {rule}")))?;
        let former = webhooks.all.insert(webhook.name.clone(), Arc::new(webhook));
        if former.is_some() {
            return Err(file.breaks(format!("{place}: another one has this name")));
        }
    }
    Ok(webhooks)
}

/// Returns the rule of a key.
fn rule(key: &str) -> Option<&'static str> {
    Some(match key {
        "secrets" => "must be a list of texts",
        "kinds" => "each must be committed, aborted, heuristic, stalled or forgotten",
        "begin" => "must be new or oldest",
        "headers" => "must be a table of texts",
        "timeout" | "give-up-after" | "backoff-max" => {
            "must be a text such as \"30s\" or \"1h 30m\""
        }
        "name" | "url" | "gid-prefix" | "participant" => "must be a text",
        _ => return None,
    })
}

fn webhook(entry: Entry, rules: Rules) -> Result<Webhook, String> {
    let name = entry.name.into_inner();
    ParticipantName::new(&name).map_err(|rule| format!("name {rule}"))?;
    let url = url(&entry.url, rules.insecure)?;
    if let Some(participant) = &entry.participant {
        ParticipantName::full(participant).map_err(|rule| format!("participant {rule}"))?;
    }
    if !entry.gid_prefix.is_empty() {
        unanimo_core::ids::check_prefix(&entry.gid_prefix)
            .map_err(|rule| format!("gid-prefix {rule}"))?;
    }
    // An event that is purged before it is given up is no dead letter: nobody would ever be told of it.
    let retention = rules.retention;
    let day = Duration::from_secs(24 * 60 * 60).min(retention / 2);
    let timeout = period("timeout", entry.timeout, TIMEOUT, Duration::from_secs(10))?;
    let give_up_after = period("give-up-after", entry.give_up_after, GIVE_UP, day)?;
    if give_up_after >= retention {
        return Err(format!(
            "give-up-after must be less than events-retention, which is {retention:?}: events would be purged \
             before they are given up"
        ));
    }
    let five_minutes = Duration::from_secs(300);
    let backoff_max = period("backoff-max", entry.backoff_max, BACKOFF, five_minutes)?;
    let headers = headers(&entry.headers)?;
    if entry.secrets.is_empty() || entry.secrets.len() > SECRETS_MAX {
        return Err(format!("secrets must have 1 to {SECRETS_MAX} texts"));
    }
    let keys = entry
        .secrets
        .iter()
        .enumerate()
        .map(|(index, text)| secret(text).map_err(|rule| format!("secrets[{index}] {rule}")));
    let secrets = keys.collect::<Result<Vec<_>, _>>()?;
    let kinds: Vec<_> = entry.kinds.iter().map(|kind| kind.name()).collect();
    let kinds = kinds.join("+");
    let of = if kinds.is_empty() { "all kinds" } else { &kinds };
    let told =
        format!("{}, {of}, secrets: {}, headers: {}", shown(&url), secrets.len(), headers.len());
    let values = [
        entry.url.clone(),
        entry.secrets.join("\n"),
        kinds.clone(),
        entry.gid_prefix.clone(),
        entry.participant.clone().unwrap_or_default(),
        format!("{timeout:?} {give_up_after:?} {backoff_max:?}"),
        entry.headers.iter().map(|(name, value)| format!("{name}\n{value}\n")).collect(),
    ];
    let parts: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
    Ok(Webhook {
        name,
        url,
        kinds: entry.kinds,
        gid_prefix: entry.gid_prefix,
        participant: entry.participant,
        begin: entry.begin,
        timeout,
        give_up_after,
        backoff_max,
        headers,
        secrets,
        told: Told::new(told, &parts),
    })
}

/// Returns what may be shown of an address: its path and query may be a secret by which a receiver knows who sends.
pub(super) fn shown(url: &Uri) -> String {
    let (scheme, authority) = (url.scheme_str().unwrap_or_default(), url.authority());
    format!("{scheme}://{}", authority.map_or("", |authority| authority.as_str()))
}

fn url(text: &str, insecure: bool) -> Result<Uri, String> {
    let plain = if insecure { Plain::Anywhere } else { Plain::Loopback };
    parse_url(text, plain).map_err(|rule| format!("url {rule}"))
}

fn period(
    key: &str,
    text: Option<String>,
    (least, most): (Duration, Duration),
    default: Duration,
) -> Result<Duration, String> {
    let Some(text) = text else { return Ok(default) };
    let parsed = text.parse::<jiff::SignedDuration>().ok();
    let period = parsed.and_then(|parsed| Duration::try_from(parsed).ok());
    let period =
        period.ok_or_else(|| format!("{key} must be a duration, such as 250ms, 15s or 1h 30m"))?;
    match period >= least && period <= most {
        true => Ok(period),
        false => Err(format!("{key} must be from {least:?} to {most:?}")),
    }
}

fn headers(all: &BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    if all.len() > HEADERS_MAX {
        return Err(format!("headers must have at most {HEADERS_MAX} names"));
    }
    let read = all.iter().enumerate().map(|(index, (name, value))| {
        let place = format!("headers[{index}]");
        let name: HeaderName =
            name.parse().map_err(|_| format!("{place} must have a name of a header"))?;
        if OWN_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("webhook-") {
            return Err(format!("{place} is one that the coordinator makes itself"));
        }
        let value = Some(value).filter(|value| value.len() <= HEADER_BYTES_MAX);
        let value = value.and_then(|value| HeaderValue::from_str(value).ok());
        let mut value = value.ok_or_else(|| {
            format!("{place} must have a value of at most {HEADER_BYTES_MAX} bytes of visible text")
        })?;
        value.set_sensitive(true);
        Ok((name, value))
    });
    read.collect()
}

fn secret(text: &str) -> Result<hmac::Key, String> {
    let rule = || {
        let (least, most) = (SECRET_BYTES.start(), SECRET_BYTES.end());
        format!("must be {SECRET_PREFIX} and {least} to {most} bytes in Base64")
    };
    let encoded = text.strip_prefix(SECRET_PREFIX).ok_or_else(rule)?;
    let bytes = STANDARD.decode(encoded).map_err(|_| rule())?;
    match SECRET_BYTES.contains(&bytes.len()) {
        true => Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes)),
        false => Err(rule()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn entry() -> String {
        format!(
            "[[webhook]]\nname = \"a\"\nurl = \"https://a.example/x?key=s3cr3t\"\nsecrets = [\"{SECRET}\"]\n"
        )
    }

    fn parse(text: &str) -> Result<Webhooks, String> {
        let file = File::new("webhooks", "hooks.toml");
        let rules = Rules { insecure: false, retention: 7 * DAY };
        read(&file, text.as_bytes(), rules).map_err(|error| error.to_string())
    }

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Gives an event up before it is purged, whatever is set and whatever is not.
    #[test]
    fn an_event_is_given_up_before_it_is_purged() {
        let file = File::new("webhooks", "hooks.toml");
        let parse = |retention: Duration, line: &str| {
            let text = format!("{}{line}\n", entry());
            let webhooks = read(&file, text.as_bytes(), Rules { insecure: false, retention });
            let webhooks = webhooks.map_err(|error| error.to_string())?;
            Ok::<_, String>(webhooks.all["a"].give_up_after)
        };
        assert_eq!(parse(7 * DAY, ""), Ok(DAY));
        assert_eq!(parse(DAY, ""), Ok(DAY / 2), "the default is less than what is kept");
        assert_eq!(parse(7 * DAY, "give-up-after = \"167h\""), Ok(7 * DAY - DAY / 24));
        for hours in [168, 169] {
            let refused = parse(7 * DAY, &format!("give-up-after = \"{hours}h\""));
            let expected = "use the webhooks hooks.toml: webhook 1 (line 2): give-up-after must be less than \
                            events-retention, which is 604800s: events would be purged before they are given up";
            assert_eq!(refused, Err(expected.to_owned()));
        }
    }

    #[test]
    fn a_webhook_is_read_and_what_is_shown_of_it_has_no_secret() {
        let text = format!(
            "{}kinds = [\"committed\", \"stalled\"]\ngid-prefix = \"g-\"\nparticipant = \"bank\"\n\
             begin = \"oldest\"\ntimeout = \"2s\"\ngive-up-after = \"1h\"\nbackoff-max = \"30s\"\n\
             [webhook.headers]\nAuthorization = \"Bearer s3cr3t\"\n",
            entry()
        );
        let webhooks = parse(&text).expect("webhooks");
        let webhook = &webhooks.all["a"];
        assert_eq!((webhook.timeout.as_secs(), webhook.give_up_after.as_secs()), (2, 3600));
        assert_eq!((webhook.begin, webhook.backoff_max.as_secs()), (Begin::Oldest, 30));
        assert_eq!(webhook.shown_url(), "https://a.example");
        let shown = format!("{webhook:?} {:?} {:?}", webhook.told.shown, webhook.headers);
        assert!(!shown.contains("s3cr3t") && !shown.contains(&SECRET[6..]), "{shown}");
        // Each part counts for whoever looks for a change.
        for (from, to) in [("g-", "h-"), ("30s", "31s"), ("s3cr3t", "other"), ("TwjU", "TwjV")] {
            let changed = parse(&text.replace(from, to)).expect("webhooks");
            assert_ne!(changed.told()["a"].hash, webhook.told.hash, "{from}");
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_without_a_secret() {
        let entry = entry();
        let with = |line: &str| format!("{entry}{line}\n");
        let url = |url: &str| entry.replace("https://a.example/x?key=s3cr3t", url);
        for (text, rule) in [
            ("[[webhook]\n".to_owned(), "line 1: "),
            (with("kind = 1"), "line 5: unknown field `kind`"),
            (with("kinds = [\"s3cr3t\"]"), "line 5: kinds: each must be committed, aborted, "),
            (with("timeout = 30"), "line 5: timeout: must be a text such as \"30s\" or \"1h 30m\""),
            (with("headers = {\"x-a\" = 1}"), "line 5: headers: must be a table of texts"),
            (entry.replace("name = \"a\"\n", ""), "missing field `name`"),
            (entry.repeat(2), "webhook 2 (line 6): another one has this name"),
            (entry.replace("\"a\"", "\"a b\""), "webhook 1 (line 2): name "),
            (url("ftp://a.example"), "url must be https://HOST/PATH, or http://HOST/PATH"),
            (url("/s3cr3t"), "url must be https://HOST/PATH, or http://HOST/PATH"),
            (url("https://ann:s3cr3t@a.example"), "url must have no name and no password"),
            (
                url("http://a.example"),
                "url must begin with https://, because it is on another machine",
            ),
            (entry.replace(SECRET, "s3cr3t"), "secrets[0] must be whsec_ and 24 to 64 bytes"),
            (
                entry.replace(SECRET, "whsec_czNjcjN0"),
                "secrets[0] must be whsec_ and 24 to 64 bytes",
            ),
            (entry.replace(&format!("[\"{SECRET}\"]"), "[]"), "secrets must have 1 to 4 texts"),
            (with("timeout = \"2h\""), "timeout must be from 1ms to 60s"),
            (with("give-up-after = \"s3cr3t\""), "give-up-after must be a duration"),
            (
                with("[webhook.headers]\nHost = \"s3cr3t\""),
                "headers[0] is one that the coordinator makes",
            ),
            (
                with("[webhook.headers]\nwebhook-id = \"1\""),
                "headers[0] is one that the coordinator makes",
            ),
            (with("[webhook.headers]\nX = \"s3cr3t\\n\""), "headers[0] must have a value"),
            (with("participant = \"s3cr3t x\""), "participant "),
        ] {
            let error = parse(&text).expect_err(rule);
            assert!(error.starts_with("use the webhooks hooks.toml: "), "{error}");
            assert!(error.contains(rule), "{rule} in: {error}");
            assert!(!error.contains("s3cr3t") && !error.contains(&SECRET[6..]), "{error}");
        }
        let file = File::new("webhooks", "hooks.toml");
        let insecure = Rules { insecure: true, retention: DAY };
        assert!(read(&file, url("http://a.example").as_bytes(), insecure).is_ok());
        assert!(parse(&url("http://127.0.0.1:7/x")).is_ok());
    }
}
