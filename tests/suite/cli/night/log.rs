//! Lines of the log.

use serde_json::Value;
use unanimo_tests::postgres::Server;

use super::{Program, Served, addresses, serve, until};
use rustix::process::Signal;

fn lines(program: &Program) -> Vec<Value> {
    program.err().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// D3: an operator's heuristic act is an alarm, told once; a resubmission is no begin; a transaction whose
/// participant may hold something is not forgotten by the way.
#[tokio::test]
async fn an_operators_end_of_a_branch_is_an_alarm() {
    let served = Served::start(&[
        "--log-format=json",
        "--call-timeout=500ms",
        "--phase-two-backoff=1h",
        "--phase-two-backoff-max=1h",
    ])
    .await;
    served.submit("g", &["commit-hang", "ok"], &[]).await.check(0);
    until("the first Commit to have failed", async || {
        let shown = served.tx(&["show", "g"]).await;
        shown.check(0).out.contains("no answer within 500ms").then_some(())
    })
    .await;
    let resolve = ["resolve", "g", "--branch=a", "--as=rolled-back", "--operator=ann"];
    let ran = served.tx(&[&resolve[..], &["--note=the bank is gone"]].concat()).await;
    ran.check(0).complains(&["warning: participant p (branch a) has not confirmed the end"]);
    let alarm = until("the alarm", async || {
        lines(&served.program).into_iter().find(|line| line["alarm"] == "heuristic_outcome")
    })
    .await;
    assert_eq!((&alarm["level"], &alarm["gid"]), (&"ERROR".into(), &"g".into()));
    assert_eq!(alarm["branch_id"], "a");
    assert_eq!(alarm["detail"], "as rolled back by ann: the bank is gone");

    // An operator's words are not the participant's error.
    let shown = served.tx(&["show", "g"]).await;
    let notes = shown.check(0).out.split("Notes\n").nth(1).unwrap();
    let line = |about: &str| notes.lines().find(|line| line.contains(about)).unwrap().to_owned();
    assert!(line("resolved ").contains("by ann: the bank is gone"), "{notes}");
    assert!(line("commit error").contains("no answer within 500ms"), "{notes}");
    let json = served.tx(&["show", "g", "--json"]).await.json();
    assert_eq!(json["branches"][0]["resolved_by"], "ann");
    assert_eq!(json["branches"][0]["resolution_note"], "the bank is gone");
    assert_eq!(json["branches"][1]["resolved_by"], Value::Null);

    let forget = ["forget", "g", "--operator=ann", "--note=paid by hand"];
    served.tx(&forget).await.check(1).complains(&[
        "error: the transaction is not forgotten: participant p (branch a) has not confirmed",
        "may still hold what it had reserved",
        "with --released",
    ]);
    assert_eq!(served.tx(&["show", "g", "--json"]).await.json()["attention"], true);
    served.tx(&[&forget[..], &["--released"]].concat()).await.check(0);
    // Once it is forgotten, another one changes nothing.
    served.tx(&forget).await.check(0);
    served.stop().await.check(0);
}

/// D3: one that a participant ended by itself holds nothing more, and is forgotten without a flag.
#[tokio::test]
async fn a_participants_own_end_is_forgotten_as_it_is() {
    let served = Served::start(&[]).await;
    served.submit("g", &["commit-heuristic"], &["--wait", "ended"]).await.check(6);
    let forget = ["forget", "g", "--operator=ann", "--note=paid by hand"];
    served.tx(&forget).await.check(0);
    served.stop().await.check(0);
}

/// D4: the end of a transaction is one line at info, with its duration and outcome.
#[tokio::test]
async fn the_end_of_a_transaction_is_one_line() {
    let served = Served::start(&["--log-format=json"]).await;
    served.submit("good", &["ok", "ok"], &["--wait", "ended"]).await.check(0);
    served.submit("bad", &["ok", "refuse"], &["--wait", "ended"]).await.check(4);
    for _ in 0..3 {
        // The same one again is no end.
        served.submit("good", &["ok", "ok"], &["--wait", "ended"]).await.check(0);
    }
    let ends = || -> Vec<Value> {
        let ended = |line: &Value| line["message"] == "a transaction has ended";
        lines(&served.program).into_iter().filter(ended).collect()
    };
    until("both ends", async || (ends().len() >= 2).then_some(())).await;
    let ends = ends();
    assert_eq!(ends.len(), 2);
    for (line, gid, outcome) in [(&ends[0], "good", "committed"), (&ends[1], "bad", "aborted")] {
        assert_eq!((&line["gid"], &line["outcome"]), (&gid.into(), &outcome.into()), "{line}");
        assert_eq!((&line["level"], &line["branches"]), (&"INFO".into(), &2.into()), "{line}");
        assert!(line["duration_ms"].is_u64() && line["tx_id"].is_string(), "{line}");
    }
    let cause = ends[1]["cause"].as_str().unwrap();
    assert!(cause.starts_with("branch b refused: NO_MONEY: "), "{cause}");
    served.stop().await.check(0);
}

/// D4: many ends are counted, and not told one by one.
#[tokio::test]
async fn many_ends_in_a_second_are_counted() {
    let served = Served::start(&["--log-format=json"]).await;
    served.p.hold(true);
    for n in 0..60 {
        served.submit(&format!("g{n}"), &["ok"], &["--wait", "decided"]).await.check(0);
    }
    // All of them end together.
    served.p.hold(false);
    let counted = until("the count of the others", async || {
        let all = lines(&served.program);
        let told = all.iter().filter(|line| line["message"] == "a transaction has ended").count();
        let others =
            |line: &&Value| line["message"].as_str().unwrap().contains("more transactions");
        let others: u64 =
            all.iter().filter(others).map(|line| line["committed"].as_u64().unwrap()).sum();
        (told as u64 + others == 60).then_some((told, others))
    })
    .await;
    assert!(counted.1 > 0 && counted.0 >= 20, "{counted:?}");
    served.stop().await.check(0);
}

/// D4: at debug nearly all lines are our own; D5: PostgreSQL's notices are not printed.
#[tokio::test]
async fn the_log_has_our_own_lines() {
    for level in ["info", "debug"] {
        let url = Server::shared().database().await;
        let log = format!("--log={level}");
        let mut all = String::new();
        // A second start finds the tables there, which PostgreSQL would have a notice for.
        for _ in 0..2 {
            let mut program = serve(&url, &["--log-format=json", &log]);
            addresses(&mut program).await;
            program.process.signal(Signal::TERM);
            all += &program.end().await.check(0).err;
        }
        assert!(!all.contains("NOTICE") && !all.contains("already exists"), "{all}");
        for line in all.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let target = line["target"].as_str().unwrap();
            assert!(target.starts_with("unanimo"), "{line}");
        }
    }
}

