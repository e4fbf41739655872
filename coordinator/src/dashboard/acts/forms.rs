//! Forms that act: fields of what is sent, and the mark by which a form is known to be of a page that was shown.

use jiff::{SignedDuration, Timestamp};
use ring::hmac;
use ring::rand::SystemRandom;
use uuid::Uuid;

/// Longest time between a form and its sending.
pub(super) const KEPT: SignedDuration = SignedDuration::from_hours(1);

/// Name of the field with the mark.
pub(super) const MARK: &str = "form";

/// Maker of marks. A form counts for one identity, one address, an hour, and until the coordinator ends.
#[derive(Debug)]
pub(super) struct Forms(hmac::Key);

/// Form that a page has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Form {
    /// Time of its page.
    pub(super) made: Timestamp,
    pub(super) id: Uuid,
}

impl Forms {
    pub(super) fn new() -> Self {
        let random = SystemRandom::new();
        Self(hmac::Key::generate(hmac::HMAC_SHA256, &random).expect("the system has random bytes"))
    }

    /// Makes the mark of a form that is shown to this identity, and sent to this address.
    pub(super) fn mark(&self, who: &str, address: &str, now: Timestamp) -> String {
        let head = format!("{}.{}", now.as_microsecond(), Uuid::new_v4().simple());
        let tag = hmac::sign(&self.0, signed(&head, who, address).as_bytes());
        let tag: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{head}.{tag}")
    }

    /// Returns the form with this mark, if it is one of this identity and address, and not old.
    pub(super) fn check(
        &self,
        mark: &str,
        who: &str,
        address: &str,
        now: Timestamp,
    ) -> Option<Form> {
        let (head, tag) = mark.rsplit_once('.')?;
        let tag = bytes_of(tag)?;
        hmac::verify(&self.0, signed(head, who, address).as_bytes(), &tag).ok()?;
        let (made, id) = head.split_once('.')?;
        let made = Timestamp::from_microsecond(made.parse().ok()?).ok()?;
        let form = Form { made, id: Uuid::parse_str(id).ok()? };
        (now.duration_since(made) <= KEPT).then_some(form)
    }
}

/// Returns what is signed: no part has the sign between them.
fn signed(head: &str, who: &str, address: &str) -> String {
    [head, who, address].join("\0")
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    let pairs = digits.chunks_exact(2).map(|pair| {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        u8::try_from(high? * 16 + low?).ok()
    });
    pairs.collect()
}

/// Fields of a form, or of a query.
#[derive(Debug, Default)]
pub(in crate::dashboard) struct Fields(Vec<(String, String)>);

impl Fields {
    pub(in crate::dashboard) fn of(text: &str) -> Self {
        let decoded = |text: &str| {
            let text = text.replace('+', " ");
            percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        let parts = text.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
        Self(parts.map(|(name, text)| (decoded(name), decoded(text))).collect())
    }

    /// Returns the name of a field that is none of these.
    pub(in crate::dashboard) fn other_than(&self, names: &[&str]) -> Option<&str> {
        let mut all = self.0.iter().map(|(name, _)| name.as_str());
        all.find(|name| !name.is_empty() && !names.contains(name))
    }

    /// Returns how often a field is there.
    pub(in crate::dashboard) fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|(of, _)| of == name).count()
    }

    /// Returns the text of a field; empty if it is not there.
    pub(in crate::dashboard) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(of, _)| of == name).map_or("", |(_, text)| text.trim())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_counts_for_one_identity_one_address_and_an_hour() {
        let (forms, others) = (Forms::new(), Forms::new());
        let made: Timestamp = "2026-03-04T12:00:00Z".parse().expect("a time");
        let at = |secs: i64| Timestamp::from_second(made.as_second() + secs).expect("a time");
        let mark = forms.mark("ann", "/tx/1/retry", made);
        let form = forms.check(&mark, "ann", "/tx/1/retry", at(3_600));
        assert_eq!(form.map(|form| form.made), Some(made), "it has the time of its page");
        let again = forms.check(&mark, "ann", "/tx/1/retry", made);
        assert_eq!(again, form, "twice it is the same form");
        assert_ne!(mark, forms.mark("ann", "/tx/1/retry", made));
        for (forms, mark, who, address, now) in [
            (&others, mark.as_str(), "ann", "/tx/1/retry", made),
            (&forms, &mark, "bob", "/tx/1/retry", made),
            (&forms, &mark, "", "/tx/1/retry", made),
            (&forms, &mark, "ann", "/tx/2/retry", made),
            (&forms, &mark, "ann", "/tx/1/retry", at(3_601)),
            (&forms, &mark[..mark.len() - 2], "ann", "/tx/1/retry", made),
            (&forms, &format!("1{mark}"), "ann", "/tx/1/retry", made),
            (&forms, "", "ann", "/tx/1/retry", made),
            (&forms, "é.é", "ann", "/tx/1/retry", made),
        ] {
            assert_eq!(forms.check(mark, who, address, now), None, "{mark} {who} {address} {now}");
        }
    }

    #[test]
    fn fields_are_decoded() {
        let fields = Fields::of("note=+a%20b%26c+&x&y=1&y=2&%6e=%c3%a9");
        assert_eq!(
            ["note", "x", "y", "n", "none"].map(|name| fields.get(name)),
            ["a b&c", "", "1", "é", ""]
        );
    }
}
