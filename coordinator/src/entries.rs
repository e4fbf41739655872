//! Files in TOML whose entries have secrets: errors name the line, the key and the rule, and repeat no value.

use serde::de::DeserializeOwned;
use unanimo_tls::{Error, File};

/// Text of such a file.
#[derive(Debug)]
pub(crate) struct Entries<'a> {
    file: &'a File,
    text: &'a str,
}

impl<'a> Entries<'a> {
    /// Takes the content of a file.
    ///
    /// # Errors
    /// It is no text.
    pub(crate) fn new(file: &'a File, content: &'a [u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(content).map_err(|_| file.breaks("it must be UTF-8"))?;
        Ok(Self { file, text })
    }

    /// Returns the line of a place.
    pub(crate) fn line_at(&self, start: usize) -> usize {
        1 + self.text.get(..start).unwrap_or_default().matches('\n').count()
    }

    /// Reads the tables of this name, whose keys have these rules.
    ///
    /// # Errors
    /// It is malformed.
    pub(crate) fn read<T: DeserializeOwned>(
        &self,
        table: &str,
        rule_of: impl Fn(&str) -> Option<&'static str>,
    ) -> Result<T, Error> {
        let place = |error: &toml::de::Error| {
            format!("line {}", error.span().map_or(1, |span| self.line_at(span.start)))
        };
        // A syntax error is told in the parser's words, which are of the syntax.
        let _: toml::Table = toml::from_str(self.text)
            .map_err(|error| self.file.breaks(format!("{}: {}", place(&error), error.message())))?;
        let reader = toml::Deserializer::parse(self.text)
            .map_err(|error| self.file.breaks(place(&error)))?;
        serde_path_to_error::deserialize(reader).map_err(|error| {
            let key = key_of(error.path());
            let (words, place) = (error.inner().message(), place(error.inner()));
            // Words about a key that is not known or is missing repeat no value.
            let is_of_key =
                ["unknown field ", "missing field "].iter().any(|w| words.starts_with(w));
            let words = match rule_of(&key) {
                _ if is_of_key => words.to_owned(),
                Some(rule) => format!("{key}: {rule}"),
                None => format!("must be tables with the name [[{table}]]"),
            };
            self.file.breaks(format!("{place}: {words}"))
        })
    }
}

/// Returns the key of an entry at which reading has failed; empty if it is none.
fn key_of(path: &serde_path_to_error::Path) -> String {
    let mut keys = path.iter().filter_map(|segment| match segment {
        serde_path_to_error::Segment::Map { key } => Some(key.clone()),
        _ => None,
    });
    // The first one is the name of the list of entries.
    keys.nth(1).unwrap_or_default()
}
