//! Delivery of events to one receiver, in order and one at a time.
//!
//! The place is written behind what was taken: a crash in between repeats some events, and leaves none out. An event that
//! is given up becomes a dead letter in the step that moves the place beyond it.

mod again;
mod ends;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use unanimo_core::Timestamp;

use self::ends::{Failing, mark};
use super::attempt::{Taken, pause_after, send};
use super::service::Parts;
use super::{Begin, Live, message};
use crate::feed::{Event, Told};
use crate::outbound::Outbound;
use crate::store::{DeadLetter, Error, FeedRow, WebhookPlace, in_full};

/// Attempts that each event has, however long the receiver has taken nothing: one failure may be of the moment.
const ATTEMPTS_MIN: u32 = 3;

/// Interval at which a place is written while events are taken one after the other.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// Most events that are taken before it is written.
const UNSAVED_MAX: u32 = 32;

/// The same where nothing is sent, because no event was asked for.
const PASSED_INTERVAL: Duration = Duration::from_secs(10);

/// Dead letters that are sent again before the next new event: each may take the time of an answer.
const AGAIN_MAX: u32 = 8;

/// Cause of an event that a later version has written: that one can send it again.
const UNREADABLE: &str = "the event cannot be read by this version";

/// Between two looks for the right to send.
const LEASE_PAUSE: Duration = Duration::from_millis(200);

/// Pause where the database cannot tell yet, and longest pause after its failures.
const STORE_PAUSE: Duration = Duration::from_secs(1);
const STORE_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Sender of one webhook: to be run.
pub(super) struct Sender {
    parts: Arc<Parts>,
    outbound: Outbound,
    source: Arc<str>,
    live: Live,
    /// The place as it is stored; none before it was read, and after a failure.
    place: Option<WebhookPlace>,
    /// Generation of the server from which it was read.
    generation: Option<u64>,
    /// The last revision that was dealt with.
    seen: u64,
    failing: Option<Failing>,
    /// Events that were taken since the place was written, and when that was.
    unsaved: u32,
    saved: Instant,
    may_be_due: bool,
    told_failing: Option<Instant>,
}

impl Sender {
    pub(super) fn new(
        parts: Arc<Parts>,
        (outbound, source): (Outbound, Arc<str>),
        live: Live,
    ) -> Self {
        let (place, generation, failing, told_failing) = (None, None, None, None);
        let (seen, unsaved, saved, may_be_due) = (0, 0, Instant::now(), true);
        Self {
            parts,
            outbound,
            source,
            live,
            place,
            generation,
            seen,
            failing,
            unsaved,
            saved,
            may_be_due,
            told_failing,
        }
    }

    /// Runs until it is told to end.
    pub(super) async fn run(mut self) {
        let mut pause = STORE_PAUSE;
        loop {
            if self.live.is_to_end() {
                // What cannot be written is sent again.
                drop(self.save_unsaved().await);
                return;
            }
            match self.step().await {
                Ok(()) => pause = STORE_PAUSE,
                // The successor goes on.
                Err(Error::Fenced(_)) => std::future::pending().await,
                Err(error) => {
                    let (webhook, error) = (self.name(), in_full(&error));
                    tracing::warn!(
                        webhook,
                        error,
                        "failed to read or note what a webhook is sent; it is repeated"
                    );
                    // Nobody knows whether something was written: what is stored tells.
                    self.place = None;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(STORE_PAUSE_MAX);
                }
            }
        }
    }

    fn name(&self) -> &str {
        &self.live.webhook.name
    }

    async fn step(&mut self) -> Result<(), Error> {
        if self.parts.store.generation() != self.generation {
            self.place = None;
        }
        let Some(place) = &self.place else { return self.open().await };
        if !place.gone.is_empty() {
            return self.wait_for_return().await;
        }
        if self.may_be_due {
            self.send_again().await?;
        }
        let (seen, mut follower) = (self.seen, self.parts.follower.clone());
        let is_news = move |told: &Told| match told {
            Told::Nothing => false,
            Told::UpTo(ends) => ends.last > seen,
            Told::Over => true,
        };
        let wait = match self.unsaved {
            _ if self.may_be_due => Duration::ZERO,
            0 => PASSED_INTERVAL,
            _ => SAVE_INTERVAL.saturating_sub(self.saved.elapsed()),
        };
        tokio::select! {
            biased;
            told = follower.wait_for(is_news) => match told {
                Some(Told::UpTo(ends)) => self.take(ends.last).await,
                // It stops in good order: its successor repeats nothing.
                _ => {
                    self.save_unsaved().await?;
                    std::future::pending().await
                }
            },
            () = self.live.wake.notified() => {
                self.may_be_due = true;
                Ok(())
            }
            () = tokio::time::sleep(wait) => self.save_if_due().await.map(drop),
        }
    }

