//! Bearer tokens, and their hashes.

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

    /// Returns what the file of identities has of it: the public part, and the hash.
    #[must_use]
    pub fn hashed(&self) -> String {
        let id = id_of(&self.text).unwrap_or_default();
        format!("{id}:{}", hex(&Sha256::digest(&self.text)))
    }
}

/// Hash of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash([u8; 32]);

impl Hash {
    /// Tells whether it is this token's, in a time that does not depend on where they differ.
    pub(super) fn is_of(&self, token: &str) -> bool {
        Sha256::digest(token).as_slice().ct_eq(&self.0).into()
    }
}

/// Returns the public part of a token; `None` if it is none.
pub(super) fn id_of(token: &str) -> Option<&str> {
    let (id, _) = token.strip_prefix(PREFIX)?.split_once('_')?;
    Some(id)
}

/// Reads the public part and the hash, as [`Token::hashed`] writes them.
pub(super) fn parse_hashed(text: &str) -> Option<(&str, Hash)> {
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
}
