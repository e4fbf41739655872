//! Conformance kit: a correct participant passes, and each fault breaks the right guarantee.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use unanimo_conformance::{GUARANTEES, Options, Remote, Report, Session, Verdict};
use unanimo_proto::v1::participant_service_server::{ParticipantService, ParticipantServiceServer};
use unanimo_proto::v1::{
    CancelRequest, CancelResponse, CommitRequest, CommitResponse, Mode, PrepareRequest,
    PrepareResponse,
};
use unanimo_tests::faulty::{ACTION, Fault, Faulty, INPUT, NAME};

fn options() -> Options {
    Options {
        payload: Bytes::from_static(b"ticket"),
        inputs: BTreeMap::from([(INPUT.to_owned(), Bytes::from_static(b"7"))]),
        refused_payload: Some(Bytes::from_static(b"no")),
        slow_payload: Some(Bytes::from_static(b"slow")),
        // Enough for a participant in memory; one that never answers takes this long.
        patience: Duration::from_secs(1),
        ..Options::new(NAME, ACTION)
    }
}

/// Returns the guarantees that failed, with the messages.
fn failed(report: &Report) -> Vec<(&'static str, &str)> {
    let failed = report.checked.iter().filter_map(|checked| match &checked.verdict {
        Verdict::Failed(seen) => Some((checked.guarantee, seen.as_str())),
        Verdict::Passed | Verdict::Skipped(_) => None,
    });
    failed.collect()
}

/// Guarantees in which a Prepare is sent again and its output compared.
const REPEATED_PREPARES: &[&str] = &[
    "duplicate-prepare",
    "concurrent-prepare",
    "late-duplicate",
    "must-succeed-refusal",
    "step-inputs",
    "abandoned-prepare",
    "row-outlives-bound",
    "no-bound",
    "saga-in-order",
    "independent-branches",
    "prepare-after-commit",
];

/// Guarantees in which Cancel comes for a branch that was never prepared.
const CANCELS_FIRST: &[&str] = &[
    "missing-input",
    "unknown-mode",
    "cancel-before-prepare",
    "concurrent-cancel-before-prepare",
    "late-prepare",
    "abandoned-prepare",
    "no-bound",
];

/// Returns the same as [`expected`], of faults that harm steps of sagas most.
fn expected_of_a_step(fault: Fault) -> (&'static [&'static str], &'static str) {
    match fault {
        Fault::RefusesOtherInputs => (
            &["step-inputs"],
            "Prepare with the input unanimo-check.no-such-input was answered REFUSED (UNKNOWN_INPUT",
        ),
        Fault::MissingInputIsAnError => (
            &["missing-input", "must-succeed-input"],
            "the last reply was INVALID_ARGUMENT: no ticket",
        ),
        Fault::CancelNeedsInputs => {
            (&["missing-input"], "Cancel was not answered within 1s, asked again and again")
        }
        Fault::PurgesAtBound => (
            &["row-outlives-bound"],
            "a Prepare that had voted before its bound, sent again after it, was answered REFUSED",
        ),
        Fault::TombstonesNeedABound => (
            &["no-bound"],
            "a Prepare that came after a Cancel, both without a prepare_until, was answered PREPARED",
        ),
        Fault::OneBranchATransaction => (
            &["saga-in-order", "independent-branches"],
            "after the first was cancelled, was answered REFUSED",
        ),
        Fault::IgnoresDatabases => {
            (&["other-database"], "Prepare for another database was answered PREPARED")
        }
        Fault::IgnoresOutputBound => {
            (&["output-bound"], "whose output has 36 bytes, was answered PREPARED")
        }
        Fault::StoresMissingInput => (
            &["must-succeed-input"],
            "a Prepare that must succeed, without an input at first, was answered REFUSED",
        ),
        Fault::CancelsAll => (
            &["saga-in-order", "independent-branches"],
            "a step of a saga, sent again when a later one was undone, was answered REFUSED",
        ),
        Fault::ForgetsSuccess => (
            &["must-succeed-refusal", "saga-in-order"],
            "a Prepare that must succeed and did, sent again, was answered PREPARED with output",
        ),
        Fault::StoresFailures => (
            &[
                "must-succeed-refusal",
                "must-succeed-requirement",
                "must-succeed-input",
                "output-bound",
            ],
            "a Prepare that must succeed, sent again when it can, was answered REFUSED (NO: no)",
        ),
        Fault::ForgetsRefusals => (
            &[
                "prepare-too-late",
                "unknown-requirement",
                "missing-input",
                "output-bound",
                "unknown-mode",
            ],
            "a Prepare that was too late, sent again without a bound, was answered PREPARED",
        ),
        _ => (&[], ""),
    }
}