    /// Reads the place, or makes one, and looks whether the feed still has what comes behind it.
    async fn open(&mut self) -> Result<(), Error> {
        self.generation = self.parts.store.generation();
        let mut follower = self.parts.follower.clone();
        let Some(Told::UpTo(told)) = follower.wait_for(|told| *told != Told::Nothing).await else {
            return std::future::pending().await;
        };
        let stored = self.parts.store.webhooks().place(self.name()).await?;
        let after = stored.as_ref().map_or(0, |place| place.after);
        let feed = self.parts.store.feed();
        let page = follower.page(feed, (after.saturating_sub(1), told.last), 1).await?;
        let Some(page) = page else {
            tokio::time::sleep(STORE_PAUSE).await;
            return Ok(());
        };
        let purged = page.ends.purged.min(told.last);
        let Some(mut place) = stored else {
            let after = match self.live.webhook.begin {
                Begin::New => told.last,
                Begin::Oldest => purged,
            };
            let name = self.name().to_owned();
            self.put(WebhookPlace { name, after, ..WebhookPlace::default() }, None).await?;
            return Ok(());
        };
        let is_there = page.events.first().is_some_and(|row| row.revision == after);
        if after < purged {
            self.tell_missed(after, purged, "events were purged before they were sent");
            place.after = purged;
        } else if after > told.last || (after != purged && !is_there) {
            let why =
                "the database has gone back behind what was sent: it begins with the oldest event";
            self.tell_missed(after, told.last, why);
            place.after = purged;
        }
        if !place.gone.is_empty() && place.gone != mark(&self.live.webhook) {
            place.gone.clear();
        }
        let now = self.parts.env.now();
        self.failing = Failing::stored(self.failing, place.failing_since, now);
        self.may_be_due = true;
        self.put(place, None).await?;
        Ok(())
    }

    /// Writes a place, and a dead letter with it, and tells whether nobody else has written it meanwhile.
    async fn put(&mut self, to: WebhookPlace, dead: Option<DeadLetter>) -> Result<bool, Error> {
        let webhooks = self.parts.store.webhooks();
        let is_written = webhooks.advance(self.parts.me, to.clone(), dead).await?;
        self.place = is_written.then(|| WebhookPlace { step: to.step + 1, ..to });
        if let Some(place) = &self.place {
            self.seen = place.after;
            (self.unsaved, self.saved) = (0, Instant::now());
            let mut standing = self.live.lock();
            standing.after = place.after;
            standing.failing_since = place.failing_since;
            standing.is_stopped = !place.gone.is_empty();
        }
        Ok(is_written)
    }

    /// Writes how far it is.
    async fn save(&mut self) -> Result<bool, Error> {
        let Some(place) = &self.place else { return Ok(false) };
        let (after, failing_since) = (self.seen, self.failing_since());
        self.put(WebhookPlace { after, failing_since, ..place.clone() }, None).await
    }

    /// Does so if something was taken since.
    async fn save_unsaved(&mut self) -> Result<(), Error> {
        if self.unsaved > 0 {
            self.save().await?;
        }
        Ok(())
    }

    /// Does so now and then, and no later than after some events that were taken: these are sent again after a crash.
    /// Where nothing was sent it is less urgent: what was passed is not to be missed when it is purged.
    async fn save_if_due(&mut self) -> Result<bool, Error> {
        let is_moved = self.place.as_ref().is_some_and(|place| place.after != self.seen);
        let pause = if self.unsaved > 0 { SAVE_INTERVAL } else { PASSED_INTERVAL };
        if is_moved && (self.unsaved >= UNSAVED_MAX || self.saved.elapsed() >= pause) {
            return self.save().await;
        }
        Ok(true)
    }

