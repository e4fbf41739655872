//! Commands that look at all transactions: `top`, `tx list --follow`, and `tx retry --all`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::{Code, Status};
use unanimo_proto::v1;
use uuid::Uuid;

use self::fake::{Fake, committing, error};
use super::{Program, Ran, Served, command, new_path, run, until};

mod acts;
mod fake;

/// Runs `unanimo top` once.
async fn top(endpoint: &str, args: &[&str]) -> Ran {
    run(&[&["top", "--endpoint", endpoint], args].concat()).await
}

/// Tells whether what began is drawn, which it is once a part of the last ten minutes is over.
async fn has_line_over_time(served: &Served) -> bool {
    let ran = top(&served.endpoint, &[]).await;
    ran.out.contains("\nbegun        ") && ran.out.contains("  at most ")
}

#[tokio::test]
async fn all_is_seen_at_a_glance_and_what_is_stuck_is_retried_at_once() {
    let served = Served::start(&[
        "--stalled-after=50ms",
        "--call-timeout=50ms",
        "--phase-two-backoff=1h",
        "--phase-two-backoff-max=1h",
    ])
    .await;
    let mut follow = Program::start(served.tx_command(&["list", "--follow", "--gid-prefix", "s-"]));
    follow.until_err("from now on").await;
    let calm = top(&served.endpoint, &["--once"]).await;
    calm.check(0).says(&["nothing needs a person", "\np            1 configured  "]);

    let none = served.tx(&["list", "--mode", "saga,2pc", "--metadata", "region=eu"]).await;
    none.check(0).complains(&["no transactions match"]);
    let bad = served.tx(&["list", "--metadata", "region"]).await;
    bad.check(2).complains(&["--metadata", "write KEY=VALUE"]);
    let twice = served.tx(&["list", "--metadata", "a=1", "--metadata", "a=2"]).await;
    twice.check(2).complains(&["--metadata a is there twice"]);

    let mut ids = Vec::new();
    for gid in ["s-1", "s-2", "s-3"] {
        let ran = served.submit(gid, &["commit-hang"], &["--json"]).await;
        ids.push(ran.check(0).json()["tx_id"].as_str().unwrap().to_owned());
        served.show_until(gid, "its alarm", |shown| shown["stalled"] == true).await;
    }
    served.submit("t", &["ok"], &["--wait", "ended"]).await.check(0);
    until("all that have begun", async || follow.out().contains("s-3").then_some(())).await;
    let lines: Vec<String> = follow.out().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].contains("  tcc   ") && lines[0].contains("  s-1"), "{lines:?}");
    follow.process.kill();
    let since = ["list", "--follow", "--json", "--since=1h", "--timeout=5s"];
    let mut since = Program::start(served.tx_command(&since));

    // Without a terminal one look is printed, in lines that fit.
    let ran = top(&served.endpoint, &[]).await;
    ran.check(0)
        .says(&["owed         3 committing, 0 aborting, the oldest for ", "3 stalled, 0 heur"]);
    ran.says(&[
        "s-1  committing  stalled\n",
        "in flight    3 at this coordinator\n",
        "the newest\n",
    ]);
    until("a line over time", async || has_line_over_time(&served).await.then_some(())).await;
    let (on_top, _) = ran.out.split_once("a second").unwrap();
    assert!(on_top.contains("3 stalled, "), "what needs a person is on top: {}", ran.out);
    assert!(ran.out.lines().all(|line| line.chars().count() <= 80), "{}", ran.out);
    // What began is counted for ten seconds, which may have passed on a busy machine.
    let seen = until("a rate", async || {
        let gid = format!("u-{}", Uuid::new_v4());
        served.submit(&gid, &["ok"], &["--wait", "ended"]).await.check(0);
        let seen = top(&served.endpoint, &["--once", "--json"]).await.check(0).json();
        let begun = seen["steps"].as_array()?.iter().filter_map(|of| of["begun"].as_u64());
        (seen["begun_per_second"].as_f64()? > 0.0 && begun.sum::<u64>() >= 5).then_some(seen)
    });
    let seen = seen.await;
    assert_eq!((&seen["stalled"], &seen["counts"]["committing"]), (&json!(3), &json!(3)));
    assert_eq!(seen["attention"].as_array().unwrap().len(), 3);
    let p = &seen["participants"][0];
    assert_eq!([&p["name"], &p["endpoints"]], [&json!("p"), &json!(1)]);
    assert_eq!([&p["alive"], &p["configured"]], [&json!(0), &json!(1)]);
    let owed = p["owed"].as_u64().unwrap();
    assert!(owed >= 3 && p["calls"].as_u64().unwrap() > 0, "{p}");
    assert!(seen["decision_p50_ms"].as_f64().unwrap() > 0.0, "{seen}");
    assert_eq!(seen["refused_per_second"], json!(0.0));
    assert!(seen["in_flight"].as_u64().unwrap() >= 3, "{seen}");
    assert!(seen["newest"][0]["gid"].as_str().unwrap().starts_with("u-"), "{seen}");

    let calls = || ids.iter().map(|id| served.p.calls(id, "a").len()).collect::<Vec<_>>();
    let before = calls();
    let retry = async |more: &[&str]| {
        let args = [&["retry", "--all", "--operator", "ann", "--note", "up again"], more].concat();
        served.tx(&args).await
    };
    retry(&["--dry-run"]).await.check(0).says(&["3 transactions would be retried\n"]);
    retry(&["--participant", "q"]).await.check(0).says(&["0 transactions: "]);
    assert_eq!(calls(), before);
    // Without a terminal nobody is asked, and nothing is done without a word.
    let ran = retry(&["--participant", "p", "--json"]).await;
    ran.check(2).complains(&["error: nothing was done", "--yes", "would retry 3 transactions"]);
    assert_eq!((&ran.json()["left"], &ran.json()["done"]), (&json!(3), &json!(0)));
    assert_eq!(calls(), before);
    let ran = retry(&["--participant", "p", "--attention", "--json", "--yes"]).await;
    let expected = json!({ "act": "retry", "matched": 3, "done": 3, "nothing_due": 0, "sent": 3,
        "not_sent": 0, "failed": 0, "unreadable": 0, "left": 0, "dry_run": false });
    assert_eq!(ran.check(0).json(), expected);
    let is_more = async || calls().iter().zip(&before).all(|(now, was)| now > was).then_some(());
    until("a call of each", is_more).await;
    served.tx(&["retry"]).await.check(2).complains(&["required arguments", "<TX>"]);
    for option in [
        "--dry-run",
        "--attention",
        "--participant=p",
        "--gid-prefix=s",
        "--pace=1",
        "--yes",
        "--state=active",
        "--mode=tcc",
        "--metadata=a=b",
        "--since=1h",
        "--until=1h",
    ] {
        let ran = served.tx(&["retry", "s-1", option]).await;
        ran.check(2).complains(&["cannot be used with", option.split('=').next().unwrap()]);
    }
    let shown = served.tx(&["show", "s-2", "--json"]).await.check(0).json();
    let events = shown["timeline"].as_array().unwrap();
    let by: Vec<&Value> = events.iter().filter(|event| event["event"] == "retried").collect();
    assert_eq!(by.len(), 1, "{events:?}");
    assert_eq!(by[0]["detail"], "by ann: up again");
    // It began before all of them, and ended in its time.
    let ran = since.end().await;
    let lines = ran.check(0).out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let gids: Vec<_> = lines.map(|tx| tx["gid"].as_str().unwrap().to_owned()).take(4).collect();
    assert_eq!(gids, ["s-1", "s-2", "s-3", "t"]);
}

