//! Signs of a participant's work: spans, figures, and the deadline that handlers see.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sqlx::SqliteConnection;
use tonic::Request;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use unanimo_proto::v1::participant_service_server::ParticipantService;
use unanimo_proto::v1::{Mode, PrepareRequest, prepare_response};
use unanimo_sdk::{
    Call, Client, Metrics, Participant, PhaseTwoError, PrepareError, Register, Serve, Sqlite, Tcc,
    refuse,
};
use unanimo_testing::Coordinator;
use unanimo_tests::wait::until;

use super::databases::Database;
use super::direct::{Branch, branch, refused};
use super::initiator::Fake;
use super::sweeper::{Reserve, eager};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// An event's fields, and the span that it was in.
type Line = (String, Option<u64>);

/// Spans with their fields, and which was entered last, of tests whose runtime has one thread.
#[derive(Clone, Default)]
struct Spans {
    all: Arc<Mutex<Vec<String>>>,
    entered: Arc<Mutex<Vec<u64>>>,
    /// Number of the span that was entered, of each event.
    events: Arc<Mutex<Vec<Line>>>,
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0 += &format!("{}={value:?} ", field.name());
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subscriber for Spans {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields(format!("{} ", span.metadata().name()));
        span.record(&mut fields);
        let mut all = lock(&self.all);
        all.push(fields.0);
        Id::from_u64(all.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        let entered = lock(&self.entered).last().copied();
        lock(&self.events).push((fields.0, entered));
    }

    fn enter(&self, id: &Id) {
        lock(&self.entered).push(id.into_u64());
    }

    fn exit(&self, _: &Id) {
        lock(&self.entered).pop();
    }
}

/// Says what it sees; refuses the payload `no`; asks a coordinator if it has a client.
struct Says {
    client: Option<Client>,
}

impl Tcc<Sqlite> for Says {
    type Payload = bytes::Bytes;
    type Output = ();

    async fn try_(
        &self,
        _: &mut SqliteConnection,
        call: &Call<bytes::Bytes>,
    ) -> Result<(), PrepareError> {
        let left = call.deadline().and_then(|at| at.duration_since(SystemTime::now()).ok());
        tracing::info!(left_s = left.map(|left| left.as_secs()), "at work");
        if let Some(client) = &self.client {
            assert!(client.tcc("from-the-handler").submit().await?.is_committed());
        }
        if *call.payload == *b"no" { refuse("NO", "never") } else { Ok(()) }
    }

    async fn confirm(
        &self,
        _: &mut SqliteConnection,
        call: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        tracing::info!(deadline = call.deadline().is_some(), "at work");
        if *call.payload == *b"fail" {
            Err(PhaseTwoError::Failed("it fails".into()))
        } else {
            Ok(())
        }
    }

