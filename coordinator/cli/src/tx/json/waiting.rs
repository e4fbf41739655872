//! The answer to "why is it waiting?" as JSON.

use serde::Serialize;
use unanimo_proto::v1;

use super::{some, words};

/// Thing that an open transaction waits for.
#[derive(Serialize)]
pub(super) struct Waiting {
    cause: String,
    branch_id: Option<String>,
    since: Option<String>,
    until: Option<String>,
    branch_count: u32,
    sentence: String,
}

impl From<v1::Waiting> for Waiting {
    fn from(waiting: v1::Waiting) -> Self {
        Self {
            cause: words::wait_cause(waiting.cause()),
            branch_id: some(waiting.branch_id),
            since: waiting.since.map(words::time),
            until: waiting.until.map(words::time),
            branch_count: waiting.branch_count,
            sentence: waiting.sentence,
        }
    }
}
