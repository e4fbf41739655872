//! Bearer tokens, and their hashes: whoever accepts a token needs no more than its hash.

use std::collections::HashMap;
use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// First part of each token, by which scanners of repositories can find one.
const PREFIX: &str = "unanimo_";

/// Bytes of the public part and of the secret.
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// Random bytes of which a token is made.
const RANDOM_BYTES: usize = ID_BYTES + SECRET_BYTES;

/// A new token. Its secret is random and as long as its hash, so that the hash alone is no help to find it, and needs
/// no salt.
pub struct Token {
    text: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Bytes that [`Self::new`] needs.
    pub const RANDOM_BYTES: usize = RANDOM_BYTES;

    /// Makes a token of random bytes.
    #[must_use]
    pub fn new(random: [u8; RANDOM_BYTES]) -> Self {
        let (id, secret) = random.split_at(ID_BYTES);
        Self { text: format!("{PREFIX}{}_{}", hex(id), hex(secret)) }
    }

    /// Returns the token, which is the secret itself.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns what whoever accepts it has of it: the public part, and the hash.
    #[must_use]
    pub fn hashed(&self) -> String {
        let id = id_of(&self.text).unwrap_or_default();
        format!("{id}:{}", hex(&Sha256::digest(&self.text)))
    }
}

/// Rule that the hash of a token breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHash {
    /// It is none.
    #[error("must be ID:HASH, as `unanimo token` prints it")]
    Malformed,
    /// Its public part is that of another one.
    #[error("another one has its id")]
    Twice,
}

/// Hashes of tokens, each with what it stands for.
pub struct TokenHashes<T>(HashMap<String, (Hash, T)>);

impl<T> fmt::Debug for TokenHashes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenHashes").field(&self.0.len()).finish()
    }
}

impl<T> Default for TokenHashes<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> TokenHashes<T> {
    /// Adds one, as [`Token::hashed`] writes it.
    ///
    /// # Errors
    /// It is none, or another one has its public part. The message does not repeat it.
    pub fn add(&mut self, hashed: &str, of: T) -> Result<(), BadHash> {
        let (id, hash) = parse_hashed(hashed).ok_or(BadHash::Malformed)?;
        match self.0.insert(id.to_owned(), (hash, of)) {
            None => Ok(()),
            Some(_) => Err(BadHash::Twice),
        }
    }

    /// Returns what this token stands for. The time of it does not depend on where a wrong secret differs.
    #[must_use]
    pub fn find(&self, token: &str) -> Option<&T> {
        let (hash, of) = self.0.get(id_of(token)?)?;
        hash.is_of(token).then_some(of)
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns the token of the header `authorization`. The scheme is written in any case (RFC 9110).
#[must_use]
pub fn bearer(header: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(header).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Hash of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash([u8; 32]);

impl Hash {
    /// Tells whether it is this token's, in a time that does not depend on where they differ.
    fn is_of(&self, token: &str) -> bool {
        Sha256::digest(token).as_slice().ct_eq(&self.0).into()
    }
}

/// Returns the public part of a token; `None` if it is none.
fn id_of(token: &str) -> Option<&str> {
    let (id, _) = token.strip_prefix(PREFIX)?.split_once('_')?;
    Some(id)
}

/// Reads the public part and the hash, as [`Token::hashed`] writes them.
fn parse_hashed(text: &str) -> Option<(&str, Hash)> {
    let (id, hash) = text.split_once(':')?;
    let is_id = id.len() == 2 * ID_BYTES && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some((id, Hash(unhex(hash)?))).filter(|_| is_id)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash_alone() {
        let token = Token::new([7; RANDOM_BYTES]);
        let hashed = token.hashed();
        let (id, hash) = parse_hashed(&hashed).expect("a hash");
        assert_eq!(Some(id), id_of(token.text()));
        assert!(hash.is_of(token.text()));
        let other = Token::new([8; RANDOM_BYTES]);
        assert!(!hash.is_of(other.text()) && !hash.is_of("") && !hash.is_of(&hashed));
        assert!(!hashed.contains(&token.text()[30..]), "the secret is not in it");
        assert_eq!(format!("{token:?}"), "Token");
        for bad in ["", ":", "0707070707070707", token.text(), &hashed[1..], &hashed[..80]] {
            assert_eq!(parse_hashed(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_scheme_of_the_header_is_written_in_any_case() {
        for header in ["Bearer x", "bearer x", "BEARER  x "] {
            assert_eq!(bearer(header.as_bytes()), Some("x"), "{header}");
        }
        for header in ["", "x", "Basic x", "Bearer\tx"] {
            assert_eq!(bearer(header.as_bytes()), None, "{header}");
        }
    }
}