/// Runs `unanimo tx retry --all` in JSON.
async fn retry_all(fake: &Fake) -> Ran {
    let all =
        ["tx", "retry", "--all", "--operator=ann", "--note=n", "--yes", "--pace=10000", "--json"];
    run(&[&all[..], &["--endpoint", &fake.endpoint]].concat()).await
}

#[tokio::test]
async fn a_retry_of_all_goes_on_after_those_that_fail() {
    let mut listed: Vec<_> =
        ["t5", "t4", "t3", "t2", "t1", "t0"].map(|of| committing(of, 9)).into();
    listed[1].unreadable = "read transactions.progress".to_owned();
    let fake = Fake::start(listed, 4).await;
    let limited = || error(Code::ResourceExhausted, "IDENTITY_LIMITED", true);
    let moving = || error(Code::Unavailable, "TRANSACTION_MOVING", true);
    fake.says().list_errors.push_back(limited());
    let unreadable = error(Code::Internal, "TRANSACTION_UNREADABLE", false);
    // Longer than one that is put off is tried.
    let limits = (0..8).map(|_| Some(limited()));
    let retries = limits.chain([None, Some(unreadable), Some(moving()), None]);
    fake.says().retries.extend(retries);
    let ran = retry_all(&fake).await;
    let expected = json!({ "act": "retry", "matched": 5, "done": 4, "nothing_due": 0, "sent": 4,
        "not_sent": 0, "failed": 1, "unreadable": 1, "left": 0, "dry_run": false });
    assert_eq!(ran.check(1).json(), expected);
    ran.complains(&["t4: left out: failed to read transactions.progress\n", "t1: no"]);
    let mut asked = vec!["t0"; 9];
    asked.extend(["t1", "t2", "t2", "t3", "t5"]);
    assert_eq!(fake.says().retried, asked);
}