/// Returns the same as [`expected`], of faults in replies that are no answers.
fn expected_of_a_sign(fault: Fault) -> (&'static [&'static str], &'static str) {
    match fault {
        Fault::PausesAlike => (
            &["working-grows"],
            "WORKING carried retry_after 10ms at attempt 1 and 10ms at attempt 4",
        ),
        Fault::WordyStatuses => (
            &["status-size"],
            "bytes, at most 1024 are allowed: FAILED_PRECONDITION: this is participant faulty, and not",
        ),
        Fault::UnknownModeIsAnError => {
            (&["unknown-mode"], "the last reply was INVALID_ARGUMENT: context breaks the rules")
        }
        _ => (&[], ""),
    }
}

/// The same of a fault in phase two.
fn expected_of_an_end(fault: Fault) -> (&'static [&'static str], &'static str) {
    match fault {
        Fault::CommitsAnything => (
            &["commit-unknown"],
            "Commit of a branch that was never prepared was answered done, expected \
             HEURISTIC_HAZARD",
        ),
        Fault::CancelsCommitted => (
            &["cancel-after-commit", "commit-races-cancel"],
            "Cancel of a committed branch was answered done, expected HEURISTIC_COMMIT",
        ),
        Fault::CommitsCancelled => (
            &["commit-after-cancel", "commit-races-cancel"],
            "Commit of a cancelled branch was answered done, expected HEURISTIC_ROLLBACK",
        ),
        Fault::ForgetsEnds => (
            &[
                "missing-input",
                "unknown-mode",
                "late-prepare",
                "prepare-races-cancel",
                "abandoned-prepare",
                "cancel-at-work",
                "cancel-without-an-end",
                "row-outlives-bound",
                "no-bound",
                "saga-in-order",
                "prepare-after-cancel",
                "commit-unknown",
                "commit-twice",
                "concurrent-commit",
                "prepare-after-commit",
                "cancel-after-commit",
                "commit-races-cancel",
            ],
            "Commit of a committed branch was answered HEURISTIC_HAZARD",
        ),
        _ => (&[], ""),
    }
}

