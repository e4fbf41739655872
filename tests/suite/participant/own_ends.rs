//! Ends of a participant's server and process: told once, told twice, and by themselves.

use std::io::{BufRead, BufReader};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::Executor;
use unanimo_conformance::{Options, Remote, Session};
use unanimo_proto::v1::participant_service_client::ParticipantServiceClient;
use unanimo_proto::v1::{Mode, PrepareRequest, prepare_response};
use unanimo_sdk::{Call, Isolation, Participant, PhaseTwoError, PrepareError, Serve, Sqlite, Tcc};
use unanimo_tests::alarms::Alarms;
use unanimo_tests::reaper::{Owned, run_folder};
use unanimo_tests::wait::{block_until, until};
use uuid::Uuid;

use super::databases::Database;
use super::direct::{Branch, branch, refused};
use super::handler::{Deed, Handler, Job};
use super::sweeper::Reserve;

/// A listener that is dead is no reason to live on: whoever waits for the end is told, with the reason.
#[tokio::test]
async fn a_dead_listener_ends_the_wait_for_the_end() {
    for until_stopped in [true, false] {
        let (database, _pool) = <Sqlite as Database>::open().await;
        let participant = Participant::new("p", database).tcc("ok", Reserve);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = OwnedFd::from(listener.try_clone().unwrap());
        let mut serving = participant.serve(Serve::from_listener(listener)).await.unwrap();
        TcpStream::connect(serving.address()).unwrap();
        // The operating system's part of it: accepting fails from now on.
        TcpStream::from(socket).shutdown(Shutdown::Both).unwrap();
        let patience = Duration::from_secs(30);
        if until_stopped {
            let ended = tokio::time::timeout(patience, serving.until_stopped()).await;
            let error = ended.expect("it notices").unwrap_err().to_string();
            assert!(error.contains("is served no longer: its listener is dead"), "{error}");
        } else {
            let reason = tokio::time::timeout(patience, serving.ended()).await;
            assert!(reason.expect("it notices").contains("its listener is dead"));
        }
    }
}

/// A stop waits for what is under way as long as it is told to, and no longer.
#[tokio::test]
async fn a_stop_waits_as_long_as_it_is_told_to() {
    let (database, pool) = <Sqlite as Database>::open().await;
    pool.execute("CREATE TABLE effect (tx_id text, branch_id text, what text)").await.unwrap();
    let handler = Handler::new(Isolation::ReadCommitted);
    let service = Participant::new("p", database).tcc("work", handler.clone()).service().unwrap();
    let drain = Duration::from_millis(700);
    let serve = Serve::on("127.0.0.1:0").without_sweep().drain_at_most(drain);
    let serving = service.serve(serve).await.unwrap();
    let job = Job { prepare: Deed::Wait, phase_two: Deed::Work };
    let at_work =
        Branch { payload: serde_json::to_vec(&job).unwrap().into(), ..branch(Mode::Tcc, "work") };
    let calling = tokio::spawn(async move { at_work.prepare(&service).await });
    handler.gate.waiting().await;
    let started = Instant::now();
    serving.stop().await.unwrap();
    let took = started.elapsed();
    assert!(took >= drain && took < Duration::from_secs(15), "{took:?}");
    calling.abort();
}

/// Coordinators that do not answer take one half of that time at most: calls that are under way have the other.
#[tokio::test]
async fn a_stop_waits_for_calls_although_no_coordinator_answers() {
    // Connections are taken by the operating system, and nobody reads what comes on them.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let coordinator = format!("http://{}", deaf.local_addr().unwrap());
    let (database, pool) = <Sqlite as Database>::open().await;
    pool.execute("CREATE TABLE effect (tx_id text, branch_id text, what text)").await.unwrap();
    let handler = Handler::new(Isolation::ReadCommitted);
    let service = Participant::new("p", database).tcc("work", handler.clone()).service().unwrap();
    // An address of its own: what has left it, nobody else takes.
    let serve = Serve::on("127.0.0.2:0").register_with(coordinator);
    // A busy machine needs some of the half that is left.
    let serving = service.serve(serve.drain_at_most(Duration::from_secs(20))).await.unwrap();
    let address = serving.address();
    let job = Job { prepare: Deed::Wait, phase_two: Deed::Work };
    let at_work =
        Branch { payload: serde_json::to_vec(&job).unwrap().into(), ..branch(Mode::Tcc, "work") };
    let calling = tokio::spawn(async move { at_work.prepare(&service).await });
    handler.gate.waiting().await;
    let stopping = tokio::spawn(serving.stop());
    until("it to take no more calls", async || TcpStream::connect(address).err()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!stopping.is_finished(), "a call is under way");
    handler.gate.open();
    let answer = calling.await.unwrap().unwrap();
    assert!(matches!(answer, prepare_response::Answer::Prepared(_)), "{answer:?}");
    stopping.await.unwrap().unwrap();
    drop(deaf);
}