#[tokio::test]
async fn a_retry_of_all_that_ends_early_says_how_far_it_came() {
    let put_off = || error(Code::Unavailable, "STORE_UNAVAILABLE", true);
    let denied = || error(Code::PermissionDenied, "PERMISSION_DENIED", false);
    let away = || Status::unavailable("no coordinator");
    let ends: [(&dyn Fn() -> Status, usize, usize); 3] =
        [(&put_off, 3, 15), (&denied, 1, 1), (&away, 1, 1)];
    for (status, failed, calls) in ends {
        let listed = (0..6).map(|of| committing(&format!("t{of}"), 9)).collect();
        let fake = Fake::start(listed, 500).await;
        fake.says().retries.extend((0..30).map(|_| Some(status())));
        let ran = retry_all(&fake).await;
        let expected = json!({ "act": "retry", "matched": 6, "done": 0, "nothing_due": 0, "sent": 0,
            "not_sent": 0, "failed": failed, "unreadable": 0, "left": 6 - failed, "dry_run": false });
        assert_eq!(ran.check(1).json(), expected);
        ran.complains(&["error: "]);
        assert_eq!(fake.says().retried.len(), calls);
    }
}

#[tokio::test]
async fn the_oldest_is_looked_for_on_all_pages_and_a_bound_is_told() {
    let with_old = |number: u64| {
        let young = (1..number).map(|of| committing(&format!("t{of}"), 60));
        young.chain([committing("old", 7_200)]).collect()
    };
    let fake = Fake::start(with_old(40), 2).await;
    let seen = top(&fake.endpoint, &["--once", "--json"]).await.check(0).json();
    assert!(seen["oldest_owed_seconds"].as_u64().unwrap() >= 7_200, "{seen}");
    assert_eq!((&seen["oldest_undecided_seconds"], &seen["at_least"]), (&Value::Null, &json!([])));
    // Behind the last page that is read.
    fake.says().listed = with_old(41);
    let seen = top(&fake.endpoint, &["--once", "--json"]).await.check(0).json();
    assert_eq!(seen["at_least"], json!(["oldest_owed_seconds"]), "{seen}");
    top(&fake.endpoint, &["--once"]).await.check(0).says(&["aborting, the oldest for at least "]);
}

