//! Filter of a list, as the address of its page has it.

use super::acts::forms::Fields;
use crate::api::http::encoded;

/// Names in the address, which are those of the form.
const NAMES: [&str; 9] = [
    "states",
    "modes",
    "gidPrefix",
    "participant",
    "metadata",
    "from",
    "until",
    "attention",
    "pageToken",
];

/// Filter of a list. What is empty chooses nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) states: String,
    pub(super) modes: String,
    pub(super) gid_prefix: String,
    pub(super) participant: String,
    /// Entry of the metadata: `KEY=VALUE`.
    pub(super) metadata: String,
    /// Times between which it was begun, in UTC, as a browser sends them: `2026-01-31T12:00`.
    pub(super) from: String,
    pub(super) until: String,
    pub(super) attention: String,
    pub(super) page_token: String,
}

impl Filter {
    /// Reads the query of an address. The error names what is in it and is no part of a filter.
    pub(super) fn of(query: &str) -> Result<Self, String> {
        let fields = Fields::of(query);
        match fields.other_than(&NAMES) {
            Some(other) => {
                Err(format!("{other} is no part of a filter: there are {}.", NAMES.join(", ")))
            }
            None => Self::among(&fields),
        }
    }

    /// Reads a filter that is a part of a form.
    pub(super) fn among(fields: &Fields) -> Result<Self, String> {
        let text = |name| fields.get(name).to_owned();
        let filter = Self {
            states: text("states"),
            modes: text("modes"),
            gid_prefix: text("gidPrefix"),
            participant: text("participant"),
            metadata: text("metadata"),
            from: text("from"),
            until: text("until"),
            attention: text("attention"),
            page_token: text("pageToken"),
        };
        match filter.metadata.split_once('=') {
            None if !filter.metadata.is_empty() => Err("metadata must be KEY=VALUE.".to_owned()),
            _ => Ok(filter),
        }
    }

    /// Returns the same for the page after.
    pub(super) fn after(&self, token: &str) -> Self {
        Self { page_token: token.to_owned(), ..self.clone() }
    }

    /// Returns what it chooses by, as a form has it.
    pub(super) fn choices(&self) -> Vec<(&'static str, &str)> {
        let values = [
            &self.states,
            &self.modes,
            &self.gid_prefix,
            &self.participant,
            &self.metadata,
            &self.from,
            &self.until,
            &self.attention,
            &self.page_token,
        ];
        let fields = NAMES.into_iter().zip(values).map(|(name, text)| (name, text.as_str()));
        fields.filter(|(_, text)| !text.is_empty()).collect()
    }

    /// Returns it as the query of a page's address.
    pub(super) fn query(&self) -> String {
        joined(self.choices().into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())))
    }

    /// Returns it as the query of the API.
    pub(super) fn question(&self) -> String {
        let entry = self
            .metadata
            .split_once('=')
            .map(|(key, value)| (format!("metadata[{}]", key.trim()), value.trim().to_owned()));
        let field = |name: &str, text: &String| (name.to_owned(), text.clone());
        let fields = [
            field("states", &self.states),
            field("modes", &self.modes),
            field("gidPrefix", &self.gid_prefix),
            field("participant", &self.participant),
            field("createdFrom", &time(&self.from)),
            field("createdUntil", &time(&self.until)),
            field("attention", &self.attention),
            field("pageToken", &self.page_token),
        ];
        joined(fields.into_iter().chain(entry))
    }
}

fn joined(fields: impl Iterator<Item = (String, String)>) -> String {
    let set = fields.filter(|(_, text)| !text.is_empty());
    set.map(|(name, text)| format!("{}={}", encoded(&name), encoded(&text)))
        .collect::<Vec<_>>()
        .join("&")
}

/// Returns a time of a form, which has no zone and often no seconds, as the API wants it. Anything else stays as it is, and
/// is refused by its name.
fn time(text: &str) -> String {
    match text.len() {
        16 if text.as_bytes()[10] == b'T' => format!("{text}:00Z"),
        19 if text.as_bytes()[10] == b'T' => format!("{text}Z"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_in_the_address_and_in_the_question() {
        let query = "states=TRANSACTION_STATE_ACTIVE&modes=&gidPrefix=a+b&metadata=region%3Deu%3D1\
                     &from=2026-01-31T12%3A00&until=2026-01-31T12%3A00%3A01&pageToken=x";
        let filter = Filter::of(query).expect("a filter");
        assert_eq!(
            filter.query(),
            "states=TRANSACTION_STATE_ACTIVE&gidPrefix=a%20b&metadata=region%3Deu%3D1\
             &from=2026-01-31T12%3A00&until=2026-01-31T12%3A00%3A01&pageToken=x"
        );
        assert_eq!(Filter::of(&filter.query()).expect("a filter").query(), filter.query());
        assert_eq!(
            filter.question(),
            "states=TRANSACTION_STATE_ACTIVE&gidPrefix=a%20b&createdFrom=2026-01-31T12%3A00%3A00Z\
             &createdUntil=2026-01-31T12%3A00%3A01Z&pageToken=x&metadata%5Bregion%5D=eu%3D1"
        );
        assert_eq!(Filter::of("").expect("none").question(), "");
    }

    #[test]
    fn what_is_no_part_of_a_filter_is_named() {
        let error = Filter::of("state=x").expect_err("it is misspelt");
        assert!(error.starts_with("state is no part of a filter: there are states, "), "{error}");
        assert_eq!(Filter::of("metadata=eu").expect_err("no key"), "metadata must be KEY=VALUE.");
    }
}