/// Ctrl-C lets a handler end; a second one does not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_process_at_once() {
    for signal in [Signal::INT, Signal::TERM] {
        let file = run_folder().join(format!("{}.db", Uuid::now_v7()));
        let url = format!("sqlite:{}?mode=rwc", file.display());
        sqlx::SqlitePool::connect(&url)
            .await
            .unwrap()
            .execute("CREATE TABLE effect (n integer)")
            .await
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_slow-step"));
        command.args(["sqlite", &file.display().to_string()]);
        let mut process = Owned::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()));
        let stdout = process.child().stdout.take().unwrap();
        let (says, said) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| says.send(l))
        });
        let line = until("its address", async || said.try_recv().ok()).await;
        let remote = Remote::connect(line.strip_prefix("grpc ").unwrap()).await.unwrap();
        let options = Options { mode: Mode::Saga, ..Options::new("slow", "work") };
        let session = Session::new(std::sync::Arc::new(remote), options);
        let hung = unanimo_conformance::Branch {
            payload: bytes::Bytes::from_static(b"hang"),
            ..session.branch()
        };
        let calling = tokio::spawn(async move {
            session.prepare_and_leave(&hung, Duration::from_secs(60)).await;
        });
        assert_eq!(until("the handler", async || said.try_recv().ok()).await, "at work");
        let pid = Pid::from_raw(process.child().id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(process.child().try_wait().unwrap().is_none(), "it waits for its handler");
        let told = Instant::now();
        kill_process(pid, signal).unwrap();
        let status = block_until("its end", || process.child().try_wait().unwrap());
        assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
        assert!(status.success(), "{status:?}");
        calling.await.unwrap();
    }
}

/// Has an output of so many bytes, or one that cannot be written.
struct Wordy;

impl Tcc<Sqlite> for Wordy {
    type Payload = bytes::Bytes;
    type Output = unanimo_sdk::Payload;

    async fn try_(
        &self,
        _: &mut sqlx::SqliteConnection,
        call: &Call<bytes::Bytes>,
    ) -> Result<unanimo_sdk::Payload, PrepareError> {
        let size: usize = std::str::from_utf8(&call.payload)?.parse()?;
        let media_type = if size == 0 { "no\0type" } else { "" };
        Ok(unanimo_sdk::Payload::new(vec![b'x'; size], media_type))
    }

    async fn confirm(
        &self,
        _: &mut sqlx::SqliteConnection,
        _: &Call<bytes::Bytes>,
        _: unanimo_sdk::Payload,
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }

    async fn cancel(
        &self,
        _: &mut sqlx::SqliteConnection,
        _: &Call<bytes::Bytes>,
        _: unanimo_sdk::Payload,
    ) -> Result<(), PhaseTwoError> {
        Ok(())
    }
}

/// An output over a bound of the service's own is the vote no where it is made, and is stored as one. Without one
/// the coordinator drops what it does not take, and the vote stands; and so it is with work that must succeed,
/// whose no would be asked for again without end.
#[tokio::test]
async fn an_output_over_the_services_own_bound_is_refused_where_it_is_made() {
    let (database, _pool) = <Sqlite as Database>::open().await;
    let of = |bound: Option<u64>| {
        let participant = Participant::new("p", database.clone()).tcc("wordy", Wordy);
        let bounded = match bound {
            Some(bound) => participant.output_bytes_at_most(bound),
            None => participant,
        };
        bounded.service().unwrap()
    };
    let asked =
        |size: usize| Branch { payload: size.to_string().into(), ..branch(Mode::Tcc, "wordy") };
    let (usual, wide, narrow) = (of(None), of(Some(2 << 20)), of(Some(10)));
    for (service, size, is_fine) in [
        (&usual, (1 << 20) + 1, true),
        (&usual, 3 << 20, true),
        (&wide, 2 << 20, true),
        (&wide, (2 << 20) + 1, false),
        (&narrow, 10, true),
        (&narrow, 11, false),
    ] {
        let branch = asked(size);
        for _ in 0..2 {
            let voted = branch.prepare(service).await.unwrap();
            if is_fine {
                assert!(matches!(voted, prepare_response::Answer::Prepared(_)), "{size}");
            } else {
                assert_eq!(refused(voted), "OUTPUT_TOO_LARGE", "{size}");
            }
        }
        branch.cancel(service).await.unwrap();
    }
    let must_succeed = Branch { must_succeed: true, ..asked(11) };
    let voted = must_succeed.prepare(&narrow).await.unwrap();
    assert!(matches!(voted, prepare_response::Answer::Prepared(_)), "{voted:?}");
    assert_eq!(refused(asked(0).prepare(&usual).await.unwrap()), "OUTPUT_UNWRITABLE");
}

