//! The transaction that a request belongs to, as headers.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use unanimo_proto::v1::Mode;
use uuid::Uuid;

use crate::names::{CLUSTER_BYTES_MAX, ID_BYTES_MAX, is_name};

/// The transaction's `tx_id`: a UUID in its canonical form. Also on a reply that names branches.
pub const TX_ID: HeaderName = HeaderName::from_static("unanimo-tx-id");

/// The transaction's gid.
pub const GID: HeaderName = HeaderName::from_static("unanimo-gid");

/// Mode of the branches that join for the request: `tcc`, `2pc` or `saga`.
pub const MODE: HeaderName = HeaderName::from_static("unanimo-mode");

/// Id of the coordinator group that the transaction belongs to.
pub const CLUSTER_ID: HeaderName = HeaderName::from_static("unanimo-cluster-id");

/// Beginning of the names of all these headers, of later versions, too.
const PREFIX: &str = "unanimo-";

/// Headers of a request.
const KNOWN: [HeaderName; 4] = [TX_ID, GID, MODE, CLUSTER_ID];

/// The transaction that a request belongs to: four headers of the request, all or none of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    tx_id: Uuid,
    gid: String,
    mode: Mode,
    cluster_id: String,
}

/// Bytes of a header's name in a text: its caller chose it, and a reply has room for so much.
const SHOWN_BYTES_MAX: usize = 128;

/// Returns a header's name, cut off where it is long.
fn shown(header: &HeaderName) -> String {
    let name = header.as_str();
    match name.get(..SHOWN_BYTES_MAX) {
        Some(begin) if name.len() > SHOWN_BYTES_MAX => format!("{begin}…"),
        _ => name.to_owned(),
    }
}

/// A header that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header {} {rule}", shown(.header))]
pub struct Malformed {
    /// The header.
    pub header: HeaderName,
    /// The rule.
    pub rule: String,
    /// It may well be right, and this version does not know it.
    unsupported: bool,
}

impl Malformed {
    pub(super) fn new(header: HeaderName, rule: impl Into<String>) -> Self {
        Self { header, rule: rule.into(), unsupported: false }
    }

    /// A header of a later version. It may change the meaning of the request, so nobody may drop it.
    fn unsupported(header: HeaderName) -> Self {
        let rule = "is not supported by this service (FEATURE_UNSUPPORTED); it knows unanimo-tx-id, \
                    unanimo-gid, unanimo-mode and unanimo-cluster-id";
        Self { header, rule: rule.to_owned(), unsupported: true }
    }

    /// Tells whether the header is of a later version, and not wrong.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.unsupported
    }
}

impl Context {
    /// The context of a transaction.
    ///
    /// # Errors
    /// A part of it breaks its rule.
    pub fn new(
        tx_id: &str,
        gid: impl Into<String>,
        mode: Mode,
        cluster_id: impl Into<String>,
    ) -> Result<Self, Malformed> {
        let (gid, cluster_id) = (gid.into(), cluster_id.into());
        let canonical = Uuid::parse_str(tx_id).ok().filter(|parsed| parsed.to_string() == tx_id);
        let tx_id = canonical.ok_or_else(|| {
            Malformed::new(TX_ID, "must be a UUID of 36 characters, lower case, with hyphens")
        })?;
        if mode == Mode::Unspecified {
            return Err(Malformed::new(MODE, MODE_RULE));
        }
        for (header, text, bytes_max) in
            [(GID, &gid, ID_BYTES_MAX), (CLUSTER_ID, &cluster_id, CLUSTER_BYTES_MAX)]
        {
            if !is_name(text, bytes_max) {
                let rule = format!(
                    "must be 1 to {bytes_max} bytes of [A-Za-z0-9_.:-], and begin with a letter, a digit or _"
                );
                return Err(Malformed::new(header, rule));
            }
        }
        Ok(Self { tx_id, gid, mode, cluster_id })
    }

