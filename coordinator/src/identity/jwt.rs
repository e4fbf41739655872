//! Tokens that another one has issued, such as an OpenID provider: JSON Web Tokens (RFC 7519), signed (RFC 7515).
//!
//! The key says by which algorithm a signature is checked, and the token only has to agree: one that names no
//! algorithm, or one of a shared secret, is none.

mod keys;
mod web;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;
use unanimo_core::Timestamp;
use unanimo_tls::{Error, File, Reload};

use self::keys::Keys;
use self::web::Fetched;
pub(crate) use self::web::Web;
use super::AllTold;

/// Settings for tokens of an issuer.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Place of its public keys (JWKS, RFC 7517).
    pub(crate) keys: Source,
    /// Its name: the claim `iss`.
    pub(crate) issuer: String,
    /// Name of this coordinator: one of the claim `aud`.
    pub(crate) audience: String,
    /// Most by which its clock may differ.
    pub(crate) leeway: Duration,
    /// Claim that says who calls.
    pub(crate) claim: String,
}

/// Place of an issuer's keys.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A file.
    File(PathBuf),
    /// The issuer itself.
    Web(Web),
}

/// Reason for which a token is not accepted. None of its text is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Malformed,
    Algorithm,
    Key,
    /// The keys are being fetched, or cannot be: nobody can tell yet.
    KeyNotYet,
    /// There are no keys, or they are too old.
    NoKeys,
    Signature,
    Expired,
    NotYet,
    Issuer,
    Audience,
    Claim,
}

impl Bad {
    /// Tells whether the same token may be accepted a moment later.
    pub(crate) fn is_passing(self) -> bool {
        matches!(self, Self::KeyNotYet | Self::NoKeys)
    }

    /// Returns it in words.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Malformed => "the token is not well formed",
            Self::Algorithm => "the token is signed by another algorithm than its key's",
            Self::Key => "the token is signed with a key that is not known",
            Self::KeyNotYet => {
                "the token is signed with a key that is not known yet: the issuer's keys are fetched anew"
            }
            Self::NoKeys => {
                "the issuer's keys could not be fetched: nobody can tell whether the token is good"
            }
            Self::Signature => "the token's signature is not good",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::Issuer => "the token is of another issuer",
            Self::Audience => "the token is for another audience",
            Self::Claim => "the token does not say who calls",
        }
    }
}

/// Issuer of tokens.
#[derive(Clone)]
pub(crate) struct Issuer {
    keys: Held,
    options: Options,
}

/// Keys of an issuer, which may change.
#[derive(Clone)]
enum Held {
    File(Arc<Reload<Keys>>),
    Web(Arc<Fetched>),
}

impl Held {
    /// Returns those that count.
    fn current(&self) -> Option<Arc<Keys>> {
        match self {
            Self::File(keys) => Some(keys.current()),
            Self::Web(keys) => keys.current(),
        }
    }

    /// Tells what to answer for a key that is not among them.
    fn missing(&self) -> Bad {
        match self {
            Self::File(_) => Bad::Key,
            Self::Web(keys) => keys.missing(),
        }
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Issuer").field(&self.options.issuer).finish()
    }
}

/// Header of a token.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    /// Extensions that must be understood. None is.
    #[serde(default)]
    crit: Option<Value>,
}

impl Issuer {
    /// Reads the keys, and reads them again when they change; or begins to fetch them.
    ///
    /// # Errors
    /// The file cannot be read, or has a key that cannot be used.
    pub(crate) fn load(options: Options) -> Result<Self, Error> {
        let keys = match &options.keys {
            Source::File(path) => {
                let file = File::new("keys of the issuer", path);
                let files = vec![file.clone()];
                Held::File(Reload::start(files, move |contents| keys::read(&file, &contents[0]))?)
            }
            Source::Web(web) => Held::Web(Fetched::start(web.clone(), options.issuer.clone())?),
        };
        Ok(Self { keys, options })
    }

    /// Waits for keys that are fetched: until they are there or the first try has failed, and for some seconds at most.
    pub(crate) async fn ready(&self) {
        if let Held::Web(keys) = &self.keys {
            keys.tried().await;
        }
    }

    /// Returns why the file that is there now is not used; `None` if it is.
    pub(crate) fn stale(&self) -> Option<String> {
        match &self.keys {
            Held::File(keys) => keys.stale(),
            Held::Web(keys) => keys.stale(),
        }
    }

    /// Returns why the keys are not fetched; `None` if they are, or need not be.
    pub(crate) fn unfetched(&self) -> Option<String> {
        match &self.keys {
            Held::File(_) => None,
            Held::Web(keys) => keys.failure(),
        }
    }

    /// Describes the keys.
    pub(crate) fn told(&self) -> AllTold {
        match &self.keys {
            Held::File(keys) => keys.current().told(),
            Held::Web(keys) => keys.told(),
        }
    }

    /// Tells of each change of the keys that takes effect from now on.
    pub(crate) fn on_change(&self, told: impl Fn(AllTold, AllTold) + Send + Sync + 'static) {
        match &self.keys {
            Held::File(keys) => keys.on_change(move |before, now| told(before.told(), now.told())),
            Held::Web(keys) => keys.on_change(told),
        }
    }

    /// Checks a token, and returns the values of the claim that says who calls.
    pub(crate) fn verify(&self, token: &str, now: Timestamp) -> Result<Vec<String>, Bad> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Bad::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Bad::Malformed)?;
        let header: Header =
            serde_json::from_slice(&decoded(header)?).map_err(|_| Bad::Malformed)?;
        if header.crit.is_some() {
            return Err(Bad::Malformed);
        }
        let keys = self.keys.current().ok_or(Bad::NoKeys)?;
        let key = keys.find(header.kid.as_deref()).ok_or_else(|| self.keys.missing())?;
        if !key.is_for(&header.alg) {
            return Err(Bad::Algorithm);
        }
        if !key.has_signed(signed.as_bytes(), &decoded(signature)?) {
            return Err(Bad::Signature);
        }
        let claims: Value =
            serde_json::from_slice(&decoded(claims)?).map_err(|_| Bad::Malformed)?;
        self.judge(&claims, now)
    }

    /// Judges what the issuer has signed.
    fn judge(&self, claims: &Value, now: Timestamp) -> Result<Vec<String>, Bad> {
        let Options { issuer, audience, leeway, claim, .. } = &self.options;
        if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
            return Err(Bad::Issuer);
        }
        if !texts(claims.get("aud")).contains(audience) {
            return Err(Bad::Audience);
        }
        // A precision of less than a second does not matter here.
        let (now, leeway) = (now.0 as f64 / 1000.0, leeway.as_secs_f64());
        // Without an end it would be good for ever.
        let exp = seconds(claims, "exp")?.ok_or(Bad::Expired)?;
        if now >= exp + leeway {
            return Err(Bad::Expired);
        }
        for from in ["nbf", "iat"] {
            if seconds(claims, from)?.is_some_and(|from| now < from - leeway) {
                return Err(Bad::NotYet);
            }
        }
        let values = texts(claims.get(claim));
        if values.is_empty() { Err(Bad::Claim) } else { Ok(values) }
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, Bad> {
    BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Bad::Malformed)
}

/// Returns a text, or a list of texts, as a list.
fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(all)) => {
            all.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// Returns a time, in seconds since 1970.
fn seconds(claims: &Value, name: &str) -> Result<Option<f64>, Bad> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite());
    seconds.map(Some).ok_or(Bad::Malformed)
}