/// Returns the guarantees that a fault breaks, and a part of the message.
fn expected(fault: Fault) -> (&'static [&'static str], &'static str) {
    match fault {
        Fault::None
        | Fault::Mute
        | Fault::FallsMute
        | Fault::ReadOnlyAfterCancel
        | Fault::CommitsElsewhere
        | Fault::CommitsWhateverIsRequired
        | Fault::CommitsUnheard
        | Fault::CancelsElsewhere
        | Fault::HazardUnderAnyName
        | Fault::CancelsUnderAnyName
        | Fault::HasNoDatabaseId
        | Fault::KnowsNoPlace
        | Fault::PreparesAtOtherPlaces
        | Fault::CommitsAtOtherPlaces
        | Fault::CancelsAtOtherPlaces
        | Fault::HazardAtOtherPlaces
        | Fault::EndsAtOtherPlaces
        | Fault::MayAlwaysFail => (&[], ""),
        Fault::IgnoresRequirements => (
            &["unknown-requirement", "must-succeed-requirement"],
            "Prepare that requires unanimo-check.no-such-feature was answered PREPARED",
        ),
        Fault::IgnoresPhaseTwoRequirements => (
            &["unknown-phase-two-requirement"],
            "Cancel that requires unanimo-check.no-such-feature was answered, expected the status",
        ),
        Fault::PausesAlike | Fault::WordyStatuses | Fault::UnknownModeIsAnError => {
            expected_of_a_sign(fault)
        }
        Fault::ForgetsMediaTypes => {
            (REPEATED_PREPARES, "(no media type); the first time it was PREPARED with output")
        }
        Fault::RefusesOtherInputs
        | Fault::MissingInputIsAnError
        | Fault::CancelNeedsInputs
        | Fault::PurgesAtBound
        | Fault::TombstonesNeedABound
        | Fault::IgnoresOutputBound
        | Fault::IgnoresDatabases
        | Fault::OneBranchATransaction
        | Fault::StoresMissingInput
        | Fault::CancelsAll
        | Fault::StoresFailures
        | Fault::ForgetsRefusals
        | Fault::ForgetsSuccess => expected_of_a_step(fault),
        Fault::NoTombstone => (
            &[
                "missing-input",
                "unknown-mode",
                "late-prepare",
                "prepare-races-cancel",
                "abandoned-prepare",
                "cancel-at-work",
                "no-bound",
            ],
            "a Prepare that came after its Cancel was answered PREPARED with output",
        ),
        Fault::CancelNeedsPrepare => (
            CANCELS_FIRST,
            "Cancel was not answered within 1s, asked again and again; the last reply was \
             NOT_FOUND: no such branch",
        ),
        Fault::CancelWaitsForPrepare => (CANCELS_FIRST, "the last reply was WORKING"),
        Fault::OutputsDiffer => (
            REPEATED_PREPARES,
            "the same Prepare, sent a second time, was answered PREPARED with output",
        ),
        Fault::CommitsAnything
        | Fault::CancelsCommitted
        | Fault::CommitsCancelled
        | Fault::ForgetsEnds => expected_of_an_end(fault),
        Fault::IgnoresBound => (
            &["prepare-too-late"],
            "a first Prepare, an hour past its prepare_until, was answered PREPARED",
        ),
        Fault::UnknownActionIsAnError => {
            (&["unknown-action"], "the last reply was NOT_FOUND: no such action")
        }
        Fault::LooksThenWrites => (
            &["concurrent-prepare", "prepare-races-cancel", "cancel-at-work"],
            "a Prepare, sent again after it had met its Cancel, was answered PREPARED",
        ),
        Fault::AnswersToAnyName => (
            &["wrong-participant"],
            "Prepare under another participant's name was answered PREPARED",
        ),
        Fault::TakesAnyContext => {
            (&["malformed-context"], "Prepare with no context was answered PREPARED")
        }
        Fault::WordyReasons => (
            &["output-bound", "limits"],
            "Prepare was refused with reason \"refused, because NO_SUCH_ACTION!\"",
        ),
        // It always votes READ_ONLY, so guarantees after a vote PREPARED are skipped.
        Fault::ReadOnlyInTcc => (&[], "which is a vote of two-phase commit only"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_found_where_it_is_and_nowhere_else() {
    each_fault_is_found(Mode::Tcc).await;
}

/// A step of a saga is sent no Commit, so that a fault which shows there alone harms nobody.
#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_step_is_found_where_it_is_and_nowhere_else() {
    each_fault_is_found(Mode::Saga).await;
}

/// Guarantees that are about Commit.
const ABOUT_COMMIT: [&str; 8] = [
    "commit-after-refusal",
    "commit-after-cancel",
    "commit-unknown",
    "commit-twice",
    "concurrent-commit",
    "prepare-after-commit",
    "cancel-after-commit",
    "commit-races-cancel",
];

async fn each_fault_is_found(mode: Mode) {
    let of_commit = |name: &str| mode == Mode::Saga && ABOUT_COMMIT.contains(&name);
    let mut runs = tokio::task::JoinSet::new();
    for fault in Fault::ALL {
        runs.spawn(async move {
            let target = Faulty::new(fault);
            (
                fault,
                unanimo_conformance::run(
                    Arc::new(target.clone()),
                    Options { mode, ..options() },
                    |_| {},
                    pending(),
                )
                .await,
                target,
            )
        });
    }
    let mut wrong = String::new();
    while let Some(run) = runs.join_next().await {
        let (fault, report, target) = run.unwrap();
        let (names, words) = expected(fault);
        let names: Vec<_> = names.iter().copied().filter(|name| !of_commit(name)).collect();
        let report = match report {
            Ok(report) => report,
            Err(unusable) => {
                assert!(
                    matches!(fault, Fault::Mute | Fault::ReadOnlyInTcc),
                    "{fault:?}: {unusable}"
                );
                assert!(unusable.to_string().contains(words), "{unusable}");
                continue;
            }
        };
        let failed = failed(&report);
        let found: Vec<_> = failed.iter().map(|(name, _)| *name).collect();
        let told = names.is_empty()
            || words.starts_with("Commit") && mode == Mode::Saga
            || failed.iter().any(|(_, seen)| seen.contains(words));
        if found != names || !told {
            wrong += &format!("{fault:?}: not {names:?} with {words:?}:\n{report}\n");
        }
        assert_eq!(report.passed(), names.is_empty(), "{fault:?}:\n{report}");
        if fault == Fault::None {
            let (passed, ..) = report.counts();
            let skipped = if mode == Mode::Saga { ABOUT_COMMIT.len() } else { 0 };
            assert_eq!(passed, GUARANTEES.len() - skipped, "{report}");
            let (prepared, committed) = target.counts();
            assert_eq!((prepared, committed), (0, report.committed as usize), "what is left");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// READ_ONLY lets a transaction commit: after a Cancel it is as wrong as PREPARED.
#[tokio::test]
async fn a_yes_without_writes_after_a_cancel_is_found() {
    for (fault, is_found) in [(Fault::None, false), (Fault::ReadOnlyAfterCancel, true)] {
        let options = Options { mode: Mode::TwoPhaseCommit, ..options() };
        let target = Arc::new(Faulty::new(fault));
        let report = unanimo_conformance::run(target, options, |_| {}, pending()).await.unwrap();
        let failed: Vec<_> = failed(&report).into_iter().map(|(name, _)| name).collect();
        assert_eq!(failed.contains(&"prepare-after-cancel"), is_found, "{fault:?}: {report}");
    }
}

/// Each operation of a branch in another database is looked at, and nothing where votes carry no id.
#[tokio::test]
async fn what_is_answered_for_another_database_is_found() {
    for (fault, words) in [
        (Fault::CommitsElsewhere, "Commit for another database was answered done, expected"),
        (Fault::CancelsElsewhere, "Cancel for another database was answered, expected an error"),
        (Fault::HasNoDatabaseId, ""),
    ] {
        let target = Faulty::new(fault);
        let checked = Arc::new(target.clone());
        let report = unanimo_conformance::run(checked, options(), |_| {}, pending()).await.unwrap();
        assert_eq!(target.counts().0, 0, "nothing is left: {report}");
        let found = failed(&report);
        assert_eq!(found.is_empty(), words.is_empty(), "{fault:?}: {report}");
        let of = |name: &str| report.checked.iter().find(|checked| checked.guarantee == name);
        match &of("other-database").unwrap().verdict {
            Verdict::Failed(seen) => assert!(seen.contains(words) && found.len() == 1, "{report}"),
            Verdict::Skipped(why) => assert!(why.contains("carry no database_id"), "{why}"),
            Verdict::Passed => panic!("{fault:?}: {report}"),
        }
    }
}

/// An address that was given to another participant: a hazard would end a branch that waits where it was prepared.
#[tokio::test]
async fn what_is_answered_for_another_participant_is_found() {
    for (fault, words) in [
        (
            Fault::HazardUnderAnyName,
            "Commit under another participant's name was answered HEURISTIC_HAZARD",
        ),
        (Fault::CancelsUnderAnyName, "Cancel under another participant's name was answered"),
    ] {
        let target = Faulty::new(fault);
        let checked = Arc::new(target.clone());
        let report = unanimo_conformance::run(checked, options(), |_| {}, pending()).await.unwrap();
        let found = failed(&report);
        let [(name, seen)] = &found[..] else { panic!("{fault:?}: {report}") };
        assert_eq!(*name, "wrong-participant", "{report}");
        assert!(seen.contains(words), "{fault:?}: {report}");
        assert_eq!(target.counts(), (0, report.committed as usize), "nothing is left: {report}");
    }
}

/// So is each operation of a branch whose database is at another place, and nothing where no place is looked at.
#[tokio::test]
async fn what_is_answered_for_another_place_is_found() {
    for (fault, words) in [
        (
            Fault::PreparesAtOtherPlaces,
            "Prepare for another place of the database was answered PREPARED",
        ),
        (Fault::CommitsAtOtherPlaces, "Commit for another place of the database was answered done"),
        (Fault::CancelsAtOtherPlaces, "Cancel for another place of the database was answered done"),
        (
            Fault::HazardAtOtherPlaces,
            "Commit for another place of the database was answered HEURISTIC",
        ),
        (
            Fault::EndsAtOtherPlaces,
            "a Prepare behind one for another place of the database was answered REFUSED",
        ),
        (Fault::KnowsNoPlace, ""),
    ] {
        let target = Faulty::new(fault);
        let checked = Arc::new(target.clone());
        let report = unanimo_conformance::run(checked, options(), |_| {}, pending()).await.unwrap();
        let found = failed(&report);
        assert_eq!(found.is_empty(), words.is_empty(), "{fault:?}: {report}");
        let of = |name: &str| report.checked.iter().find(|checked| checked.guarantee == name);
        match &of("other-place").unwrap().verdict {
            Verdict::Failed(seen) => assert!(seen.contains(words) && found.len() == 1, "{report}"),
            Verdict::Skipped(why) => assert!(why.contains("it looks at no place"), "{why}"),
            Verdict::Passed => panic!("{fault:?}: {report}"),
        }
        assert_eq!(target.counts(), (0, report.committed as usize), "nothing is left: {report}");
    }
}

/// The report tells how much stays, also of Commits that were not to be carried out, or whose answers were lost.
#[tokio::test]
async fn whatever_was_committed_is_counted() {
    for (fault, guarantee) in [
        (Fault::CommitsWhateverIsRequired, "unknown-phase-two-requirement"),
        (Fault::CommitsUnheard, "commit-twice"),
    ] {
        let target = Faulty::new(fault);
        let short = Options { patience: Duration::from_millis(100), ..options() };
        let checked = Arc::new(target.clone());
        let report = unanimo_conformance::run(checked, short, |_| {}, pending()).await.unwrap();
        assert!(failed(&report).iter().any(|(name, _)| *name == guarantee), "{report}");
        assert_eq!(target.counts(), (0, report.committed as usize), "{fault:?}: {report}");
        assert!(report.committed > 0, "{fault:?}: {report}");
    }
}

/// A participant that gives no vote any more keeps none of what is about votes.
#[tokio::test]
async fn a_participant_that_falls_mute_passes_nothing_about_votes() {
    let target = Arc::new(Faulty::new(Fault::FallsMute));
    let short = Options { patience: Duration::from_millis(100), ..options() };
    let report = unanimo_conformance::run(target, short, |_| {}, pending()).await.unwrap();
    let failed: Vec<_> = failed(&report).into_iter().map(|(name, _)| name).collect();
    for name in ["limits", "duplicate-prepare", "unknown-action", "late-prepare", "commit-twice"] {
        assert!(failed.contains(&name), "{name}: {report}");
    }
}

/// A report in which almost everything was skipped is not passed.
#[tokio::test]
async fn an_action_that_refuses_the_payload_does_not_pass() {
    let options = Options { payload: Bytes::from_static(b"no"), ..options() };
    let target = Arc::new(Faulty::new(Fault::None));
    let report = unanimo_conformance::run(target, options, |_| {}, pending()).await.unwrap();
    assert_eq!(failed(&report), [], "{report}");
    assert!(!report.passed(), "{report}");
    assert_eq!(report.refused.as_deref(), Some("REFUSED (NO: no)"));
    let skipped = report.checked.iter().filter_map(|checked| match &checked.verdict {
        Verdict::Skipped(why) => Some((checked.guarantee, why.as_str())),
        Verdict::Passed | Verdict::Failed(_) => None,
    });
    let skipped: Vec<_> = skipped.collect();
    let why = "the action answers this payload REFUSED (NO: no)";
    assert!(skipped.contains(&("commit-twice", why)), "{report}");
    assert_eq!(report.committed, 0);
}

/// A participant that does not know the feature keeps all other guarantees.
#[tokio::test]
async fn work_that_must_succeed_is_not_checked_where_nobody_knows_it() {
    let target = Arc::new(Faulty::new(Fault::MayAlwaysFail));
    let options =
        Options { inputs: BTreeMap::new(), payload: Bytes::from_static(b"yes"), ..options() };
    let report = unanimo_conformance::run(target, options, |_| {}, pending()).await.unwrap();
    assert!(report.passed(), "{report}");
    let skipped: Vec<_> = report
        .checked
        .iter()
        .filter(|checked| matches!(checked.verdict, Verdict::Skipped(_)))
        .map(|checked| checked.guarantee)
        .collect();
    let expected = [
        "must-succeed-refusal",
        "step-inputs",
        "missing-input",
        "must-succeed-input",
        "output-bound",
        "saga-in-order",
    ];
    assert_eq!(skipped, expected, "{report}");
}

/// Steps of a saga are never sent Commit; all other guarantees apply to them, too.
#[tokio::test]
async fn a_step_of_a_saga_is_not_sent_commit() {
    let options = Options { mode: Mode::Saga, ..options() };
    let target = Faulty::new(Fault::None);
    let report =
        unanimo_conformance::run(Arc::new(target.clone()), options, |_| {}, pending()).await;
    let report = report.unwrap();
    assert!(report.passed(), "{report}");
    assert_eq!((report.committed, target.counts()), (0, (0, 0)));
    assert_eq!(report.counts().2, 8, "{report}");
}

/// A stop by the operator must not leave branches prepared, which would keep rows locked.
#[tokio::test]
async fn what_is_prepared_is_cancelled_when_it_is_stopped() {
    for after_ms in [1, 20, 60] {
        let target = Faulty::new(Fault::None);
        let stop = tokio::time::sleep(Duration::from_millis(after_ms));
        let report =
            unanimo_conformance::run(Arc::new(target.clone()), options(), |_| {}, stop).await;
        let report = report.unwrap();
        assert!(report.interrupted && !report.passed(), "{report}");
        assert!(report.to_string().contains("commit-races-cancel: it was interrupted"), "{report}");
        assert_eq!(target.counts().0, 0, "{report}");
    }
}

/// Participant that counts what it is asked, and answers nothing.
#[derive(Clone, Default)]
struct Counts(Arc<AtomicU32>);

#[tonic::async_trait]
impl ParticipantService for Counts {
    async fn prepare(
        &self,
        _: Request<PrepareRequest>,
    ) -> Result<Response<PrepareResponse>, Status> {
        self.0.fetch_add(1, Ordering::Relaxed);
        pending().await
    }

    async fn commit(&self, _: Request<CommitRequest>) -> Result<Response<CommitResponse>, Status> {
        pending().await
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        pending().await
    }
}

/// A caller that goes away at once has sent its request all the same: otherwise nothing is checked.
#[tokio::test]
async fn a_caller_that_leaves_at_once_has_sent_its_prepare() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (target, incoming) = (Counts::default(), TcpIncoming::from(listener));
    let service = ParticipantServiceServer::new(target.clone());
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let remote = Remote::connect(&endpoint).await.unwrap();
    let session = Session::new(Arc::new(remote), options());
    // On a busy machine one or the other does not come through.
    for _ in 0..200 {
        session.prepare_and_leave(&session.branch(), Duration::ZERO).await;
        if target.0.load(Ordering::Relaxed) > 0 {
            return;
        }
    }
    panic!("none has arrived");
}

/// Names of guarantees are used in scripts and in the guide.
#[test]
fn guarantees_have_names_of_their_own_that_the_guide_explains() {
    let mut names: Vec<_> = GUARANTEES.iter().map(|guarantee| guarantee.name).collect();
    let guide = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let guide = std::fs::read_to_string(guide.join("../docs/participant-guide.md")).unwrap();
    for name in &names {
        assert!(guide.contains(&format!("`{name}`")), "docs/participant-guide.md: {name}");
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), GUARANTEES.len());
}
