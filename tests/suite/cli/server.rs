//! The coordinator that answers.

use serde_json::{Value, json};

use super::Served;

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
