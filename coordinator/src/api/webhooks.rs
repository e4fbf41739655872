//! Webhooks, for operators: how far they are, what their receivers did not take, and tests.

use tonic::{Request, Status};
use unanimo_core::{ParticipantName, Violation};
use unanimo_proto::v1;
use uuid::Uuid;

use super::access::Access;
use super::audit::{Act, Answered};
use super::error::{from_store, invalid, no_webhook, too_many_tests};
use super::feed::{kind_to_wire, shown};
use super::parse::{self, NOTE_BYTES_MAX, OPERATOR_BYTES_MAX};
use super::{Api, page};
use crate::feed::Event;
use crate::store::{DeadLetter, FeedRow};
use crate::webhook::{Live, Taken};
use crate::wire::time_to_wire;

impl Answered for v1::RedeliverEventsResponse {
    fn told(&self) -> (&str, &str, &str) {
        ("", "", if self.count == 0 { "none" } else { "" })
    }
}

impl Answered for v1::TestWebhookResponse {
    fn told(&self) -> (&str, &str, &str) {
        ("", "", if self.taken { "taken" } else { "not taken" })
    }
}

impl Api {
    pub(super) async fn webhooks(
        &self,
        request: Request<v1::ListWebhooksRequest>,
    ) -> Result<v1::ListWebhooksResponse, Status> {
        self.check_whole(&Access::of(&request))?;
        let counts = self.store.webhooks().count_dead().await.map_err(from_store)?;
        let dead = |name: &str| counts.iter().find(|(of, _)| of == name).map_or(0, |(_, n)| *n);
        let webhooks = self.webhooks.all().into_iter().map(|live| {
            let count = dead(&live.webhook.name);
            webhook(&live, count)
        });
        Ok(v1::ListWebhooksResponse { webhooks: webhooks.collect() })
    }

    pub(super) async fn dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<v1::ListDeadLettersResponse, Status> {
        self.check_whole(&Access::of(&request))?;
        let v1::ListDeadLettersRequest { webhook, page_size, page_token, .. } =
            request.into_inner();
        let of = Some(webhook.as_str()).filter(|name| !name.is_empty());
        of.map(name).transpose()?;
        let after = match page_token.as_str() {
            "" => ("", 0),
            token => {
                let parts = token
                    .split_once('/')
                    .and_then(|(revision, name)| Some((name, revision.parse().ok()?)));
                parts.ok_or_else(parse::bad_page_token)?
            }
        };
        let limit = page::size(page_size);
        let read = self.store.webhooks().dead_letters(of, after, limit.saturating_add(1)).await;
        let rows = read.map_err(from_store)?;
        let more = rows.len() > limit as usize;
        let all = rows.into_iter().take(limit as usize).map(dead_letter);
        let (dead_letters, whole) = page::fitting(all, page::PAGE_BYTES_MAX);
        let last = dead_letters.last().filter(|_| more || !whole);
        let token = last.map(|last| {
            let revision = last.event.as_ref().map_or(0, |event| event.revision);
            format!("{revision}/{}", last.webhook)
        });
        let next_page_token = token.unwrap_or_default();
        Ok(v1::ListDeadLettersResponse { dead_letters, next_page_token })
    }

