//! Tokens that the coordinator sends to participants, by which they know it.
//!
//! Each participant has its own: whoever reads one could otherwise call the others as the coordinator.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tonic::Request;
use tonic::metadata::AsciiMetadataValue;
use unanimo_core::ParticipantName;
use unanimo_tls::{Error, File, Reload, header, is_loopback};

use super::allow::parse_endpoint;
use crate::identity::{AllTold, Told};

type ByName = BTreeMap<ParticipantName, AsciiMetadataValue>;

/// Tokens by the participant that they are for. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens(Option<Arc<Reload<ByName>>>);

impl Tokens {
    /// Reads the file, and reads it again when it changes.
    ///
    /// # Errors
    /// It cannot be read, or is not what it must be.
    pub(crate) fn load(path: &Path) -> Result<Self, Error> {
        let file = File::new("tokens of participants", path);
        let files = vec![file.clone()];
        Ok(Self(Some(Reload::start(files, move |contents| read(&file, &contents[0]))?)))
    }

    /// Returns why the file that is there now is not used; `None` if it is.
    pub(crate) fn stale(&self) -> Option<String> {
        self.0.as_ref().and_then(|tokens| tokens.stale())
    }

    /// Describes them, by participant; `None` if there is no file.
    pub(crate) fn told(&self) -> Option<AllTold> {
        self.0.as_ref().map(|tokens| told(&tokens.current()))
    }

    /// Tells of each change that takes effect from now on.
    pub(crate) fn on_change(&self, heard: impl Fn(AllTold, AllTold) + Send + Sync + 'static) {
        if let Some(tokens) = &self.0 {
            tokens.on_change(move |before, now| heard(told(before), told(now)));
        }
    }

    /// Adds the participant's token to a call that goes to this endpoint. It goes nowhere where it could be read on
    /// the way: the participant then refuses the call, and says that there was none.
    pub(crate) fn sign<T>(
        &self,
        participant: &ParticipantName,
        url: &str,
        mut request: Request<T>,
    ) -> Request<T> {
        let Some(tokens) = &self.0 else { return request };
        if let Some(token) = tokens.current().get(participant)
            && parse_endpoint(url).is_ok_and(|parsed| parsed.tls || is_loopback(&parsed.host))
        {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }
}

/// Describes tokens by their participants' names alone.
fn told(tokens: &ByName) -> AllTold {
    let told = |token: &AsciiMetadataValue| Told::new(String::new(), &[token.as_bytes()]);
    tokens.iter().map(|(name, token)| (name.to_string(), told(token))).collect()
}

/// Tells whether the coordinator can use a file of tokens with this text.
///
/// # Errors
/// It is malformed, or an entry breaks a rule. The message repeats no value of the file.
pub fn check(path: &Path, text: &str) -> Result<(), Error> {
    read(&File::new("tokens of participants", path), text.as_bytes()).map(drop)
}

/// Reads the file. No message repeats a value, or a name, in whose place the token may be.
fn read(file: &File, content: &[u8]) -> Result<ByName, Error> {
    let text = std::str::from_utf8(content).map_err(|_| file.breaks("it must be UTF-8"))?;
    let line_at = |start| 1 + text.get(..start).unwrap_or_default().matches('\n').count();
    // The parser's own messages tell a name that is there twice.
    let table: toml::Table = toml::from_str(text).map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line_at(span.start));
        file.breaks(format!(
            "line {line}: it must be TOML with a line NAME = \"TOKEN\" for each participant"
        ))
    })?;
    let mut tokens = ByName::new();
    for (index, (name, token)) in table.iter().enumerate() {
        let bad = |rule: &str| file.breaks(format!("entry {} by name: {rule}", index + 1));
        let name = ParticipantName::try_from(name.clone())
            .map_err(|rule| bad(&format!("its name {rule}")))?;
        let token = token.as_str().and_then(header);
        let rule = "its token must be a text: one word of printable ASCII";
        tokens.insert(name, token.ok_or_else(|| bad(rule))?);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_to_its_participant_alone_and_where_nobody_reads_it() {
        let file = File::new("tokens of participants", "tokens");
        let read = read(&file, b"bank = \"t1\"\nshop = \"t2\"\n").expect("tokens");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let reload =
            runtime.block_on(async { Reload::start(Vec::new(), move |_| Ok(read.clone())) });
        let tokens = Tokens(Some(reload.expect("tokens")));
        let sent = |name: &str, url: &str| {
            let name = ParticipantName::new(name).expect("a name");
            let request = tokens.sign(&name, url, Request::new(()));
            let header = request.metadata().get("authorization")?;
            assert!(header.is_sensitive());
            Some(header.to_str().expect("ASCII").to_owned())
        };
        let bearer = |token: &str| Some(format!("Bearer {token}"));
        assert_eq!(sent("bank", "https://bank:1"), bearer("t1"));
        assert_eq!(sent("shop", "https://bank:1"), bearer("t2"));
        assert_eq!(sent("bank", "http://127.0.0.1:1"), bearer("t1"));
        assert_eq!(sent("bank", "http://[::1]:1"), bearer("t1"));
        assert_eq!(sent("bank", "http://bank:1"), None);
        assert_eq!(sent("other", "https://bank:1"), None);
    }

    #[test]
    fn a_mistake_is_told_without_names_and_tokens() {
        let path = Path::new("tokens");
        for (text, rule) in [
            ("secret", "line 1: it must be TOML"),
            ("a = \"x\"\nsecret = \"y\"\nsecret = \"z\"", "line 3: it must be TOML"),
            ("bank = 7", "entry 1 by name: its token must be a text"),
            ("bank = \"\"", "entry 1 by name: its token must be a text"),
            ("bank = \"secret secret\"", "entry 1 by name: its token must be a text"),
            ("\"the secret\" = \"bank\"", "entry 1 by name: its name "),
        ] {
            let error = check(path, text).expect_err(rule).to_string();
            assert!(error.contains(rule) && !error.contains("secret"), "{rule} in: {error}");
        }
        check(path, "").expect("nobody");
    }
}
