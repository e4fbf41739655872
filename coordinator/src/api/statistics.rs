//! Numbers of what the coordinator does.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::{Request, Status};
use unanimo_core::{Namespace, ParticipantName, Timestamp};
use unanimo_proto::v1;

use super::Api;
use super::access::Access;
use crate::cluster::lease::Lease;
use crate::config::{Config, Setting};
use crate::engine::{Handle, Survey};
use crate::metrics::Span;
use crate::store::{self, KnownIncarnation, PhaseName, journal};
use crate::wire::time_to_wire;

/// Time that a survey is waited for: without its lease the engine rests.
const SURVEY_TIMEOUT: Duration = Duration::from_millis(500);

/// Time for which a survey is told to all who ask.
const SURVEY_KEPT: Duration = Duration::from_secs(1);

/// Time after which a survey that nobody has asked for is forgotten.
const SURVEY_FORGOTTEN: Duration = Duration::from_secs(60);

/// Most incarnations that are told.
const INCARNATIONS_MAX: u32 = 10;

/// Time that the database is waited for: without it all else is told.
const INCARNATIONS_TIMEOUT: Duration = Duration::from_millis(500);

/// Parts and facts of the process that its numbers are made of.
#[derive(Debug)]
pub(crate) struct About {
    node: String,
    leased_at: Timestamp,
    lease: Lease,
    journal: journal::Handle,
    is_sqlite: bool,
    purge_interval: Duration,
    settings: Vec<Setting>,
    /// The last look at what is in memory, of all and of each namespace.
    surveys: Mutex<HashMap<Option<Namespace>, (Instant, Survey)>>,
}

impl About {
    pub(crate) fn new(
        (config, settings): (&Config, Vec<Setting>),
        leased_at: Timestamp,
        lease: &Lease,
        journal: &journal::Handle,
    ) -> Self {
        Self {
            node: config.node.as_str().to_owned(),
            leased_at,
            lease: lease.clone(),
            journal: journal.clone(),
            is_sqlite: config.database_url.file().is_some(),
            purge_interval: config.purge_interval.0,
            settings,
            surveys: Mutex::default(),
        }
    }

    /// Looks at what is in memory, of one namespace or of all, at most once a second. The last look stays where the engine
    /// does not answer.
    async fn survey(&self, engine: &Handle, of: Option<&Namespace>) -> Survey {
        let mut last = self.surveys.lock().await;
        let of = of.cloned();
        match last.get(&of) {
            Some((at, survey)) if at.elapsed() < SURVEY_KEPT => survey.clone(),
            before => {
                let before = before.map(|(_, survey)| survey.clone());
                let found = tokio::time::timeout(SURVEY_TIMEOUT, engine.survey(of.clone())).await;
                let survey = found.ok().flatten().or(before).unwrap_or_default();
                // A namespace of which nobody has asked for a while takes no memory.
                last.retain(|_, (at, _)| at.elapsed() < SURVEY_FORGOTTEN);
                last.insert(of, (Instant::now(), survey.clone()));
                survey
            }
        }
    }
}

impl Api {
    pub(super) async fn statistics(
        &self,
        request: Request<v1::GetStatisticsRequest>,
    ) -> Result<v1::GetStatisticsResponse, Status> {
        let about = &self.about;
        let access = Access::of(&request);
        let namespace = access.namespace();
        let incarnations = match request.get_ref().include_incarnations && namespace.is_none() {
            true => self.incarnations().await,
            false => Vec::new(),
        };
        let may_see_settings = access.is_operator() && namespace.is_none();
        let settings = match request.get_ref().include_settings && may_see_settings {
            true => about.settings.iter().map(setting).collect(),
            false => Vec::new(),
        };
        let survey = about.survey(&self.engine, namespace).await;
        let count = |phases: &[PhaseName]| {
            let found = survey.open.iter().filter(|((_, phase), _)| phases.contains(phase));
            found.map(|(_, count)| *count as u64).sum::<u64>()
        };
        let (in_flight, _) = self.engine.in_flight();
        let now = self.env.now();
        let minutes = self.metrics.minutes(Instant::now(), now, in_flight);
        let [undecided_count, in_doubt_count, owed_count] = [
            count(&[PhaseName::Active]),
            count(&[PhaseName::InDoubt]),
            count(&[PhaseName::Committing, PhaseName::Aborting]),
        ];
        let age = |count: u64, age: Duration| (count > 0).then(|| period(age)).flatten();
        if namespace.is_some() {
            // The process and its times are everybody's, and so would tell of others.
            return Ok(v1::GetStatisticsResponse {
                answered_at: Some(time_to_wire(now)),
                in_flight_count: survey.open.values().map(|count| *count as u64).sum(),
                undecided_count,
                undecided_for: age(undecided_count, survey.undecided_for),
                in_doubt_count,
                in_doubt_for: age(in_doubt_count, survey.in_doubt_for),
                owed_count,
                owed_for: age(owed_count, survey.owed_for),
                ..Default::default()
            });
        }
        Ok(v1::GetStatisticsResponse {
            answered_at: Some(time_to_wire(now)),
            server: Some(self.server(now, &minutes.window)),
            window: Some(span(&minutes.window)),
            recent: Some(span(&minutes.recent)),
            steps: minutes.steps.iter().map(span).collect(),
            in_flight_count: in_flight as u64,
            undecided_count,
            undecided_for: age(undecided_count, survey.undecided_for),
            in_doubt_count,
            in_doubt_for: age(in_doubt_count, survey.in_doubt_for),
            owed_count,
            owed_for: age(owed_count, survey.owed_for),
            settings,
            incarnations,
        })
    }

