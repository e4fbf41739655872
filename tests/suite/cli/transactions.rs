//! `tx list`, `tx show` and `tx watch`.

use serde_json::{Value, json};

use super::{Program, Served};

fn gids(page: &Value) -> Vec<&str> {
    let transactions = page["transactions"].as_array().unwrap();
    transactions.iter().map(|listed| listed["gid"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_list_is_filtered_and_goes_on() {
    let served = Served::start(&[]).await;
    let ran = served.tx(&["list"]).await;
    assert_eq!(ran.check(0).out, "");
    ran.complains(&["no transactions"]);
    for (gid, action) in [("a-1", "ok"), ("a-2", "refuse"), ("b-3", "commit-heuristic")] {
        served.submit(gid, &[action], &["--wait", "ended"]).await;
    }
    let ran = served.tx(&["list"]).await;
    ran.check(0).says(&["CREATED", "b-3", "heuristic mixed", "a-1  tcc   committed"]);
    assert_eq!(ran.out.lines().count(), 4);
    served.tx(&["list", "--wide"]).await.check(0).says(&["TX_ID", "BRANCHES"]);

    let list = async |more: &[&str]| {
        let mut args = vec!["list", "--json"];
        args.extend(more);
        served.tx(&args).await.check(0).json()
    };
    assert_eq!(gids(&list(&[]).await), ["b-3", "a-2", "a-1"]);
    assert_eq!(gids(&list(&["--state", "committed,aborted"]).await).len(), 3);
    assert_eq!(gids(&list(&["--state", "aborted", "--state", "active"]).await), ["a-2"]);
    assert_eq!(gids(&list(&["--attention"]).await), ["b-3"]);
    assert_eq!(gids(&list(&["--gid-prefix", "a-"]).await), ["a-2", "a-1"]);
    assert_eq!(gids(&list(&["--participant", "p", "--since", "1h"]).await).len(), 3);
    assert_eq!(gids(&list(&["--participant", "q"]).await).len(), 0);
    assert_eq!(gids(&list(&["--until", "1h"]).await).len(), 0);
    assert_eq!(gids(&list(&["--since", "2001-01-01T00:00:00Z"]).await).len(), 3);

    let first = list(&["--limit", "2"]).await;
    assert_eq!(gids(&first), ["b-3", "a-2"]);
    let token = first["next_page_token"].as_str().unwrap();
    let second = list(&["--limit", "2", "--page-token", token]).await;
    assert_eq!(gids(&second), ["a-1"]);
    assert_eq!(second["next_page_token"], Value::Null);
    let ran = served.tx(&["list", "--limit", "2"]).await;
    ran.check(0).complains(&[&format!("there are more; the next page has --page-token {token}")]);
    served.tx(&["list", "--since", "soon"]).await.check(2).complains(&["write 2026-01-31T12"]);
    let ran = served.tx(&["list", "--page-token", "x"]).await;
    ran.check(2).complains(&["page_token must be the next_page_token"]);
}

#[tokio::test]
async fn a_transaction_is_shown_with_its_branches_and_history() {
    let served = Served::start(&[]).await;
    let actions = ["fail-3", "output-7", "commit-fail-2"];
    served.submit("g", &actions, &["--wait", "ended"]).await.check(0);
    let ran = served.tx(&["show", "g"]).await;
    ran.check(0).says(&[
        "gid        g\nmode       tcc\nstate      committed\ncreated    20",
        "after it began)\n",
        "1  a       p            fail-3         committed  prepared  4+1\n",
        "2  b       p            output-7       committed  prepared  1+1\n",
        "a       prepare error  Unavailable: not now",
        "b       payload        40B\nb       output         7B\n",
        "History\nAT ",
        "begun",
        "prepare    a       4 attempts: ",
        "commit     c       3 attempts: ",
        "decided    -       COMMIT\n",
    ]);
    let shown = served.tx(&["show", "g", "--json"]).await.check(0).json();
    let tx_id = shown["tx_id"].as_str().unwrap();
    assert_eq!(shown["state"], "committed");
    assert_eq!(shown["mode"], "tcc");
    assert_eq!(shown["branch_count"], 3);
    assert_eq!(shown["branches"][1]["output_base64"], "b29vb29vbw==");
    assert_eq!(shown["branches"][0]["prepare"]["count"], 4);
    assert!(shown["branches"][0]["prepare"]["last_error"].as_str().unwrap().contains("not now"));
    assert_eq!(shown["branches"][2]["payload"]["of"], "c");
    assert_eq!(shown["timeline"][0]["event"], "begun");
    assert!(shown["created_at"].as_str().unwrap().ends_with('Z'));

    // By tx_id and by gid; a gid in the form of a tx_id is found, too.
    served.submit("01a0c2d4-0000-7000-8000-000000000000", &["ok"], &[]).await.check(0);
    for args in [vec![tx_id], vec!["--gid", "g"], vec!["01a0c2d4-0000-7000-8000-000000000000"]] {
        let mut all = vec!["show"];
        all.extend(args);
        served.tx(&all).await.check(0);
    }
    let ran = served.tx(&["show", "--gid", tx_id]).await;
    ran.check(1).complains(&["reason: GID_UNKNOWN (NOT_FOUND)"]);
    let ran = served.tx(&["show", "nothing"]).await;
    ran.check(1).complains(&["reason: GID_UNKNOWN (NOT_FOUND)"]);
    served.tx(&["show", "a b"]).await.check(2).complains(&["gid must consist of A-Z"]);
}

#[tokio::test]
async fn a_transaction_is_followed_to_its_end() {
    let served = Served::start(&[]).await;
    served.p.hold(true);
    served.submit("g", &["ok"], &[]).await.check(0);
    let mut human = Program::start(served.tx_command(&["watch", "g"]));
    let mut json = Program::start(served.tx_command(&["watch", "g", "--json"]));
    for program in [&human, &json] {
        super::until("its first lines", async || {
            program.out().contains("committing").then_some(())
        })
        .await;
    }
    let started = std::time::Instant::now();
    let ran = served.tx(&["watch", "g", "--timeout", "1s"]).await;
    ran.check(1).says(&["  branch a  committing\n"]);
    ran.complains(&["error: the transaction has not ended within --timeout"]);
    assert!(started.elapsed() >= std::time::Duration::from_secs(1), "{:?}", started.elapsed());
    served.p.hold(false);
    let ran = human.end().await;
    ran.check(0).says(&[
        "  transaction  committing\n",
        "  branch a  committing\n",
        "  branch a  committed\n",
        "  transaction  committed\n",
    ]);
    let ran = json.end().await;
    let lines: Vec<Value> =
        ran.check(0).out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["state"], json!("committing"));
    assert_eq!(lines.last().unwrap()["branches"][0]["state"], "committed");
    assert_eq!(lines[0].get("timeline"), None);
    // A transaction that has ended is watched, too.
    let ran = served.tx(&["watch", "g"]).await;
    assert_eq!(ran.check(0).out.lines().count(), 2);
}

#[tokio::test]
async fn a_watch_that_is_cut_off_is_no_end() {
    let mut served = Served::start(&[]).await;
    served.p.hold(true);
    served.submit("g", &["ok"], &[]).await.check(0);
    let mut watch = Program::start(served.tx_command(&["watch", "g"]));
    super::until("its first lines", async || watch.out().contains("committing").then_some(()))
        .await;
    served.program.process.kill();
    watch
        .end()
        .await
        .check(1)
        .complains(&["error: failed to get an answer from http://127.0.0.1:"]);
}