/// Ages and rates are those of the coordinator's clock, which may be another one than that of the terminal.
#[tokio::test]
async fn ages_go_by_the_coordinators_clock_and_participants_are_read_to_the_end() {
    let hour = 3_600;
    let fake = Fake::start(vec![committing("old", hour)], 2).await;
    // A minute and a half after that one, and long before what this machine takes for now.
    let at = committing("", hour - 90).created_at;
    let took = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    fake.says().statistics = v1::GetStatisticsResponse {
        answered_at: at,
        in_flight_count: 7,
        in_doubt_count: 2,
        in_doubt_for: took(75),
        recent: Some(v1::StatisticsSpan::default()),
        window: Some(v1::StatisticsSpan { decision_p99: took(90), ..Default::default() }),
        ..Default::default()
    };
    let named = |n: usize| v1::Participant { name: format!("p{n}"), ..Default::default() };
    fake.says().participants = (0..5).map(named).collect();
    let seen = top(&fake.endpoint, &["--once", "--json"]).await.check(0).json();
    assert_eq!(seen["oldest_owed_seconds"], 90, "{seen}");
    assert_eq!((&seen["in_flight"], &seen["oldest_in_doubt_seconds"]), (&json!(7), &json!(75)));
    assert_eq!(seen["participants"].as_array().unwrap().len(), 5, "{seen}");
    assert_eq!(seen["at_least"], json!([]), "{seen}");
    let seen = top(&fake.endpoint, &["--once"]).await;
    seen.check(0).says(&[
        "the oldest for 1m 30s",
        "in doubt, the oldest for 1m 15s",
        "p99 1.5 min",
    ]);
    // More pages than are read.
    fake.says().participants = (0..50).map(named).collect();
    let seen = top(&fake.endpoint, &["--once", "--json"]).await.check(0).json();
    assert_eq!(seen["at_least"], json!(["participants"]), "{seen}");
    assert_eq!(seen["participants"].as_array().unwrap().len(), 40, "{seen}");
    top(&fake.endpoint, &["--once"]).await.check(0).says(&["and 32+ more: "]);
}

#[tokio::test]
async fn what_begins_is_followed_by_the_coordinators_clock_and_through_errors() {
    // An hour behind the clock of the command.
    let hour = 3_600;
    let fake = Fake::start(vec![committing("old", hour)], 500).await;
    let follow = ["tx", "list", "--follow", "--endpoint", &fake.endpoint];
    let mut follow = Program::start(command(&follow));
    follow.until_err("from now on").await;
    fake.says().listed.insert(0, committing("new", hour - 60));
    until("the new one", async || follow.out().contains("  new").then_some(())).await;
    fake.says().list_errors.push_back(Status::unavailable("it is away"));
    follow.until_err("asked again").await;
    // The clock of the process that began it is behind.
    fake.says().listed.push(committing("late", hour + 20));
    until("the late one", async || follow.out().contains("  late").then_some(())).await;
    assert_eq!(follow.out().lines().count(), 2, "{}", follow.out());
    let last = error(Code::PermissionDenied, "PERMISSION_DENIED", false);
    fake.says().list_errors.push_back(last);
    follow.end().await.check(1).complains(&["reason: PERMISSION_DENIED"]);
    for option in ["--attention", "--state=active"] {
        let ran = run(&["tx", "list", "--follow", option]).await;
        ran.check(2).complains(&["cannot be used with", option.split('=').next().unwrap()]);
    }
}

#[tokio::test]
async fn no_page_is_read_behind_what_is_known() {
    let fake = Fake::start(vec![committing("b", 60), committing("a", 60)], 1).await;
    let follow = ["tx", "list", "--follow", "--endpoint", &fake.endpoint];
    let mut follow = Program::start(command(&follow));
    follow.until_err("from now on").await;
    fake.says().listed.insert(0, committing("c", 50));
    until("the new one", async || follow.out().contains("  c").then_some(())).await;
    let looks = fake.says().lists.len();
    until("one more look", async || (fake.says().lists.len() > looks).then_some(())).await;
    assert_eq!(follow.out().lines().count(), 1, "{}", follow.out());
    let says = fake.says();
    assert!(says.lists.iter().all(|list| list.page_token != "2"), "{:?}", says.lists);
    drop(says);
    follow.process.kill();
}

/// Runs the program in a terminal of its own, whose keys are what is written to its standard input.
fn in_terminal(args: &[&str]) -> Program {
    let mut command = Command::new("python3");
    let spawn = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let program = env!("CARGO_BIN_EXE_unanimo-under-test");
    command.args(["-c", spawn, program]).args(args).env("TERM", "xterm").stdin(Stdio::piped());
    let out = new_path(".out");
    let stdout = std::fs::File::create(&out).unwrap();
    Program::start_with(&mut command, stdout.into(), out)
}

