//! Tokens that another one has issued, such as an OpenID provider: JSON Web Tokens (RFC 7519), signed (RFC 7515).
//!
//! The key says by which algorithm a signature is checked, and the token only has to agree: one that names no
//! algorithm, or one of a shared secret, is none.

mod keys;

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
use super::AllTold;

/// Settings for tokens of an issuer.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// File with its public keys (JWKS, RFC 7517).
    pub(crate) keys: PathBuf,
    /// Its name: the claim `iss`.
    pub(crate) issuer: String,
    /// Name of this coordinator: one of the claim `aud`.
    pub(crate) audience: String,
    /// Most by which its clock may differ.
    pub(crate) leeway: Duration,
    /// Claim that says who calls.
    pub(crate) claim: String,
}

/// Reason for which a token is not accepted. None of its text is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Malformed,
    Algorithm,
    Key,
    Signature,
    Expired,
    NotYet,
    Issuer,
    Audience,
    Claim,
}

impl Bad {
    /// Returns it in words.
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::Malformed => "the token is not well formed",
            Self::Algorithm => "the token is signed by another algorithm than its key's",
            Self::Key => "the token is signed with a key that is not known",
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
    keys: Arc<Reload<Keys>>,
    options: Options,
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
    /// Reads the keys, and reads them again when they change.
    ///
    /// # Errors
    /// The file cannot be read, or has no key that can be used.
    pub(crate) fn load(options: Options) -> Result<Self, Error> {
        let file = File::new("keys of the issuer", &options.keys);
        let files = vec![file.clone()];
        let keys = Reload::start(files, move |contents| keys::read(&file, &contents[0]))?;
        Ok(Self { keys, options })
    }

    /// Returns why the file that is there now is not used; `None` if it is.
    pub(crate) fn stale(&self) -> Option<String> {
        self.keys.stale()
    }

    /// Describes the keys.
    pub(crate) fn told(&self) -> AllTold {
        self.keys.current().told()
    }

    /// Tells of each change of the keys that takes effect from now on.
    pub(crate) fn on_change(&self, told: impl Fn(AllTold, AllTold) + Send + Sync + 'static) {
        self.keys.on_change(move |before, now| told(before.told(), now.told()));
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
        let keys = self.keys.current();
        let key = keys.find(header.kid.as_deref()).ok_or(Bad::Key)?;
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
