//! A coordinator that goes away, and a database that does.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use unanimo_tests::postgres::Server;

use super::{Program, Served, addresses, file, serve, sqlite, until};
use crate::cli::{command, new_path, tcc};

/// D1: a connection that breaks is no failure: the command asks again under the same gid.
#[tokio::test]
async fn a_submission_goes_on_when_the_coordinator_was_killed() {
    let p = unanimo_tests::scripted::Scripted::default();
    let participant = format!("p={}", p.serve().await);
    let url = sqlite(&new_path(".db"));
    let more = ["--participant", participant.as_str()];
    let mut first = serve(&url, &more);
    let (endpoint, _) = addresses(&mut first).await;
    p.hold(true);
    let path = file(&tcc("g", &["gated"]));
    let submit = ["tx", "submit", &path, "--json", "--endpoint", &endpoint];
    let mut submission = Program::start(command(&submit));
    until("its Prepare", async || (!p.seen().is_empty()).then_some(())).await;
    first.process.kill();
    submission.until_err("no answer: ").await;
    submission.until_err("asks again under the same gid").await;
    p.hold(false);
    let listen = endpoint.trim_start_matches("http://");
    let mut again = serve(&url, &[&more[..], &["--listen", listen]].concat());
    addresses(&mut again).await;
    let ran = submission.end().await;
    assert_eq!(ran.check(0).json()["outcome"], "committed");
    until("its Commit", async || {
        p.seen().iter().any(|seen| seen.operation == "commit").then_some(())
    })
    .await;
    again.process.signal(Signal::TERM);
    again.end().await.check(0);
}

/// D1: what nobody knows is exit code 5, and not a failure.
#[tokio::test]
async fn a_submission_without_any_answer_is_not_decided() {
    let mut served = Served::start(&[]).await;
    served.p.hold(true);
    let path = file(&tcc("g", &["gated"]));
    let mut human = Program::start(served.tx_command(&["submit", &path, "--timeout", "3s"]));
    until("its Prepare", async || (!served.p.seen().is_empty()).then_some(())).await;
    served.program.process.kill();
    let ran = human.end().await;
    ran.check(5).says(&[
        "not decided yet\ngid    g\ntx_id  not known yet\n",
        "hint: run the same command again: it is the same transaction\n",
    ]);
    ran.complains(&["no answer: failed to get an answer from http://127.0.0.1:"]);
    // One that reaches nobody knows as little: that of before may be committed.
    let again = served.tx(&["submit", &path]).await;
    again.check(5).says(&["not known: no coordinator was reached\ngid    g\n"]);
    again.complains(&["failed to reach a coordinator at", "hint: ", "this run has sent nothing"]);
}

/// D1: the reason why the last attempt found no outcome is told: without it the command would be repeated for ever.
#[tokio::test]
async fn a_submission_tells_what_its_last_attempt_was_answered() {
    let p = unanimo_tests::scripted::Scripted::default();
    let participant = format!("p={}", p.serve().await);
    let mut first = serve(&sqlite(&new_path(".db")), &["--participant", &participant]);
    let (endpoint, _) = addresses(&mut first).await;
    p.hold(true);
    let path = file(&tcc("g", &["gated"]));
    let submit = ["tx", "submit", &path, "--timeout=60s", "--endpoint", &endpoint];
    let mut submission = Program::start(command(&submit));
    until("its Prepare", async || (!p.seen().is_empty()).then_some(())).await;
    first.process.kill();
    submission.until_err("asks again under the same gid").await;
    // The one that is started instead knows neither the transaction nor its participant.
    let listen = endpoint.trim_start_matches("http://");
    let mut other = serve(&sqlite(&new_path(".db")), &["--listen", listen]);
    addresses(&mut other).await;
    let ran = submission.end().await;
    ran.check(5).says(&["not decided yet\n"]);
    ran.complains(&["the last attempt: ", "reason: PARTICIPANT_UNKNOWN"]);
    other.process.signal(Signal::TERM);
    other.end().await.check(0);
}

/// Commands that need the database, each with a time.
const ASKING: [&[&str]; 8] = [
    &["list"],
    &["counts"],
    &["show", "g"],
    &["watch", "g"],
    &["export", "g"],
    &["retry", "g"],
    &["resolve", "g", "--branch=a", "--as=hazard", "--operator=o", "--note=n"],
    &["forget", "g", "--operator=o", "--note=n"],
];