/// In a terminal of 80 columns a long gid goes on below, whole.
#[tokio::test]
async fn what_is_followed_fits_the_terminal() {
    let gid: String = (0..128).map(|n| char::from(b'a' + n % 26)).collect();
    let fake = Fake::start(vec![committing("old", 60)], 500).await;
    let mut terminal = in_terminal(&["tx", "list", "--follow", "--endpoint", &fake.endpoint]);
    until("its begin", async || terminal.out().contains("from now on").then_some(())).await;
    fake.says().listed.insert(0, committing(&gid, 50));
    fake.says().listed.insert(0, committing("short", 50));
    until("both", async || terminal.out().contains("  short").then_some(())).await;
    terminal.process.kill();
    let out = terminal.out();
    let lines: Vec<&str> = out.lines().skip_while(|line| !line.contains("from now on")).collect();
    assert!(lines.len() > 4, "{lines:?}");
    assert!(lines.iter().all(|line| line.trim_end().chars().count() <= 80), "{lines:?}");
    let letters: String = out.chars().filter(|c| !c.is_whitespace()).collect();
    assert!(letters.contains(&gid), "{out}");
}

/// The time of `--timeout` is over when the command ends, and not a moment before.
#[tokio::test]
async fn events_are_followed_for_the_whole_time() {
    let served = Served::start(&[]).await;
    served.submit("g", &["ok"], &["--wait", "ended"]).await.check(0);
    for time in [Duration::from_millis(700), Duration::from_millis(2_300)] {
        let timeout = format!("--timeout={}ms", time.as_millis());
        let args = ["events", "--from=0", "--json", &timeout, "--endpoint", &served.endpoint];
        let began = Instant::now();
        let ran = run(&args).await;
        let took = began.elapsed();
        ran.check(0).says(&["\"gid\":\"g\""]);
        assert!(took >= time, "{took:?} of {time:?}");
    }
    // A coordinator that goes away meanwhile is told.
    let args = ["events", "--timeout=50s", "--endpoint", &served.endpoint];
    let mut events = Program::start(command(&args));
    events.until_err("from revision").await;
    served.stop().await.check(0);
    events.end().await.check(1).complains(&["error: "]);
    let short = Fake::start(Vec::new(), 500).await;
    let ran = run(&["events", "--timeout=50s", "--endpoint", &short.endpoint]).await;
    ran.check(1).complains(&["error: the coordinator ended the stream of events", "--from"]);
}

/// A coordinator that accepts a call and does not answer holds nobody up.
#[tokio::test]
async fn a_key_ends_top_while_an_answer_is_waited_for() {
    let fake = Fake::start(Vec::new(), 500).await;
    let mut terminal = in_terminal(&["top", "--timeout=1h", "--endpoint", &fake.endpoint]);
    until("the screen", async || terminal.out().contains("nothing needs").then_some(())).await;
    let looks = fake.says().lists.len();
    fake.says().is_silent = true;
    until("a look", async || (fake.says().lists.len() > looks).then_some(())).await;
    let mut keys = terminal.process.child().stdin.take().unwrap();
    keys.write_all(b"q").unwrap();
    terminal.end().await.check(0);
}

/// Commands and options that the page names are in the program.
#[tokio::test]
async fn commands_of_the_page_about_production_are_there() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/production.md");
    let page = std::fs::read_to_string(page).unwrap();
    let spans = page.split('`').skip(1).step_by(2);
    let lines = page.lines().map(str::trim);
    let all = spans.chain(lines).filter_map(|text| text.strip_prefix("unanimo "));
    let mut checked = 0;
    for text in all {
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_name = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase());
        let options = |word: &&&str| word.starts_with("--");
        let path: Vec<&str> = words.iter().take_while(is_name).copied().collect();
        // A positional word in small letters is not a command.
        let help = [&path[..path.len().min(2)], &["--help"]].concat();
        let ran = Program::start(command(&help)).end().await;
        ran.check(0);
        for option in words.iter().filter(options) {
            let option = option.split('=').next().unwrap();
            assert!(ran.out.contains(option), "{text}: there is no {option}");
        }
        checked += 1;
    }
    assert!(checked >= 10, "{checked} commands in {page}");
}
