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
    /// Times between which it was begun, in UTC: `2026-01-31`, `2026-01-31 12:00`, or as the API has them.
    pub(super) from: String,
    pub(super) until: String,
    pub(super) attention: String,
    pub(super) page_token: String,
}

impl Filter {
    /// Reads the query of an address. The error names what is in it and is no part of a filter.
    pub(super) fn of(query: &str) -> Result<Self, String> {
        Self::with(query, &NAMES)
    }

    /// Reads the query of a page that has no filter, but pages after the first.
    pub(super) fn of_page(query: &str) -> Result<Self, String> {
        Self::with(query, &["pageToken"])
    }

    fn with(query: &str, names: &[&str]) -> Result<Self, String> {
        let fields = Fields::of(query);
        match fields.other_than(names) {
            Some(other) => {
                let names = names.join(", ");
                Err(format!("{other} is no part of what this page is chosen by: {names}."))
            }
            None => Self::among(&fields),
        }
    }

    /// Reads a filter that is a part of a form.
    pub(super) fn among(fields: &Fields) -> Result<Self, String> {
        if let Some(name) = NAMES.iter().find(|name| fields.count(name) > 1) {
            return Err(format!("{name} must not be there twice."));
        }
        let filter = Self::read(fields);
        match filter.metadata.split_once('=') {
            None | Some(("", _)) if !filter.metadata.is_empty() => {
                Err("metadata must be KEY=VALUE.".to_owned())
            }
            _ => Ok(filter),
        }
    }

    /// Reads what was typed, whatever is wrong with it.
    pub(super) fn typed(query: &str) -> Self {
        Self::read(&Fields::of(query))
    }

    fn read(fields: &Fields) -> Self {
        let text = |name| fields.get(name).to_owned();
        Self {
            states: text("states"),
            modes: text("modes"),
            gid_prefix: text("gidPrefix"),
            participant: text("participant"),
            metadata: text("metadata"),
            from: text("from"),
            until: text("until"),
            attention: text("attention"),
            page_token: text("pageToken"),
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
        // An entry may have an empty value, and chooses all the same.
        let entry = self.metadata.split_once('=').map(|(key, value)| {
            format!("{}={}", encoded(&format!("metadata[{key}]")), encoded(value))
        });
        let fields = Some(joined(fields.into_iter())).filter(|fields| !fields.is_empty());
        fields.into_iter().chain(entry).collect::<Vec<_>>().join("&")
    }
}

fn joined(fields: impl Iterator<Item = (String, String)>) -> String {
    let set = fields.filter(|(_, text)| !text.is_empty());
    set.map(|(name, text)| format!("{}={}", encoded(&name), encoded(&text)))
        .collect::<Vec<_>>()
        .join("&")
}

/// Returns a time of a form as the API wants it: in UTC, with seconds. Anything else stays as it is, and is refused by its
/// name.
fn time(text: &str) -> String {
    let (date, hours) = text.split_once([' ', 'T']).unwrap_or((text, ""));
    match (date.len(), hours.len()) {
        (10, 0) => format!("{date}T00:00:00Z"),
        (10, 5) => format!("{date}T{hours}:00Z"),
        (10, 8) => format!("{date}T{hours}Z"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads what need not be encoded as it is.
    fn plain(text: &str) -> String {
        text.replace("%5F", "_").replace("%2D", "-")
    }

    #[test]
    fn a_filter_is_in_the_address_and_in_the_question() {
        let query = "states=TRANSACTION_STATE_ACTIVE&modes=&gidPrefix=a+b&metadata=region%3Deu%3D1\
                     &from=2026-01-31T12%3A00&until=2026-01-31T12%3A00%3A01&pageToken=x";
        let filter = Filter::of(query).expect("a filter");
        assert_eq!(
            plain(&filter.query()),
            "states=TRANSACTION_STATE_ACTIVE&gidPrefix=a%20b&metadata=region%3Deu%3D1\
             &from=2026-01-31T12%3A00&until=2026-01-31T12%3A00%3A01&pageToken=x"
        );
        assert_eq!(Filter::of(&filter.query()).expect("a filter").query(), filter.query());
        assert_eq!(
            plain(&filter.question()),
            "states=TRANSACTION_STATE_ACTIVE&gidPrefix=a%20b&createdFrom=2026-01-31T12%3A00%3A00Z\
             &createdUntil=2026-01-31T12%3A00%3A01Z&pageToken=x&metadata%5Bregion%5D=eu%3D1"
        );
        assert_eq!(Filter::of("").expect("none").question(), "");
        for (query, question) in [
            ("metadata=region%3D", "metadata%5Bregion%5D="),
            ("from=2026-01-31", "createdFrom=2026-01-31T00%3A00%3A00Z"),
            ("from=2026-01-31+12%3A00", "createdFrom=2026-01-31T12%3A00%3A00Z"),
            ("from=2026-01-31T12%3A00%3A00Z", "createdFrom=2026-01-31T12%3A00%3A00Z"),
            ("until=yesterday", "createdUntil=yesterday"),
        ] {
            assert_eq!(plain(&Filter::of(query).expect("a filter").question()), question);
        }
    }

    #[test]
    fn what_is_no_part_of_a_filter_is_named() {
        let error = Filter::of("state=x").expect_err("it is misspelt");
        assert!(error.starts_with("state is no part of what this page is chosen by: states, "));
        let error = Filter::of_page("participant=p").expect_err("the page has no filter");
        assert_eq!(error, "participant is no part of what this page is chosen by: pageToken.");
        for (query, error) in [
            ("metadata=eu", "metadata must be KEY=VALUE."),
            ("metadata=%3Deu", "metadata must be KEY=VALUE."),
            ("metadata=a%3D1&metadata=b%3D2", "metadata must not be there twice."),
            ("states=x&states=", "states must not be there twice."),
        ] {
            assert_eq!(Filter::of(query).expect_err(query), error);
        }
    }
}
