//! Ends of the attempts to send an event that are no success, and what is told of them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use unanimo_core::Timestamp;

use super::super::Webhook;
use super::Sender;
use crate::alarm::{WEBHOOK_DEAD_LETTERS, WEBHOOK_FAILING, WEBHOOK_MISSED, WEBHOOK_STOPPED};
use crate::store::{DeadLetter, Error, FeedRow, WebhookPlace};

/// Time without success from which on the alarm is raised, and pause before it is told again.
const FAILING_MAX: Duration = Duration::from_secs(60);

/// Most bytes of a cause that is kept.
const CAUSE_BYTES_MAX: usize = 512;

/// Returns the mark of an address whose receiver has gone: with another address it is another receiver.
pub(super) fn mark(webhook: &Webhook) -> Vec<u8> {
    Sha256::digest(webhook.url.to_string()).to_vec()
}

/// Time in which a receiver takes nothing. It goes by the time of day only for what an earlier process has seen of it:
/// a clock that is set gives nothing up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failing {
    since: Timestamp,
    /// Time for which it had lasted by then.
    before: Duration,
    from: Instant,
}

impl Failing {
    pub(super) fn begins(now: Timestamp) -> Self {
        Self { since: now, before: Duration::ZERO, from: Instant::now() }
    }

    /// Goes on with what is stored, unless it is known already.
    pub(super) fn stored(
        known: Option<Self>,
        since: Option<Timestamp>,
        now: Timestamp,
    ) -> Option<Self> {
        let since = since?;
        let goes_on = known.filter(|known| known.since == since);
        Some(goes_on.unwrap_or_else(|| Self { before: since.until(now), ..Self::begins(since) }))
    }

    pub(super) fn lasted(&self) -> Duration {
        self.before + self.from.elapsed()
    }
}

impl Sender {
    /// Returns since when its receiver takes nothing.
    pub(super) fn failing_since(&self) -> Option<Timestamp> {
        self.failing.map(|failing| failing.since)
    }

    /// Makes a dead letter of an event, and goes beyond it, in one step.
    pub(super) async fn give_up(
        &mut self,
        row: &FeedRow,
        attempts: u32,
        mut cause: String,
    ) -> Result<bool, Error> {
        cause.truncate(cause.floor_char_boundary(CAUSE_BYTES_MAX));
        let name = self.name().to_owned();
        let Some(place) = self.place.clone() else { return Ok(false) };
        let (after, failing_since) = (row.revision, self.failing_since());
        let dead = DeadLetter {
            webhook: name.clone(),
            revision: row.revision,
            tx_id: row.tx_id,
            body: row.body.clone(),
            died_at: self.parts.env.now(),
            attempts,
            cause: cause.clone(),
            is_due: false,
        };
        let to = WebhookPlace { after, failing_since, ..place };
        if !self.put(to, Some(dead)).await? {
            return Ok(false);
        }
        self.parts.metrics.webhook_given_up(&name);
        tracing::error!(
            alarm = WEBHOOK_DEAD_LETTERS,
            webhook = name,
            revision = row.revision,
            tx_id = %row.tx_id,
            attempts,
            cause,
            "a receiver did not take an event, which is a dead letter now"
        );
        Ok(true)
    }

    /// Stops, because the receiver has said that it is gone.
    pub(super) async fn stop(&mut self) -> Result<bool, Error> {
        let Some(place) = self.place.clone() else { return Ok(false) };
        let gone = mark(&self.live.webhook);
        let to = WebhookPlace { after: self.seen, failing_since: None, gone, ..place };
        if self.put(to, None).await? {
            self.failing = None;
            // A test from before says nothing of it.
            self.live.is_back.store(false, Ordering::SeqCst);
            tracing::error!(
                alarm = WEBHOOK_STOPPED,
                webhook = self.name(),
                "a receiver has answered 410 Gone: it is sent nothing until it takes a test event or has another url"
            );
        }
        Ok(false)
    }

    /// Waits until a receiver that was gone has taken a test event.
    pub(super) async fn wait_for_return(&mut self) -> Result<(), Error> {
        while !self.live.is_back.swap(false, Ordering::SeqCst) {
            self.live.wake.notified().await;
            if self.live.is_to_end() {
                return Ok(());
            }
        }
        if let Some(place) = self.place.clone() {
            self.put(WebhookPlace { gone: Vec::new(), ..place }, None).await?;
            self.live.lock().last_error.clear();
        }
        self.may_be_due = true;
        Ok(())
    }

    /// Raises the alarm once nothing was taken for a while, and again now and then.
    pub(super) fn tell_failing(&mut self, failing: Duration, cause: &str) {
        let webhook = self.name();
        tracing::debug!(webhook, cause, "a receiver did not take an event");
        let is_told = self.told_failing.is_some_and(|told| told.elapsed() < FAILING_MAX);
        if failing < FAILING_MAX || is_told {
            return;
        }
        let failing_secs = failing.as_secs();
        tracing::error!(
            alarm = WEBHOOK_FAILING,
            webhook,
            failing_secs,
            cause,
            "a receiver takes no events: they are sent again"
        );
        self.told_failing = Some(Instant::now());
    }

    /// Tells that events behind a revision, up to another one, are not there any more.
    pub(super) fn tell_missed(&self, after: u64, up_to: u64, why: &str) {
        let webhook = self.name();
        self.parts.metrics.webhook_missed(webhook);
        tracing::error!(
            alarm = WEBHOOK_MISSED,
            webhook,
            after_revision = after,
            up_to_revision = up_to,
            why,
            "events between these revisions may not have been sent"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_does_not_prolong_a_failure() {
        let (hour, minute) = (Duration::from_secs(3_600), Duration::from_secs(60));
        let begun = Timestamp(1_000_000);
        let failing = Failing { before: minute, ..Failing::begins(begun) };
        let is =
            |failing: Failing, time: Duration| (time..time + minute).contains(&failing.lasted());
        assert!(is(failing, minute));
        // It is read again while the clock is an hour ahead.
        let again =
            Failing::stored(Some(failing), Some(begun), begun.after(hour)).expect("it fails");
        assert!(is(again, minute), "{again:?}");
        // A successor knows no more than the time of day.
        let successor = Failing::stored(None, Some(begun), begun.after(hour)).expect("it fails");
        assert!(is(successor, hour), "{successor:?}");
        assert!(Failing::stored(Some(failing), None, begun).is_none());
    }
}