    async fn cancel(
        &self,
        _: &mut SqliteConnection,
        _: &Call<bytes::Bytes>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

fn traced(of: &Branch) -> Request<PrepareRequest> {
    let mut request = Request::new(PrepareRequest {
        context: Some(of.context.clone()),
        action: of.action.clone(),
        payload: unanimo_tests::payload("x"),
        prepare_until: of.prepare_until,
        attempt: 3,
        ..PrepareRequest::default()
    });
    request.metadata_mut().insert("traceparent", PARENT.parse().unwrap());
    request
}

/// Whatever a handler logs is inside a span that names its branch and the coordinator's trace, and its own
/// calls carry the trace on.
#[tokio::test]
async fn a_handlers_lines_are_in_a_span_of_its_branch_and_its_calls_carry_the_trace() {
    let spans = Spans::default();
    let _guard = unanimo_tests::alarms::hear(spans.clone());
    let (database, _pool) = <Sqlite as Database>::open().await;
    let fake = Fake::new(unanimo_proto::v1::Outcome::Committed.into());
    let client = Some(fake.client().await);
    let service = Participant::new("p", database).tcc("say", Says { client }).service().unwrap();
    let branch = branch(Mode::Tcc, "say");
    service.prepare(traced(&branch)).await.unwrap();
    let (line, entered) = lock(&spans.events)
        .iter()
        .find(|(line, _)| line.contains("at work"))
        .cloned()
        .expect("the handler's line");
    // The deadline is a minute away.
    let left: u64 =
        line.split("left_s=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((30..=60).contains(&left), "{line}");
    let span = lock(&spans.all)[usize::try_from(entered.expect("a span")).unwrap() - 1].clone();
    let tx_id = format!("tx_id={} ", branch.tx_id());
    for part in [
        "participant_operation ",
        "operation=\"prepare\"",
        "participant=\"p\"",
        &tx_id,
        "gid=\"g\"",
        "branch_id=\"a\"",
        "action=\"say\"",
        "attempt=3",
        &format!("traceparent={PARENT:?}"),
    ] {
        assert!(span.contains(part), "no {part} in {span}");
    }
    assert_eq!(fake.traceparents(), [PARENT]);

    branch.commit(&service).await.unwrap();
    let events = lock(&spans.events).clone();
    let confirmed = events.iter().any(|(line, _)| line.contains("deadline=false"));
    assert!(confirmed, "{events:?}");
    let is_commit = |span: &String| span.contains("operation=\"commit\"");
    assert!(
        lock(&spans.all).iter().any(|span| is_commit(span) && span.contains("traceparent=\"\""))
    );
}

/// Each answer is counted once, by what it was; the sweeper's figures are among them.
#[tokio::test]
async fn figures_tell_what_was_answered_and_what_is_in_doubt() {
    let (database, _pool) = <Sqlite as Database>::open().await;
    let service =
        Participant::new("p", database).tcc("say", Says { client: None }).service().unwrap();
    assert_eq!(service.metrics(), Metrics::default());
    let of = |payload: &'static str| Branch { payload: payload.into(), ..branch(Mode::Tcc, "say") };
    let [yes, no, fails, gone] = ["yes", "no", "fail", "yes"].map(of);
    for _ in 0..2 {
        assert!(matches!(
            yes.prepare(&service).await.unwrap(),
            prepare_response::Answer::Prepared(_)
        ));
    }
    assert_eq!(refused(no.prepare(&service).await.unwrap()), "NO");
    fails.prepare(&service).await.unwrap();
    yes.commit(&service).await.unwrap();
    fails.commit(&service).await.unwrap_err();
    gone.commit(&service).await.unwrap();
    no.cancel(&service).await.unwrap();
    let Metrics { prepare, commit, cancel, in_doubt, .. } = service.metrics();
    assert_eq!((prepare.done, prepare.refused, prepare.failed, prepare.working), (3, 1, 0, 0));
    assert_eq!((commit.done, commit.failed, commit.heuristic), (1, 1, 1));
    assert_eq!((cancel.done, cancel.at_work), (1, 0));
    assert!(prepare.took > Duration::ZERO);
    assert_eq!(in_doubt.sweeps, 0);

    let register = Register::at("http://127.0.0.1:1").ask("http://127.0.0.1:9").sweep(eager());
    let registration = service.register(register).await.unwrap();
    let seen = until("a sweep", async || {
        let in_doubt = registration.metrics().in_doubt;
        (in_doubt.sweeps > 0).then_some(in_doubt)
    })
    .await;
    assert_eq!((seen.count, seen.known), (1, true));
    assert_eq!(service.metrics().in_doubt.count, 1);
    registration.stop().await.unwrap();
}

/// A call without an answer has taken no time for one, and one that is rejected before it is at work has failed.
#[tokio::test]
async fn figures_of_calls_without_an_answer() {
    let (database, _pool) = <Sqlite as Database>::open().await;
    let service = Participant::new("p", database).tcc("say", Says { client: None });
    let service = service.service().unwrap();
    let mut of_another = branch(Mode::Tcc, "say");
    of_another.context.participant = "q".into();
    of_another.prepare(&service).await.unwrap_err();
    of_another.commit(&service).await.unwrap_err();
    of_another.cancel(&service).await.unwrap_err();
    let Metrics { prepare, commit, cancel, .. } = service.metrics();
    for figures in [prepare, commit, cancel] {
        assert_eq!((figures.failed, figures.done, figures.at_work), (1, 0, 0), "{figures:?}");
        assert_eq!(figures.took, Duration::ZERO, "{figures:?}");
    }
    let fails = Branch { payload: "fail".into(), ..branch(Mode::Tcc, "say") };
    fails.prepare(&service).await.unwrap();
    fails.commit(&service).await.unwrap_err();
    let Metrics { prepare, commit, .. } = service.metrics();
    assert!(prepare.took > Duration::ZERO);
    assert_eq!((commit.failed, commit.took), (2, Duration::ZERO));
}

/// The same of a participant that is served, called by a coordinator.
#[tokio::test]
async fn figures_of_a_participant_that_is_served() {
    let coordinator = Coordinator::start().await.unwrap();
    let (database, _pool) = <Sqlite as Database>::open().await;
    let serve = Serve::on("127.0.0.1:0").register_with(coordinator.endpoint());
    let participant = Participant::new("p", database).tcc("ok", Reserve);
    let mut serving = participant.serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    let draft =
        coordinator.client().unwrap().tcc("g").branch("a", "p", "ok", bytes::Bytes::from("x"));
    assert!(draft.wait_until_ended().submit().await.unwrap().is_committed());
    let Metrics { prepare, commit, cancel, .. } = serving.metrics();
    assert_eq!((prepare.done, commit.done, cancel.done), (1, 1, 0));
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}
