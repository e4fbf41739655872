//! Bearer tokens of clients.

use std::path::PathBuf;
use std::sync::Arc;

use tonic::Request;
use tonic::metadata::AsciiMetadataValue;

use crate::{Error, File, Reload};

/// A bearer token in a file, which is read again when it changes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TokenFile {
    header: Arc<Reload<AsciiMetadataValue>>,
}

/// Makes the header `authorization` of a token; `None` if that is no word of printable ASCII.
#[must_use]
pub fn header(token: &str) -> Option<AsciiMetadataValue> {
    let is_word = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let header = is_word.then(|| format!("Bearer {token}").parse::<AsciiMetadataValue>());
    let mut header = header?.ok()?;
    // It is not shown where a request is, and not kept in a table of compressed headers.
    header.set_sensitive(true);
    Some(header)
}

impl TokenFile {
    /// Reads the file: the token, and nothing else but white space around it.
    ///
    /// # Errors
    /// The file cannot be read, or has no token.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let file = File::new("token", path);
        let files = vec![file.clone()];
        let read = move |contents: &[Vec<u8>]| {
            let bad = || file.breaks("it must have a token alone: one word of printable ASCII");
            let token = std::str::from_utf8(&contents[0]).map_err(|_| bad())?;
            header(token.trim()).ok_or_else(bad)
        };
        Ok(Self { header: Reload::start(files, read)? })
    }

    /// Adds the token to a call.
    pub fn sign<T>(&self, request: &mut Request<T>) {
        let header = AsciiMetadataValue::clone(&self.header.current());
        request.metadata_mut().insert("authorization", header);
    }
}