    /// Sends what comes next of the feed, of which events up to `last` are durable.
    async fn take(&mut self, last: u64) -> Result<(), Error> {
        let feed = self.parts.store.feed();
        let Some(part) = self.parts.follower.part(feed, (self.seen, last)).await? else {
            tokio::time::sleep(STORE_PAUSE).await;
            return Ok(());
        };
        if part.purged > self.seen {
            self.tell_missed(self.seen, part.purged, "events were purged before they were sent");
        }
        let seen = self.seen;
        for row in part.events.iter().filter(|row| row.revision > seen) {
            let goes_on = match Event::read(&row.body) {
                Some(event) if self.live.webhook.takes(&event) => self.deliver(row, &event).await?,
                Some(_) => true,
                // A mark of the feed, which is no event.
                None if row.tx_id.0.is_nil() && row.body.is_empty() => true,
                None => self.give_up(row, 0, UNREADABLE.to_owned()).await?,
            };
            if !goes_on {
                return Ok(());
            }
            self.seen = row.revision;
            if !self.save_if_due().await? {
                return Ok(());
            }
        }
        self.seen = self.seen.max(part.reached);
        self.live.lock().next_at = None;
        self.save_if_due().await.map(drop)
    }

    /// Sends an event until it is taken or given up. `false` if the place is not known any more, or the receiver is gone.
    async fn deliver(&mut self, row: &FeedRow, event: &Event) -> Result<bool, Error> {
        self.live.lock().next_at = Some(Timestamp(event.at_ms));
        let mut attempts = 0;
        loop {
            crash_point!("webhook-before-send");
            let Some(taken) = self.attempt(row, event).await else {
                return self.give_up(row, attempts, UNREADABLE.to_owned()).await;
            };
            crash_point!("webhook-after-send");
            let (cause, asked) = match taken {
                Taken::Yes(_) => {
                    self.unsaved += 1;
                    return Ok(true);
                }
                Taken::Gone => return self.stop().await,
                Taken::Not(cause, asked) => (cause, asked),
            };
            attempts += 1;
            let now = self.parts.env.now();
            let failing = self.failing.get_or_insert_with(|| Failing::begins(now)).lasted();
            let is_new = self.place.as_ref().is_some_and(|place| place.failing_since.is_none());
            if is_new && !self.save().await? {
                return Ok(false);
            }
            if attempts >= ATTEMPTS_MIN && failing >= self.live.webhook.give_up_after {
                return self.give_up(row, attempts, cause).await;
            }
            self.tell_failing(failing, &cause);
            let chance = self.parts.env.tx_id(now).0.as_u128();
            let pause = pause_after(attempts, self.live.webhook.backoff_max, asked, chance);
            let pause = tokio::time::timeout(pause, self.live.wake.notified());
            self.may_be_due |= pause.await.is_ok();
            if self.live.is_to_end() {
                return Ok(false);
            }
            if self.may_be_due {
                self.send_again().await?;
                if self.place.as_ref().is_none_or(|place| !place.gone.is_empty()) {
                    return Ok(false);
                }
            }
        }
    }

    /// Sends an event once, and counts it; nothing if there is nothing to be sent of it.
    async fn attempt(&mut self, row: &FeedRow, event: &Event) -> Option<Taken> {
        let data = (self.parts.render)(row);
        let body = data.and_then(|data| message::of(&self.source, row, event, &data));
        let Some(body) = body else {
            let (webhook, revision) = (self.name(), row.revision);
            tracing::error!(webhook, revision, "an event cannot be written as JSON");
            return None;
        };
        // Whoever follows this process may have sent it by now, and what comes behind it.
        while !self.parts.lease.is_held() {
            tokio::time::sleep(LEASE_PAUSE).await;
        }
        let id = row.revision.to_string();
        let now = self.parts.env.now();
        let taken = send(&self.outbound, &self.live.webhook, (&id, now), body).await;
        self.parts.metrics.webhook_sent(self.name(), matches!(taken, Taken::Yes(_)));
        let mut standing = self.live.lock();
        match &taken {
            Taken::Yes(_) => {
                standing.last_error.clear();
                standing.failing_since = None;
                drop(standing);
                if self.failing.take().is_some() {
                    tracing::info!(webhook = self.name(), "a receiver takes events again");
                }
                self.told_failing = None;
            }
            Taken::Not(cause, _) => {
                standing.last_error.clone_from(cause);
                standing.failing_since.get_or_insert(now);
            }
            Taken::Gone => "answered 410 Gone".clone_into(&mut standing.last_error),
        }
        Some(taken)
    }
}
