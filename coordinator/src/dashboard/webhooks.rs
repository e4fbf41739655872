//! State of the webhooks, for those who may see it.

use serde::Deserialize;

use super::Looking;
use super::pulse::Number;
use super::words::word;

/// Webhooks of a page.
#[derive(Debug, Default)]
pub(super) enum Webhooks {
    /// The one who looks may not see them.
    #[default]
    Hidden,
    /// They cannot be read.
    Unread,
    Read(Vec<Webhook>),
}

/// Answer of ListWebhooks.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct List {
    webhooks: Vec<Webhook>,
}

/// A webhook, and how far it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Webhook {
    pub(super) name: String,
    pub(super) url: String,
    state: String,
    pub(super) failing_since: String,
    pub(super) last_error: String,
    pub(super) next_occurred_at: String,
    pub(super) dead_letters: Number,
}

impl Webhooks {
    /// Reads them for whoever looks.
    pub(super) async fn of(looking: &Looking) -> Self {
        if !looking.api().is_ok_and(|api| api.may_see_webhooks(&looking.asker)) {
            return Self::Hidden;
        }
        match looking.get::<List>("/v1/webhooks").await {
            Ok(List { webhooks }) => Self::Read(webhooks),
            Err(_) => Self::Unread,
        }
    }

    /// Tells whether there is anything to show.
    pub(super) fn is_any(&self) -> bool {
        match self {
            Self::Hidden => false,
            Self::Unread => true,
            Self::Read(list) => !list.is_empty(),
        }
    }

    /// Returns them, if they could be read.
    pub(super) fn list(&self) -> Option<&[Webhook]> {
        match self {
            Self::Read(list) => Some(list),
            Self::Hidden | Self::Unread => None,
        }
    }
}

impl Webhook {
    pub(super) fn word(&self) -> String {
        word(&self.state, "WEBHOOK_STATE_")
    }

    pub(super) fn tone(&self) -> &'static str {
        if self.state == "WEBHOOK_STATE_DELIVERING" { "good" } else { "bad" }
    }

    pub(super) fn has_dead_letters(&self) -> bool {
        self.dead_letters.0 > 0
    }
}