    pub(super) async fn redeliver(
        &self,
        request: Request<v1::RedeliverEventsRequest>,
    ) -> Result<v1::RedeliverEventsResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        self.check_whole(&access)?;
        let v1::RedeliverEventsRequest { webhook, revision, operator, note, .. } =
            request.into_inner();
        parse::text("operator", &operator, OPERATOR_BYTES_MAX, true)?;
        parse::text("note", &note, NOTE_BYTES_MAX, true)?;
        let live = self.configured(&webhook)?;
        let revision = Some(revision).filter(|revision| *revision > 0);
        let what = revision.map_or_else(|| "all".to_owned(), |revision| revision.to_string());
        let why = if note.is_empty() { String::new() } else { format!(": {note}") };
        let note = format!("webhook {webhook}: {what}{why}");
        let act = Act { operator, note, ..Act::default() };
        let (store, me) = (std::sync::Arc::clone(&self.store), self.me);
        let work = async move {
            let revisions = revision.map_or(0..=u64::MAX, |revision| revision..=revision);
            live.ask(revisions.clone());
            let due = store.webhooks().send_all_again(me, &webhook, revisions).await;
            // Some may be due where it failed.
            live.wake();
            let count = due.map_err(from_store)?;
            Ok(v1::RedeliverEventsResponse { count })
        };
        self.audited(&access, act, by, work).await
    }

    pub(super) async fn test_one_webhook(
        &self,
        request: Request<v1::TestWebhookRequest>,
    ) -> Result<v1::TestWebhookResponse, Status> {
        let (by, access) = (self.answer_by(&request), Access::of(&request));
        self.check_whole(&access)?;
        let v1::TestWebhookRequest { webhook, operator, .. } = request.into_inner();
        parse::text("operator", &operator, OPERATOR_BYTES_MAX, true)?;
        let live = self.configured(&webhook)?;
        let place = self.webhooks.test_place().ok_or_else(too_many_tests)?;
        let act = Act { operator, note: format!("webhook {webhook}"), ..Act::default() };
        let (handle, now) = (self.webhooks.clone(), self.env.now());
        let work = async move {
            let _place = place;
            let id = Uuid::new_v4().to_string();
            let taken = handle.test(&live, &id, now).await;
            let (taken, error) = match taken {
                Taken::Yes(_) => (true, String::new()),
                Taken::Not(cause, _) => (false, cause),
                Taken::Gone => (false, "answered 410 Gone".to_owned()),
            };
            Ok(v1::TestWebhookResponse { taken, error, event_id: format!("test-{id}") })
        };
        self.audited(&access, act, by, work).await
    }

    /// Finds a webhook that is configured.
    fn configured(&self, webhook: &str) -> Result<Live, Status> {
        name(webhook)?;
        self.webhooks.find(webhook).ok_or_else(|| no_webhook(webhook))
    }
}

fn name(text: &str) -> Result<(), Status> {
    let named = ParticipantName::new(text);
    named.map(drop).map_err(|rule| invalid(Violation::new("webhook", rule.to_string())))
}

fn webhook(live: &Live, dead_letters: u64) -> v1::Webhook {
    let (webhook, standing) = (&live.webhook, live.standing());
    let state = match (standing.is_stopped, standing.failing_since) {
        (true, _) => v1::WebhookState::Stopped,
        (false, Some(_)) => v1::WebhookState::Failing,
        (false, None) => v1::WebhookState::Delivering,
    };
    v1::Webhook {
        name: webhook.name.clone(),
        url: webhook.shown_url(),
        kinds: webhook.kinds.iter().map(|kind| kind_to_wire(*kind).into()).collect(),
        gid_prefix: webhook.gid_prefix.clone(),
        participant: webhook.participant.clone().unwrap_or_default(),
        state: state.into(),
        revision: standing.after,
        failing_since: standing.failing_since.map(time_to_wire),
        last_error: standing.last_error,
        next_occurred_at: standing.next_at.map(time_to_wire),
        dead_letters,
    }
}

fn dead_letter(letter: DeadLetter) -> v1::DeadLetter {
    let DeadLetter { webhook, revision, tx_id, body, died_at, attempts, cause, is_due } = letter;
    let row = FeedRow { revision, tx_id, body };
    let event = match Event::read(&row.body) {
        Some(event) => shown(&row, event),
        None => v1::TransactionEvent { revision, tx_id: tx_id.to_string(), ..Default::default() },
    };
    v1::DeadLetter {
        webhook,
        event: Some(event),
        died_at: Some(time_to_wire(died_at)),
        attempts,
        last_error: cause,
        due: is_due,
    }
}
