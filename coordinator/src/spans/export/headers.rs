//! Headers that a collector demands, such as a key.

use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use unanimo_tls::{Error, File, Reload};

/// Names, and beginnings of names, that the protocols set themselves.
const OWN: [&str; 6] = ["host", "te", "connection", "transfer-encoding", "user-agent", "accept"];
const OWN_BEGIN: [&str; 2] = ["grpc-", "content-"];

/// Headers of each request. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Headers(Arc<Reload<HeaderMap>>);

impl Headers {
    /// Reads the file, if there is one, and reads it again when it changes.
    ///
    /// # Errors
    /// It cannot be read, or is not what it must be.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, Error> {
        let file = path.map(|path| File::new("headers of the collector", path));
        let files = file.iter().cloned().collect();
        let make = move |contents: &[Vec<u8>]| match &file {
            Some(file) => read(file, &contents[0]),
            None => Ok(HeaderMap::new()),
        };
        Ok(Self(Reload::start(files, make)?))
    }

    /// Returns why the file that is there now is not used; `None` if it is.
    pub(crate) fn stale(&self) -> Option<String> {
        self.0.stale()
    }

    pub(super) fn current(&self) -> Arc<HeaderMap> {
        self.0.current()
    }
}

/// Reads the file. No message repeats a value, or a name, in whose place the value may be.
fn read(file: &File, content: &[u8]) -> Result<HeaderMap, Error> {
    let text = std::str::from_utf8(content).map_err(|_| file.breaks("it must be UTF-8"))?;
    let rule = "it must be TOML with a line NAME = \"VALUE\" for each header";
    let table: toml::Table = toml::from_str(text).map_err(|_| file.breaks(rule))?;
    let mut headers = HeaderMap::new();
    for (index, (name, value)) in table.iter().enumerate() {
        let bad = |rule: &str| file.breaks(format!("entry {} by name: {rule}", index + 1));
        let name: HeaderName =
            name.parse().map_err(|_| bad("its name must be one of an HTTP header"))?;
        let is_own = OWN.contains(&name.as_str())
            || OWN_BEGIN.iter().any(|begin| name.as_str().starts_with(begin))
            || name.as_str().ends_with("-bin");
        if is_own {
            return Err(bad("its name is one of the protocol's own"));
        }
        let value = value.as_str().and_then(|value| HeaderValue::from_str(value).ok());
        let mut value =
            value.ok_or_else(|| bad("its value must be a text of one line in printable ASCII"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_told_without_names_and_values() {
        let file = File::new("headers of the collector", "headers");
        for (text, rule) in [
            ("secret", "it must be TOML"),
            ("api-key = 7", "entry 1 by name: its value must be a text"),
            ("api-key = \"secret\\nsecret\"", "entry 1 by name: its value must be a text"),
            ("\"the secret\" = \"x\"", "entry 1 by name: its name must be one"),
            (
                "a = \"x\"\ncontent-type = \"secret\"",
                "entry 2 by name: its name is one of the protocol's",
            ),
            ("Host = \"secret\"", "entry 1 by name: its name is one of the protocol's"),
            ("grpc-timeout = \"secret\"", "entry 1 by name: its name is one of the protocol's"),
        ] {
            let error = read(&file, text.as_bytes()).expect_err(rule).to_string();
            assert!(error.contains(rule) && !error.contains("secret"), "{rule} in: {error}");
        }
        let headers = read(&file, b"Authorization = \"Basic c2VjcmV0\"").expect("headers");
        assert!(headers["authorization"].is_sensitive() && !format!("{headers:?}").contains("c2V"));
    }
}
