//! Payloads and outputs that the caller may not read, as JSON.

use serde::Serialize;
use unanimo_proto::v1;

use super::some;

/// Stand-ins for the payload and the output of a branch. A key is left out where nothing is hidden.
#[derive(Serialize)]
pub(super) struct Hidden {
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden_payload: Option<Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hidden_output: Option<Content>,
}

#[derive(Serialize)]
struct Content {
    bytes: u64,
    media_type: Option<String>,
}

impl Hidden {
    pub(super) fn new(
        payload: Option<v1::HiddenContent>,
        output: Option<v1::HiddenContent>,
    ) -> Self {
        Self {
            hidden_payload: payload.map(Content::from),
            hidden_output: output.map(Content::from),
        }
    }
}

impl From<v1::HiddenContent> for Content {
    fn from(v1::HiddenContent { byte_count, media_type }: v1::HiddenContent) -> Self {
        Self { bytes: byte_count, media_type: some(media_type) }
    }
}
