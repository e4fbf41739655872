//! Public keys of an issuer: a JSON Web Key Set (RFC 7517).

use std::collections::HashMap;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use unanimo_tls::{Error, File};

use crate::identity::{AllTold, Told};

/// Fewest bytes of an RSA modulus.
const RSA_BYTES_MIN: usize = 256;

/// Bytes of a coordinate of P-256, and of a key of Ed25519.
const CURVE_BYTES: usize = 32;

/// Keys by their names.
#[derive(Debug)]
pub(super) struct Keys(HashMap<String, Key>);

impl Keys {
    /// Returns the key of this name. A token that names none is of the only key, if there is one alone.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match kid {
            Some(kid) => self.0.get(kid),
            None => self.0.values().next().filter(|_| self.0.len() == 1),
        }
    }
}

impl Keys {
    /// Describes them: they are public.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn told(&self) -> AllTold {
        let told = |key: &Key| match key {
            Key::Rsa { n, e } => Told::new("RS256".to_owned(), &[n, e]),
            Key::P256(key) => Told::new("ES256".to_owned(), &[key.as_ref()]),
            Key::Ed25519(key) => Told::new("EdDSA".to_owned(), &[key.as_ref()]),
        };
        self.0.iter().map(|(kid, key)| (kid.clone(), told(key))).collect()
    }
}

/// A key, which is for one algorithm alone.
pub(super) enum Key {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(UnparsedPublicKey<Vec<u8>>),
    Ed25519(UnparsedPublicKey<Vec<u8>>),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "Rsa",
            Self::P256(_) => "P256",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}

impl Key {
    /// Tells whether this is the name of its algorithm.
    pub(super) fn is_for(&self, alg: &str) -> bool {
        match self {
            Self::Rsa { .. } => alg == "RS256",
            Self::P256(_) => alg == "ES256",
            // The second name is RFC 9864's.
            Self::Ed25519(_) => alg == "EdDSA" || alg == "Ed25519",
        }
    }

    /// Tells whether this is its signature of the message.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa { n, e } => RsaPublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            Self::P256(key) | Self::Ed25519(key) => key.verify(message, signature).is_ok(),
        }
    }
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Map<String, Value>>,
}

/// Reads the file. Keys of other kinds, which an issuer may have for other purposes, are passed over. There may be none
/// that can be used: an issuer may revoke all of its keys.
///
/// # Errors
/// It is malformed, or has a key that is too weak. The message repeats no value.
pub(super) fn read(file: &File, content: &[u8]) -> Result<Keys, Error> {
    let rule = "it must be a JSON Web Key Set: an object with a list keys, of objects";
    let document: Document = serde_json::from_slice(content).map_err(|_| file.breaks(rule))?;
    let mut keys = HashMap::new();
    for (index, entry) in document.keys.iter().enumerate() {
        let bad = |rule: &str| file.breaks(format!("keys[{index}] {rule}"));
        let Some(kid) = name(entry).filter(|_| may_sign(entry)) else { continue };
        let Some(key) = key(entry).map_err(bad)? else { continue };
        if keys.insert(kid, key).is_some() {
            return Err(bad("has the kid of another one"));
        }
    }
    if keys.is_empty() {
        tracing::warn!("the issuer has no key that can be used: none of its tokens is accepted");
    }
    Ok(Keys(keys))
}

/// Returns the value of this name. What is null is not there.
fn value<'a>(entry: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    entry.get(name).filter(|value| !value.is_null())
}

/// Returns the text of this name.
fn text<'a>(entry: &'a Map<String, Value>, name: &str) -> &'a str {
    value(entry, name).and_then(Value::as_str).unwrap_or_default()
}

/// Returns the name of a key, empty if it has none; `None` if it is no text, which no token can have.
fn name(entry: &Map<String, Value>) -> Option<String> {
    value(entry, "kid").map_or(Some(""), Value::as_str).map(str::to_owned)
}

/// Tells whether the issuer has the key for signatures of the algorithms that are known.
fn may_sign(entry: &Map<String, Value>) -> bool {
    let algorithms = match (text(entry, "kty"), text(entry, "crv")) {
        ("RSA", _) => &["RS256"][..],
        ("EC", "P-256") => &["ES256"],
        ("OKP", "Ed25519") => &["EdDSA", "Ed25519"],
        _ => return false,
    };
    let is = |name: &str, known: &[&str]| {
        value(entry, name).is_none_or(|value| value.as_str().is_some_and(|v| known.contains(&v)))
    };
    is("use", &["sig"]) && is("alg", algorithms)
}

/// Makes the key; `None` if it is of another kind.
fn key(entry: &Map<String, Value>) -> Result<Option<Key>, &'static str> {
    let bytes = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(text(entry, name)).ok();
    let of_curve = |name: &str| bytes(name).filter(|bytes| bytes.len() == CURVE_BYTES);
    Ok(Some(match (text(entry, "kty"), text(entry, "crv")) {
        ("RSA", _) => {
            let number = |name: &str| {
                let bytes = bytes(name)?;
                let first = bytes.iter().position(|byte| *byte != 0)?;
                Some(bytes[first..].to_vec())
            };
            let (n, e) = number("n").zip(number("e")).ok_or("has no n and e")?;
            if n.len() < RSA_BYTES_MIN {
                return Err("is too weak: it must have 2048 bits at least");
            }
            Key::Rsa { n, e }
        }
        ("EC", "P-256") => {
            let (x, y) = of_curve("x").zip(of_curve("y")).ok_or("has no x and y")?;
            let point = [&[4], x.as_slice(), y.as_slice()].concat();
            Key::P256(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point))
        }
        ("OKP", "Ed25519") => {
            let x = of_curve("x").ok_or("has no x")?;
            Key::Ed25519(UnparsedPublicKey::new(&ED25519, x))
        }
        _ => return Ok(None),
    }))
}
