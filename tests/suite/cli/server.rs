//! The coordinator that answers.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use unanimo_tests::wait::until;

use super::{Served, new_path, run};

#[tokio::test]
async fn a_coordinators_features_and_limits_are_printed() {
    let served = Served::start(&["--branches-max=7", "--gid-retention=240h"]).await;
    let ran = served.tx(&["server"]).await;
    ran.check(0).says(&[
        "version   0.",
        "group     ",
        "features  two_phase_commit, tcc, ",
        "branches-max        7\n",
        "timeout-default     1m\n",
    ]);
    let told = served.tx(&["server", "--json"]).await.check(0).json();
    assert_eq!(told["limits"]["branches_max"], 7);
    assert_eq!(told["limits"]["wait_max"], "5m");
    assert!(told["cluster_id"].as_str().is_some_and(|id| !id.is_empty()));
    let features = told["features"].as_array().unwrap();
    assert!(features.iter().any(|feature| feature == "wait_for_accepted"));
    // The lives of the coordinator's process.
    ran.says(&["NODE  INCARNATION  STATE\none   1            this one, with a lease of 2s\n"]);
    let [incarnation] = &told["incarnations"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!([&incarnation["incarnation"], &incarnation["answers"]], [&json!(1), &json!(true)]);
    assert_eq!(
        [&incarnation["fenced_by"], &incarnation["may_write"]],
        [&Value::Null, &json!(true)]
    );
    served.stop().await.check(0);
}

/// A caller that may not see the incarnations is told all else, and does not ask for them: nothing is entered in the audit, and
/// nobody is warned.
#[tokio::test]
async fn who_may_not_see_the_incarnations_is_no_denied_caller() {
    let identities = new_path(".toml").display().to_string();
    let token = async |name: &str, more: &[&str]| {
        let new = ["token", "new", "--name", name, "--file", &identities, "--role"];
        let made = run(&[&new[..], more].concat()).await;
        let path = new_path(".token");
        fs::write(&path, &made.check(0).out).unwrap();
        path.display().to_string()
    };
    let callers = [
        (token("web", &["initiator"]).await, false),
        (token("bank", &["participant", "--participant", "bank"]).await, false),
        (token("ann", &["viewer"]).await, true),
        (token("bob", &["operator"]).await, true),
    ];
    let served = Served::start(&["--identities", &identities]).await;
    for (token, sees) in &callers {
        let ran = served.tx(&["server", "--json", "--token-file", token]).await;
        let told = ran.check(0).json();
        assert_eq!(told["incarnations"].as_array().map(Vec::len), sees.then_some(1), "{told}");
        assert_eq!((told["limits"]["branches_max"].is_u64(), ran.err.as_str()), (true, ""));
    }
    // One that is denied is there.
    let ann = &callers[2].0;
    let by_ann = ["--endpoint", &served.endpoint, "--token-file", ann];
    run(&[&["webhook", "test", "w"], &by_ann[..]].concat()).await.check(1);
    served.program.until_err("a call was denied").await;
    let entered = until("the entry", async || {
        let listed = run(&[&["audit", "list"], &by_ann[..]].concat()).await;
        listed.check(0).out.contains("TestWebhook").then_some(listed.out)
    })
    .await;
    for told in [entered, served.program.err()] {
        assert!(!told.contains("GetStatistics"), "{told}");
    }
}

/// The answer that is there is told, whatever becomes of the question behind it: a caller may have called too often by then.
#[tokio::test]
async fn all_but_the_incarnations_is_told_where_they_are_not() {
    let served = Served::start(&["--address-rate=1"]).await;
    let ran = until("the first call to be let in, and not the second", async || {
        let ran = served.tx(&["server", "--json"]).await;
        if ran.code == 0 && ran.err.is_empty() {
            // They were more than a second apart.
            tokio::time::sleep(Duration::from_secs(2)).await;
            return None;
        }
        Some(ran)
    })
    .await;
    let told = ran.check(0).complains(&["no incarnations: ", "ADDRESS_LIMITED"]).json();
    assert_eq!(told["incarnations"], Value::Null);
    assert!(told["version"].is_string(), "{told}");
}