    /// Reads the last incarnations; none where the database does not answer in time.
    async fn incarnations(&self) -> Vec<v1::KnownIncarnation> {
        let reading = self.store.incarnations().last(INCARNATIONS_MAX);
        let found = match tokio::time::timeout(INCARNATIONS_TIMEOUT, reading).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let error = store::in_full(&error);
                tracing::warn!(error, "failed to tell the incarnations");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        let known = |of: KnownIncarnation| v1::KnownIncarnation {
            incarnation: u64::try_from(of.incarnation.0).unwrap_or_default(),
            answers: of.incarnation == self.me,
            node: of.node,
            may_write: of.fenced_by.is_none(),
            fenced_by: of.fenced_by.unwrap_or_default(),
            lease: of.lease.and_then(period),
        };
        found.into_iter().map(known).collect()
    }

    fn server(&self, now: Timestamp, window: &Span) -> v1::ServerState {
        let about = &self.about;
        let purged_at = self.metrics.purged_at();
        let since = purged_at.unwrap_or(about.leased_at).until(now);
        // A purge that runs takes its time as well.
        let late = since.saturating_sub(about.purge_interval * 2);
        let alarms = self.metrics.process_alarms().into_iter();
        let alarms = alarms.map(|(name, count)| v1::ProcessAlarm { name: name.to_owned(), count });
        let [flush_p50, flush_p99] = window.flush.map(|took| took.and_then(period));
        v1::ServerState {
            node: about.node.clone(),
            incarnation: u64::try_from(self.me.0).unwrap_or_default(),
            leased_at: Some(time_to_wire(about.leased_at)),
            lease_held: about.lease.is_held(),
            store: if about.is_sqlite { "SQLite" } else { "PostgreSQL" }.to_owned(),
            flush_p50,
            flush_p99,
            journal_backlog_count: about.journal.backlog() as u64,
            purged_at: purged_at.map(time_to_wire),
            purge_late_by: (!late.is_zero()).then(|| period(late)).flatten(),
            damaged_range_count: self.metrics.damaged_ranges(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: self.engine.cluster_id().to_owned(),
            alarms: alarms.collect(),
        }
    }

    /// Tells how the calls to a participant go.
    pub(super) fn health(&self, name: &ParticipantName, now: Timestamp) -> v1::ParticipantHealth {
        let at = Instant::now();
        let going = self.directory.going(name);
        let ago = |age: Duration| {
            let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            Some(time_to_wire(Timestamp(now.0.saturating_sub(millis))))
        };
        let calls = self.metrics.calls_lately(name.as_str(), at);
        let counted_from = calls.as_ref().and_then(|calls| ago(calls.length));
        let calls = calls.unwrap_or_default();
        let [call_p50, call_p99] = calls.took.map(|took| took.and_then(period));
        let last_error_at = calls.last_error.as_ref().and_then(|(age, _)| ago(*age));
        v1::ParticipantHealth {
            failing: going.open_since.is_some(),
            failing_since_at: going
                .open_since
                .and_then(|since| ago(at.saturating_duration_since(since))),
            in_flight_count: u32::try_from(going.in_flight).unwrap_or(u32::MAX),
            waiting_count: going.waiting as u64,
            owed_count: going.owed as u64,
            call_count: calls.calls,
            failed_count: calls.failed,
            call_p50,
            call_p99,
            counted_from,
            last_error: calls.last_error.map(|(_, text)| text).unwrap_or_default(),
            last_error_at,
        }
    }
}

fn period(of: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(of).ok()
}

fn span(of: &Span) -> v1::StatisticsSpan {
    let [decision_p50, decision_p99] = of.decision.map(|took| took.and_then(period));
    v1::StatisticsSpan {
        began_at: Some(time_to_wire(of.began_at)),
        length: period(of.length),
        begun_count: of.begun,
        committed_count: of.committed,
        aborted_count: of.aborted,
        refused_count: of.refused,
        decision_p50,
        decision_p99,
        in_flight_count: of.in_flight as u64,
    }
}

fn setting(of: &Setting) -> v1::ServerSetting {
    let Setting { key, value, source } = of;
    v1::ServerSetting { key: key.clone(), value: value.clone(), source: source.clone() }
}
