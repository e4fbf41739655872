//! Payloads and outputs that a caller may not read: it is told their sizes and media types.

use unanimo_core::ParticipantName;
use unanimo_proto::v1;

use super::Api;
use super::access::Access;
use crate::engine::View;

impl Api {
    /// Tells whether a caller may read payloads and outputs of this transaction.
    pub(super) fn may_read(&self, access: &Access, view: &View) -> bool {
        self.options.viewers_see_payloads || access.reads(view)
    }
}

/// Hides what a transaction holds from a caller who may not read it. A participant reads its own branches: it was sent them.
pub(super) fn hide(access: &Access, transaction: &mut v1::Transaction) {
    for branch in &mut transaction.branches {
        if !ParticipantName::full(&branch.participant).is_ok_and(|name| access.is(&name)) {
            branch.hidden_payload = branch.payload.take().map(hidden);
            branch.hidden_output = branch.output.take().map(hidden);
        }
    }
}

fn hidden(content: v1::Payload) -> v1::HiddenContent {
    v1::HiddenContent { byte_count: content.data.len() as u64, media_type: content.media_type }
}