/// D2: a call that fails is told with its participant, the endpoint and the cause. D4: `tx watch` shows
/// attempts and the error.
#[tokio::test]
async fn a_call_that_fails_tells_who_where_and_why() {
    let served =
        Served::start(&["--participant=dead=http://127.0.0.1:1", "--log-format=json"]).await;
    let text = crate::cli::tcc("g", &["ok"]).replace("\"p\"", "\"dead\"").replace("20s", "1s");
    let path = super::file(&text);
    let mut submission = Program::start(served.tx_command(&["submit", &path]));
    let line = until("the failed call", async || {
        let all = lines(&served.program);
        all.into_iter().find(|line| line["participant"] == "dead" && line["attempt"] == 2)
    })
    .await;
    let error = line["error"].as_str().unwrap();
    for part in ["Unavailable: ", "Connection refused"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(line["endpoint"], "http://127.0.0.1:1");
    assert_eq!(error.matches("Connection refused").count(), 1, "{error}");
    let watch = served.tx(&["watch", "g", "--timeout=300ms"]).await;
    let expected = "  branch a  preparing: ";
    assert!(watch.out.contains(expected), "no {expected:?} in {}", watch.out);
    assert!(watch.out.contains(" attempt(s), last error: Unavailable: "), "{}", watch.out);
    // The ABORT tells it, too.
    let ran = submission.end().await;
    let said = ran.check(4).out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said.contains("the deadline passed: branch a had no vote after "), "{said}");
    assert!(said.contains("Connection refused"), "{said}");
}

/// D4: a Commit that fails is followed, too.
#[tokio::test]
async fn a_watch_shows_a_commit_that_fails() {
    let served = Served::start(&[]).await;
    served.submit("g", &["commit-fail-6"], &[]).await.check(0);
    let ran = served.tx(&["watch", "g"]).await;
    ran.check(0)
        .says(&["  branch a  committing: ", " attempt(s), last error: Unavailable: not now"]);
    ran.says(&["  branch a  committed\n", "  transaction  committed\n"]);
}

/// D6: a no that comes as an error status is asked again until the deadline, and the log and the ABORT say
/// how to say no.
#[tokio::test]
async fn a_no_that_comes_as_an_error_is_explained() {
    let served = Served::start(&["--log-format=json"]).await;
    let path = super::file(&crate::cli::tcc("g", &["decline-1000"]).replace("20s", "1s"));
    let ran = served.tx(&["submit", &path, "--json"]).await;
    let detail = ran.check(4).json()["abort_detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("FailedPrecondition: sold out"), "{detail}");
    assert!(detail.contains("a participant says no with REFUSED in an OK reply"), "{detail}");
    let hints: Vec<_> = lines(&served.program)
        .into_iter()
        .filter(|line| line["error"].as_str().is_some_and(|error| error.contains("says no with")))
        .collect();
    assert!(!hints.is_empty() && hints.iter().all(|line| line["level"] == "WARN"), "{hints:?}");
    assert!(hints.iter().all(|line| line["attempt"].as_u64() > Some(2)), "not at first: {hints:?}");
}

/// Reads the metrics over HTTP.
async fn metrics(admin: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream =
        tokio::net::TcpStream::connect(admin.trim_start_matches("http://")).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// D3: what is submitted again is not begun again, nor decided.
#[tokio::test]
async fn a_resubmission_is_not_counted_as_begun() {
    let mut served = Served::start(&[]).await;
    let (_, admin) = addresses(&mut served.program).await;
    for _ in 0..4 {
        served.submit("g", &["ok"], &["--wait", "ended"]).await.check(0);
    }
    served.submit("bad", &["refuse"], &["--wait", "ended"]).await.check(4);
    served.submit("bad", &["refuse"], &["--wait", "ended"]).await.check(4);
    let text = metrics(&admin).await;
    for line in [
        "unanimo_transactions_begun_total{mode=\"tcc\"} 2",
        "unanimo_transactions_decided_total{mode=\"tcc\",outcome=\"committed\"} 1",
        "unanimo_transactions_decided_total{mode=\"tcc\",outcome=\"aborted\"} 1",
        "unanimo_decision_seconds_count 2",
    ] {
        assert!(text.lines().any(|known| known == line), "no {line:?} in {text}");
    }
    served.stop().await.check(0);
}