/// L1: an output that no message can carry does not keep the vote back: it is told without it, each time.
#[tokio::test]
async fn l1_a_vote_whose_output_fits_no_message_is_told_without_it() {
    let (database, pool) = <Sqlite as Database>::open().await;
    let participant = Participant::new("p", database).tcc("wordy", Wordy);
    let mut serving = participant.serve(Serve::on("127.0.0.1:0").without_sweep()).await.unwrap();
    serving.registered().await.unwrap();
    let address = format!("http://{}", serving.address());
    let client = ParticipantServiceClient::connect(address).await.unwrap();
    // As a coordinator takes it by default.
    let mut client = client.max_decoding_message_size(8 << 20);
    for (size, is_told) in [(8 << 20, false), (9 << 20, false), ((8 << 20) - 1024, true)] {
        let of = branch(Mode::Tcc, "wordy");
        for must_succeed in [true, true, false] {
            let request = PrepareRequest {
                context: Some(of.context.clone()),
                action: of.action.clone(),
                payload: unanimo_tests::payload(size.to_string()),
                requires: vec!["must_succeed".to_owned()],
                must_succeed,
                ..PrepareRequest::default()
            };
            let answer = client.prepare(request).await.unwrap().into_inner().answer;
            let Some(prepare_response::Answer::Prepared(prepared)) = answer else {
                panic!("L1: {size}: {answer:?}")
            };
            let told = unanimo_tests::bytes_of(prepared.output.as_ref()).len();
            assert_eq!(told, if is_told { size } else { 0 }, "{size}");
        }
        // The handlers of phase two have it.
        let stored = "SELECT length(output) FROM unanimo_barrier ORDER BY tx_id DESC LIMIT 1";
        assert_eq!(Sqlite::number(&pool, stored.to_owned()).await, i64::try_from(size).unwrap());
    }
    serving.stop().await.unwrap();
}

/// A handler is ended at its own bound, long before that of its call, and no person is called for it.
#[tokio::test]
async fn a_handler_is_ended_at_its_timeout() {
    let (alarms, _listening) = Alarms::listen();
    let (database, pool) = <Sqlite as Database>::open().await;
    pool.execute("CREATE TABLE effect (tx_id text, branch_id text, what text)").await.unwrap();
    let handler = Handler::new(Isolation::ReadCommitted);
    let bound = Duration::from_millis(400);
    let service = Participant::new("p", database)
        .handler_timeout(bound)
        .tcc("work", handler)
        .service()
        .unwrap();
    let of = |prepare, phase_two| {
        let job = Job { prepare, phase_two };
        Branch { payload: serde_json::to_vec(&job).unwrap().into(), ..branch(Mode::Tcc, "work") }
    };
    let endless = of(Deed::Wait, Deed::Work);
    let started = Instant::now();
    let status = endless.prepare(&service).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
    assert!(started.elapsed() >= bound && started.elapsed() < Duration::from_secs(15));
    let effects: i64 =
        sqlx::query_scalar("SELECT count(*) FROM effect").fetch_one(&pool).await.unwrap();
    assert_eq!(effects, 0);
    let endless = of(Deed::Work, Deed::Wait);
    endless.prepare(&service).await.unwrap();
    let status = endless.commit(&service).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
    assert!(alarms.named("operation_overtime").is_empty());
}

/// The compiler tells whoever drops one of these at once: if it did not, its expectation here would be unfulfilled.
#[test]
fn the_compiler_tells_of_a_participant_that_is_dropped_at_once() {
    fn made<T>() -> T {
        unreachable!("it is compiled only")
    }
    let _: [fn(); 3] = [
        || {
            #[expect(unused_must_use, reason = "a participant that is served ends with it")]
            made::<unanimo_sdk::Serving>();
        },
        || {
            #[expect(unused_must_use, reason = "so does a registration")]
            made::<unanimo_sdk::Registration>();
        },
        || {
            #[expect(unused_must_use, reason = "so does a sweeper")]
            made::<unanimo_sdk::Sweeper>();
        },
    ];
}
