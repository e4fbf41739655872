//! Operator's view while something is wrong: commands, their texts, and the log.

mod log;
mod outage;
mod participant;
mod texts;

use serde_json::Value;
use unanimo_examples::{accounts, tcc};
use unanimo_sdk::{Participant, Postgres, Serve, Serving};
use unanimo_tests::postgres::Server;

use super::{Program, Served, addresses, file, run, serve, sqlite, until};

/// A bank of the examples.
async fn bank(name: &str, account: &str) -> Serving {
    let url = Server::shared().database().await;
    let pool = sqlx::PgPool::connect(&url).await.unwrap();
    accounts::create(&pool, &[(account.to_owned(), 10_000)]).await.unwrap();
    let database = Postgres::connect(&url).await.unwrap();
    let bank: Participant<Postgres> = tcc::bank(name, database);
    bank.serve(Serve::on("127.0.0.1:0")).await.unwrap()
}

/// D1: the example in the help works with the example banks.
#[tokio::test]
async fn the_example_of_the_help_commits_at_the_example_banks() {
    let help = run(&["tx", "submit", "--help"]).await.check(0).out.clone();
    let example = help.split("Example").nth(1).unwrap();
    let example = &example[example.find('{').unwrap()..example.find("\nA transaction").unwrap()];
    let (a, b) = (bank("bank-a", "alice").await, bank("bank-b", "bob").await);
    let participants = [format!("bank-a={}", a.endpoint()), format!("bank-b={}", b.endpoint())];
    let more = ["--participant", &participants[0], "--participant", &participants[1]];
    let served = Served::start(&more).await;
    let ran = served.tx(&["submit", &file(example)]).await;
    ran.check(0).says(&["committed\ngid    order-4711\n"]);
    served.stop().await.check(0);
}

/// D6: a request that is delivered again begins nothing, if it says so.
#[tokio::test]
async fn a_redelivery_may_ask_that_its_transaction_exists() {
    let served = Served::start(&[]).await;
    let ran = served.submit("g", &["ok"], &["--must-exist"]).await;
    ran.check(1).complains(&[
        "no transaction has this gid: it was never seen, or was purged after the gid retention",
        "reason: GID_UNKNOWN (NOT_FOUND)\n  effect: none",
    ]);
    assert_eq!(served.p.seen(), [], "nothing was begun");
    served.submit("g", &["ok"], &[]).await.check(0);
    served.submit("g", &["ok"], &["--must-exist"]).await.check(0).says(&["committed"]);
    let ran = served.submit("g", &["refuse"], &["--must-exist"]).await;
    ran.check(1).complains(&["reason: GID_REUSED"]);
    for command in [["tx", "submit"], ["saga", "run"]] {
        let help = run(&[command[0], command[1], "--help"]).await;
        help.check(0).says(&["gid-retention", "7 days", "--must-exist"]);
    }
    served.stop().await.check(0);
}

/// D7: numbers of transactions by state, and the participants.
#[tokio::test]
async fn transactions_are_counted_and_participants_listed() {
    let served =
        Served::start(&["--participant=q=http://127.0.0.1:1", "--stalled-after=50ms"]).await;
    served.submit("a", &["ok"], &["--wait", "ended"]).await.check(0);
    served.submit("b", &["refuse"], &["--wait", "ended"]).await.check(4);
    served.submit("c", &["commit-heuristic"], &["--wait", "ended"]).await.check(6);
    served.p.hold(true);
    served.submit("d", &["ok"], &[]).await.check(0);
    served.show_until("d", "its alarm", |shown| shown["stalled"] == true).await;
    let counted = served.tx(&["counts", "--json"]).await.check(0).json();
    let counts = &counted["counts"];
    let of = |state: &str| counts[state].as_u64();
    assert_eq!([of("committed"), of("aborted"), of("committing")], [Some(2), Some(1), Some(1)]);
    assert_eq!([of("active"), of("scheduled"), of("in_doubt")], [Some(0); 3]);
    assert_eq!(["stalled", "heuristic", "unreadable"].map(|of| &counted[of]), [1, 1, 0]);
    let ran = served.tx(&["counts"]).await;
    ran.check(0).says(&["STATE ", "committing  1\n", "1 stalled, 1 heuristic, 0 unreadable:\n"]);
    let since = served.tx(&["counts", "--since", "2100-01-01T00:00:00Z", "--json"]).await;
    let since = since.check(0).json();
    assert_eq!([&since["counts"]["committed"], &since["counts"]["committing"]], [0, 1]);

    let list = ["participant", "list", "--endpoint", &served.endpoint];
    let ran = run(&list).await;
    ran.check(0).says(&[
        "PARTICIPANT  PROCESSES     BREAKER  FLIGHT  OWED  PARKED  VERSION\n",
        "p            1 configured  closed   ",
        "q            1 configured  closed   0       0     0       -\n",
    ]);
    let owed = ran.out.lines().find(|line| line.starts_with("p ")).unwrap();
    assert_eq!(owed.split_whitespace().nth(5), Some("1"), "d is owed a Commit: {owed}");
    let listed = run(&[&list[..], &["--json"]].concat()).await.check(0).json();
    let names = |listed: &Value| -> Vec<String> {
        let all = listed["participants"].as_array().unwrap();
        all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&listed), ["p", "q"]);
    assert_eq!(listed["participants"][0]["endpoints"][0]["state"], "configured");
    served.p.hold(false);
    served.stop().await.check(0);
}

/// D7: a participant that registered and went away is shown as gone.
#[tokio::test]
async fn a_participant_that_left_is_listed_as_gone() {
    let served = Served::start(&["--keep-alive-interval=200ms"]).await;
    let url = Server::shared().database().await;
    let database = Postgres::connect(&url).await.unwrap();
    let serve = Serve::on("127.0.0.1:0").register_with(&served.endpoint);
    let serving = tcc::bank("bank-a", database).serve(serve).await.unwrap();
    let list = ["participant", "list", "--json", "--endpoint", &served.endpoint];
    let state = async || {
        let listed = run(&list).await.check(0).json();
        listed["participants"][0]["endpoints"][0]["state"].as_str().map(str::to_owned)
    };
    until("it to be alive", async || (state().await.as_deref() == Some("alive")).then_some(()))
        .await;
    serving.stop().await.unwrap();
    let gone = async || {
        let ran = run(&list[..2].iter().chain(&list[3..]).copied().collect::<Vec<_>>()).await;
        let line = ran.check(0).out.lines().find(|line| line.starts_with("bank-a"))?.to_owned();
        line.contains("gone").then_some(())
    };
    until("it to be gone", gone).await;
    served.stop().await.check(0);
}
