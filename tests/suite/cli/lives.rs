//! Start and end of `serve`.

use rustix::process::Signal;
use serde_json::Value;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

use super::{Program, Served, addresses, command, new_path, run, serve, sqlite};

#[tokio::test]
async fn a_signal_stops_it_in_good_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut program = serve(&sqlite(&new_path("/a/new/folder/x.db")), &[]);
        let (grpc, admin) = addresses(&mut program).await;
        for address in [&grpc, &admin] {
            assert!(address.starts_with("http://127.0.0.1:") && !address.ends_with(":0"));
        }
        program.process.signal(signal);
        let ran = program.end().await;
        ran.check(0).complains(&["the coordinator has started", "serves gRPC", "good order"]);
        ran.complains(&["the dashboard is there for browsers", &format!("{admin}/")]);
        assert_eq!(ran.out.lines().count(), 2, "the log is not in the output: {}", ran.out);
        assert!(!ran.err.contains('\u{1b}'), "no colors in a file: {}", ran.err);
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let served = Served::start(&["--drain-timeout", "1h"]).await;
    served.p.hold(true);
    served.submit("g", &["ok"], &[]).await.check(0);
    let Served { mut program, .. } = served;
    program.process.signal(Signal::TERM);
    program.until_err("a second signal").await;
    program.process.signal(Signal::TERM);
    program.end().await.check(1).complains(&["ended at once"]);
}

#[tokio::test]
async fn a_database_file_is_for_one_process() {
    let url = sqlite(&new_path(".db"));
    let mut first = serve(&url, &[]);
    addresses(&mut first).await;
    let second = serve(&url, &[]).end().await;
    second.check(1).complains(&[
        "failed to start: lock ",
        ".db.lock: another process serves this database file",
        "use PostgreSQL for more",
    ]);
    assert_eq!(second.out, "", "it serves nowhere");
    first.process.signal(Signal::TERM);
    first.end().await.check(0);
    let mut third = serve(&url, &[]);
    addresses(&mut third).await;
    third.process.signal(Signal::TERM);
    third.end().await.check(0);
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let mut first = serve(&sqlite(&new_path(".db")), &[]);
    let (grpc, _) = addresses(&mut first).await;
    let taken = grpc.strip_prefix("http://").unwrap();
    let args = ["serve", "--listen", taken, "--database-url", &sqlite(&new_path(".db"))];
    run(&args).await.check(1).complains(&[&format!(
        "failed to start: `listen` {taken}: another process has this port, perhaps another coordinator; name another \
         one with --listen and --admin-listen (then --database-url, too)"
    )]);
}

#[tokio::test]
async fn a_database_that_is_not_there_is_told() {
    let url = "postgres://ann:secret@%2Fnowhere/x";
    let ran = serve(url, &[]).end().await;
    ran.check(1).complains(&["failed to start: "]);
    assert!(!ran.err.contains("secret"), "{}", ran.err);
}

/// Exit code 3: a supervisor must not start the process again, and can tell.
#[tokio::test]
async fn a_fenced_process_says_so_and_ends_with_3() {
    let url = Server::shared().database().await;
    let mut first = serve(&url, &[]);
    addresses(&mut first).await;
    let mut second = serve(&url, &[]);
    addresses(&mut second).await;
    first.end().await.check(3).complains(&[
        "was fenced by its successor: node one was started again; the coordinator stops, and \
         another incarnation adopts its transactions",
    ]);
    second.process.signal(Signal::TERM);
    second.end().await.check(0);
}

#[tokio::test]
async fn an_address_that_others_can_reach_is_warned_of() {
    let url = sqlite(&new_path(".db"));
    let args = ["serve", "--listen", "0.0.0.0:0", "--database-url", &url];
    run(&args).await.check(2).complains(&["listen must be a loopback address", "set insecure"]);
    let http = ["serve", "--http-listen", "0.0.0.0:0", "--database-url", &url];
    let told = ["http-listen must be a loopback address", "set insecure"];
    run(&http).await.check(2).complains(&told);
    let mut all = args.to_vec();
    all.extend(["--admin-listen", "127.0.0.1:0", "--insecure"]);
    let mut program = Program::start(command(&all));
    addresses(&mut program).await;
    program.process.signal(Signal::TERM);
    program.end().await.check(0).complains(&["WARN", "clients need no certificate"]);
}

/// Fields of the alarm are at the top level of the line's object, for programs.
#[tokio::test]
async fn the_log_can_be_json() {
    let served = Served::start(&["--log-format=json", "--stalled-after=50ms"]).await;
    served.p.hold(true);
    let submitted = served.submit("g", &["ok"], &["--json"]).await;
    served.program.until_err("transaction_stalled").await;
    served.p.hold(false);
    let ran = served.stop().await;
    let lines: Vec<Value> =
        ran.check(0).err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let alarm = lines.iter().find(|line| line["alarm"] == "transaction_stalled").unwrap();
    assert_eq!(alarm["level"], "ERROR");
    assert_eq!(alarm["gid"], "g");
    assert_eq!(alarm["branch_id"], "");
    assert_eq!(alarm["tx_id"], submitted.check(0).json()["tx_id"]);
}

/// A participant that holds up many transactions is one alarm, and not one for each of them.
#[tokio::test]
async fn many_stalled_transactions_are_one_alarm() {
    let served = Served::start(&["--log-format=json", "--stalled-after=1s"]).await;
    served.p.hold(true);
    for n in 0..6 {
        served.submit(&format!("g{n}"), &["ok", "ok"], &[]).await.check(0);
    }
    served.program.until_err("transaction_stalled").await;
    let listed = "all to be listed";
    until(listed, async || {
        let listed = served.tx(&["list", "--attention", "--json"]).await;
        (listed.out.matches("\"gid\"").count() == 6).then_some(())
    })
    .await;
    served.p.hold(false);
    // Ends against the decision are no other.
    for n in 0..6 {
        let (gid, wait) = (format!("h{n}"), ["--wait", "ended"]);
        served.submit(&gid, &["commit-heuristic"], &wait).await.check(6);
    }
    let ran = served.stop().await;
    let lines = ran.check(0).err.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<_> = lines.collect();
    for alarm in ["transaction_stalled", "heuristic_outcome"] {
        let alarms: Vec<_> = lines.iter().filter(|line| line["alarm"] == alarm).collect();
        assert_eq!(alarms.len(), 1, "{alarms:?}");
        assert_eq!(alarms[0]["participant"], "p");
    }
}