    /// The context of a request; `None` if it is outside any transaction.
    ///
    /// # Errors
    /// A header is missing, there twice, or breaks its rule; or there is another header whose name
    /// begins with `unanimo-`, with these or without: a later version may put there what this request
    /// means.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, Malformed> {
        let later = |name: &&HeaderName| name.as_str().starts_with(PREFIX) && !KNOWN.contains(name);
        if let Some(header) = headers.keys().find(later) {
            return Err(Malformed::unsupported(header.clone()));
        }
        if !KNOWN.iter().any(|name| headers.contains_key(name)) {
            return Ok(None);
        }
        let (tx_id, gid) = (single(headers, TX_ID)?, single(headers, GID)?);
        let mode = match single(headers, MODE)? {
            "tcc" => Mode::Tcc,
            "2pc" => Mode::TwoPhaseCommit,
            "saga" => Mode::Saga,
            _ => return Err(Malformed::new(MODE, MODE_RULE)),
        };
        Self::new(tx_id, gid, mode, single(headers, CLUSTER_ID)?).map(Some)
    }

    /// Puts it on a request, in place of any that is there.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        let mode = match self.mode {
            Mode::TwoPhaseCommit => "2pc",
            Mode::Saga => "saga",
            Mode::Tcc | Mode::Unspecified => "tcc",
        };
        let tx_id = self.tx_id.to_string();
        for (header, text) in
            [(TX_ID, &*tx_id), (GID, &*self.gid), (MODE, mode), (CLUSTER_ID, &*self.cluster_id)]
        {
            headers.insert(header, value(text));
        }
    }

    /// The coordinator's name for the transaction.
    #[must_use]
    pub fn tx_id(&self) -> Uuid {
        self.tx_id
    }

    /// The initiator's name for the transaction.
    #[must_use]
    pub fn gid(&self) -> &str {
        &self.gid
    }

    /// The mode of the branches that join.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The coordinator group that the transaction belongs to.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }
}

const MODE_RULE: &str = "must be tcc, 2pc or saga";

/// A text of the alphabet of names as a header's value.
pub(super) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text)
        .expect("the alphabet of names has nothing that a header cannot hold")
}

/// A header that must be there once. A second one would be a matter of taste between two readers.
fn single(headers: &HeaderMap, name: HeaderName) -> Result<&str, Malformed> {
    let mut values = headers.get_all(&name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        let rule = "must be there once, as all of unanimo-tx-id, unanimo-gid, unanimo-mode and \
                    unanimo-cluster-id";
        return Err(Malformed::new(name, rule));
    };
    value.to_str().map_err(|_| Malformed::new(name, "must be of printable ASCII characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn headers(parts: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, text) in parts {
            headers.append(*name, HeaderValue::from_str(text).expect("a value"));
        }
        headers
    }

    #[test]
    fn a_context_comes_back_and_no_header_is_no_transaction() {
        for mode in [Mode::Tcc, Mode::TwoPhaseCommit, Mode::Saga] {
            let context = Context::new(UUID, "order-1:a", mode, "c0ffee").expect("a context");
            let mut headers = headers(&[("unanimo-gid", "of somebody else")]);
            context.write_to(&mut headers);
            assert_eq!(Context::from_headers(&headers), Ok(Some(context)));
        }
        assert_eq!(Context::from_headers(&headers(&[("traceparent", "00-…")])), Ok(None));
    }

    #[test]
    fn a_malformed_header_is_named_with_its_rule() {
        let good = [
            ("unanimo-tx-id", UUID),
            ("unanimo-gid", "g"),
            ("unanimo-mode", "tcc"),
            ("unanimo-cluster-id", "c"),
        ];
        let (long, longer) = ("g".repeat(129), "c".repeat(33));
        for (name, text) in [
            ("unanimo-tx-id", "4711"),
            ("unanimo-tx-id", "01890A5D-AC96-774B-BCCE-B302099A8057"),
            ("unanimo-tx-id", "01890a5dac96774bbcceb302099a8057"),
            ("unanimo-gid", ""),
            ("unanimo-gid", "a b"),
            ("unanimo-gid", "é"),
            ("unanimo-gid", &long),
            ("unanimo-mode", "TCC"),
            ("unanimo-mode", "xa"),
            ("unanimo-cluster-id", "a/b"),
            ("unanimo-cluster-id", &longer),
        ] {
            let mut bad = headers(&good);
            bad.insert(name, HeaderValue::from_bytes(text.as_bytes()).expect("a value"));
            let error = Context::from_headers(&bad).expect_err(text);
            assert_eq!(error.header, name, "{text}");
            assert!(error.to_string().starts_with(&format!("header {name} must be")), "{error}");
        }
        for with_context in [true, false] {
            let mut later = headers(if with_context { &good } else { &[] });
            later.insert("unanimo-sealed", HeaderValue::from_static("1"));
            let error = Context::from_headers(&later).expect_err("a later version's");
            assert!(error.is_unsupported(), "{error}");
            let text = error.to_string();
            assert!(text.starts_with("header unanimo-sealed is not supported"), "{text}");
            assert!(text.contains("FEATURE_UNSUPPORTED"), "{text}");
        }
        for (name, _) in good {
            let mut missing = headers(&good);
            missing.remove(name);
            assert_eq!(Context::from_headers(&missing).expect_err(name).header, name);
            let mut twice = headers(&good);
            twice.append(name, twice[name].clone());
            assert_eq!(Context::from_headers(&twice).expect_err(name).header, name);
        }
    }
}
