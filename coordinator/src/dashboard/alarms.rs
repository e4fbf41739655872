//! Alarms that are of no transaction, and why those of transactions wait.

use std::time::{Duration, Instant};

use super::Looking;
use super::data::{Found, Participants, Tx};
use super::pulse::Statistics;
use super::webhooks::Webhooks;
use crate::alarm::TABLE;
use crate::api::http::{encoded, plain};

/// Most transactions of a page whose reason is asked for, and the longest time for that.
const EXPLAINED_MAX: usize = 50;
const EXPLAINING: Duration = Duration::from_millis(100);

/// Most participants of which it is told that they fail.
const FAILING_MAX: usize = 20;

/// Alarm of the process, or of what it works with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Alarm {
    pub(super) name: String,
    pub(super) why: String,
    /// Action for the operator; empty where the reason says it.
    pub(super) act: String,
    /// Page with more.
    pub(super) page: &'static str,
}

impl Alarm {
    /// Makes one of the process. Those that the log has are documented.
    fn of_process(name: &str, why: String) -> Self {
        let described = TABLE.iter().find(|described| described.name == name);
        let text = |of: fn(&crate::alarm::Described) -> &'static str| {
            described.map(|described| plain(of(described)).replace('`', "")).unwrap_or_default()
        };
        let first =
            |text: &str| text.split_inclusive(". ").next().unwrap_or(text).trim().to_owned();
        let reason = first(&text(|described| described.raised));
        let why = [reason, why].join(" ").trim().to_owned();
        Self { name: name.to_owned(), why, act: text(|described| described.act), page: "/system" }
    }
}

impl Looking {
    /// Returns the alarms of the process, of webhooks and of participants, for those who may see them.
    pub(super) async fn alarms(&self) -> Vec<Alarm> {
        if !self.may_see_statistics() {
            return Vec::new();
        }
        let statistics: Statistics = self.get("/v1/statistics").await.unwrap_or_default();
        let troubles = statistics.server.troubles().into_iter();
        let mut all: Vec<_> = troubles.map(|(name, why)| Alarm::of_process(name, why)).collect();
        let webhooks = Webhooks::of(self).await;
        all.extend(webhooks.list().unwrap_or_default().iter().filter_map(|webhook| {
            let why = match (webhook.has_dead_letters(), webhook.tone()) {
                (true, _) => format!("{} has {} dead letters.", webhook.name, webhook.dead_letters),
                (false, "bad") => {
                    format!("{}: {}. {}", webhook.name, webhook.word(), webhook.last_error)
                }
                (false, _) => return None,
            };
            Some(Alarm { name: "webhook".to_owned(), why, act: String::new(), page: "/system" })
        }));
        let participants: Participants = self.get("/v1/participants").await.unwrap_or_default();
        let failing = participants.participants.iter().filter(|of| of.health.failing);
        all.extend(failing.take(FAILING_MAX).map(|of| {
            let why = format!("{} {}: {}", of.name, of.health.word(), of.health.last_error);
            let name = "participant_failing".to_owned();
            Alarm { name, why, act: String::new(), page: "/participants" }
        }));
        all
    }

    /// Adds to the first ones of a list what each waits for, and its branches: a list does not tell them.
    pub(super) async fn explain(&self, list: &mut [Tx]) {
        let begun = Instant::now();
        for tx in list.iter_mut().take(EXPLAINED_MAX) {
            if begun.elapsed() > EXPLAINING {
                return;
            }
            if !tx.ended_at.is_empty() || !tx.unreadable.is_empty() {
                continue;
            }
            let address = format!("/v1/tx/{}", encoded(&tx.tx_id));
            if let Ok(Found { transaction }) = self.get(&address).await {
                tx.waiting = transaction.waiting;
                // The commands name the branch.
                tx.branches = transaction.branches;
            }
        }
    }
}
