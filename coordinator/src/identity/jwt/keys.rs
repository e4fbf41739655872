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
use unanimo_tls::{Error, File};

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
    keys: Vec<serde_json::Value>,
}

/// A key of any kind: what is missing for its kind makes it none that can be used.
#[derive(Deserialize)]
struct Entry {
    kty: String,
    #[serde(default)]
    kid: String,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: String,
    #[serde(default)]
    n: String,
    #[serde(default)]
    e: String,
    #[serde(default)]
    x: String,
    #[serde(default)]
    y: String,
}

/// Reads the file. Keys of other kinds, which an issuer may have for other purposes, are passed over.
///
/// # Errors
/// It is malformed, has no key that can be used, or one that is too weak. The message repeats no value.
pub(super) fn read(file: &File, content: &[u8]) -> Result<Keys, Error> {
    let rule = "it must be a JSON Web Key Set: an object with a list keys";
    let document: Document = serde_json::from_slice(content).map_err(|_| file.breaks(rule))?;
    let mut keys = HashMap::new();
    for (index, entry) in document.keys.into_iter().enumerate() {
        let bad = |rule: &str| file.breaks(format!("keys[{index}] {rule}"));
        let Ok(entry) = serde_json::from_value::<Entry>(entry) else {
            return Err(bad("must be an object with kty and texts"));
        };
        if entry.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            continue;
        }
        let Some(key) = key(&entry).map_err(bad)? else { continue };
        if entry.alg.as_deref().is_some_and(|alg| !key.is_for(alg)) {
            continue;
        }
        if keys.insert(entry.kid, key).is_some() {
            return Err(bad("has the kid of another one"));
        }
    }
    match keys.is_empty() {
        true => Err(file.breaks("it must have a key for RS256, ES256 or EdDSA, and has none")),
        false => Ok(Keys(keys)),
    }
}

/// Makes the key; `None` if it is of another kind.
fn key(entry: &Entry) -> Result<Option<Key>, &'static str> {
    let bytes = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    let of_curve = |text: &str| bytes(text).filter(|bytes| bytes.len() == CURVE_BYTES);
    Ok(Some(match (entry.kty.as_str(), entry.crv.as_str()) {
        ("RSA", _) => {
            let number = |text: &str| {
                let bytes = bytes(text)?;
                let first = bytes.iter().position(|byte| *byte != 0)?;
                Some(bytes[first..].to_vec())
            };
            let (n, e) = number(&entry.n).zip(number(&entry.e)).ok_or("has no n and e")?;
            if n.len() < RSA_BYTES_MIN {
                return Err("is too weak: it must have 2048 bits at least");
            }
            Key::Rsa { n, e }
        }
        ("EC", "P-256") => {
            let (x, y) = of_curve(&entry.x).zip(of_curve(&entry.y)).ok_or("has no x and y")?;
            let point = [&[4], x.as_slice(), y.as_slice()].concat();
            Key::P256(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point))
        }
        ("OKP", "Ed25519") => {
            let x = of_curve(&entry.x).ok_or("has no x")?;
            Key::Ed25519(UnparsedPublicKey::new(&ED25519, x))
        }
        _ => return Ok(None),
    }))
}