#[track_caller]
fn check_told(command: &[&str], ran: &crate::cli::Ran, took: Duration) {
    ran.check(1).complains(&[
        "error: the coordinator's database d",
        "reason: STORE_UNAVAILABLE (UNAVAILABLE)",
        "run the same command again",
    ]);
    assert!(took < Duration::from_secs(10), "{command:?} took {took:?}");
}

/// D2: a database that refuses connections is told as that, also when the lease is lost.
#[tokio::test]
async fn a_database_that_is_away_is_told() {
    let server = Server::start();
    let url = server.database().await;
    let mut program = serve(&url, &["--keep-alive-interval=1s"]);
    let (endpoint, _) = addresses(&mut program).await;
    let ask = async |command: &[&str]| {
        let all = [&["tx", "--endpoint", &endpoint, "--timeout=2s"][..], command].concat();
        let started = Instant::now();
        let ran = crate::cli::run(&all).await;
        (ran, started.elapsed())
    };
    server.kill();
    // The lease is lost after a second and a half; the engine then answers nothing from memory.
    program.until_err("held=false").await;
    for command in ASKING {
        let (ran, took) = ask(command).await;
        check_told(command, &ran, took);
    }
    let path = file(&tcc("g", &["ok"]).replace("\"p\"", "\"q\""));
    let (ran, _) = ask(&["submit", &path]).await;
    assert!([1, 2, 5].contains(&ran.code), "{}", ran.err);
    for line in program.err().lines().filter(|line| line.contains("error=")) {
        let causes = line.matches("os error").count();
        assert!(line.contains("error=\"") && causes <= 1, "the cause, once: {line}");
        assert!(!line.contains("at line"), "{line}");
    }
    assert!(program.err().contains("failed to renew the lease error=\"renew the lease: "));
    assert!(!program.err().contains("sqlx"), "only our own lines: {}", program.err());
    server.launch();
    until("it to answer again", async || (ask(&["list"]).await.0.code == 0).then_some(())).await;
    program.process.signal(Signal::TERM);
    program.end().await.check(0);
}

/// A server's processes, the main one among them, each with whether it stands still.
fn processes_of(main: Pid) -> Vec<(Pid, bool)> {
    let entries = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    let stats = entries.filter_map(|entry| {
        let id = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        Some((id, std::fs::read_to_string(entry.path().join("stat")).ok()?))
    });
    let own = stats.filter_map(|(id, stat)| {
        // Behind the name, which may hold anything: the state, then the parent.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        // One that has ended waits for the main process, which stands still.
        let stopped = ["T", "Z"].contains(&fields.next()?);
        let parent = fields.next()?.parse().ok().and_then(Pid::from_raw);
        (id == main || parent == Some(main)).then_some((id, stopped))
    });
    own.collect()
}

/// A server that stands still until this is dropped, also by a test that fails: what stands still cannot end.
struct StandsStill(Pid);

impl StandsStill {
    /// Stops every process of a server, and returns when all of them stand still.
    async fn stop(server: &Server) -> Self {
        let main = server.pid().expect("it runs");
        // The main process first: once it stands still, it makes no more sessions.
        kill_process(main, Signal::STOP).expect("it runs");
        let still = Self(main);
        until("it to stand still", async || {
            processes_of(main).contains(&(main, true)).then_some(())
        })
        .await;
        until("its sessions to stand still", async || {
            let processes = processes_of(main);
            for (process, _) in processes.iter().filter(|(_, stopped)| !stopped) {
                // It may have ended meanwhile.
                let _ = kill_process(*process, Signal::STOP);
            }
            processes.iter().all(|(_, stopped)| *stopped).then_some(())
        })
        .await;
        still
    }
}

impl Drop for StandsStill {
    fn drop(&mut self) {
        for (process, _) in processes_of(self.0) {
            // Nothing comes of it where it has ended.
            let _ = kill_process(process, Signal::CONT);
        }
    }
}

/// D2: a database that takes connections and says nothing is told as that, within the call's time.
#[tokio::test]
async fn a_database_that_hangs_is_told() {
    let server = Server::start();
    let url = server.database().await;
    let mut program = serve(&url, &[]);
    let (endpoint, _) = addresses(&mut program).await;
    let still = StandsStill::stop(&server).await;
    for command in ASKING {
        let all = [&["tx", "--endpoint", &endpoint, "--timeout=2s"][..], command].concat();
        let started = Instant::now();
        let ran = crate::cli::run(&all).await;
        check_told(command, &ran, started.elapsed());
    }
    assert!(program.err().contains("did not answer a request in time"), "{}", program.err());
    drop(still);
    program.process.signal(Signal::TERM);
    program.end().await.check(0);
}
