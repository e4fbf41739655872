//! `saga check`, `saga run` and `saga graph`; and sagas in `tx list` and `tx show`.

use std::fs;
use std::path::Path;

use serde_json::json;
use tonic::Status;
use unanimo_tests::guard::{Called, Guard, Way};

use super::{Program, Ran, Served, command, new_path, run};

const TRIP: &str = "\
saga: trip
input: {who: string, fare: integer}
timeout: 20s
steps:
  flight: {participant: p, action: output-3, mode: tcc, payload: {for: \"${input.who}\"}}
  hotel: {participant: p, action: ok}
  pay: {participant: p, action: PAY, after: [flight], pivot: true, payload: \"${input.fare}\", compensation: none}
  mail: {participant: p, action: ok, after: [pay], compensation: none}
";

/// Writes a definition whose pivot is this action, and returns its path.
pub(super) fn trip(pay: &str) -> String {
    let path = new_path(".yaml");
    fs::write(&path, TRIP.replace("PAY", pay)).unwrap();
    path.display().to_string()
}

impl Served {
    async fn saga(&self, args: &[&str]) -> Ran {
        let mut all = vec!["saga"];
        all.extend(args);
        all.extend(["--endpoint", self.endpoint.as_str()]);
        Program::start(command(&all)).end().await
    }
}

#[tokio::test]
async fn a_definition_is_checked_without_a_coordinator() {
    let good = trip("ok");
    let ran = run(&["saga", "check", &good]).await;
    assert_eq!(ran.check(0).out, format!("{good}: trip is good: 4 steps, inputs fare, who\n"));
    assert_eq!(ran.err, "");

    let bad = trip("ok, affter: [x], compensation: kept");
    let ran = run(&["saga", "check", &bad, &good, "nowhere.yaml"]).await;
    ran.check(1).says(&["trip is good"]);
    ran.complains(&[
        " steps.pay.compensation must be unique, it is in line 7 already\n",
        "failed to read nowhere.yaml: No such file",
    ]);
    let bad = trip("ok, affter: [x], locks: ['a b']");
    let ran = run(&["saga", "check", &bad]).await;
    ran.check(1).complains(&[
        &format!("{bad}:7:37: steps.pay.affter is no field of a step; did you mean after?\n"),
        &format!("{bad}:7:58: steps.pay.locks[0] must consist of A-Z"),
    ]);

    let ran = run(&["saga", "check", &good, "--set", "who=ann"]).await;
    ran.check(1).complains(&[&format!("{good}:2:22: input.fare needs a value: --set fare=VALUE")]);
    run(&["saga", "check", &good, "--set", "who=ann", "--set", "fare=7"]).await.check(0);
    run(&["saga", "check"]).await.check(2);
    run(&["saga", "check", &good, "--set", "who"]).await.check(2).complains(&["write NAME=VALUE"]);
}

/// A file without a definition, a directory and a path at which there is nothing: each is told, with what to do, and the
/// others are checked all the same.
#[tokio::test]
async fn a_file_that_holds_no_definition_is_told() {
    let good = trip("ok");
    let (empty, folder) = (new_path(".yaml"), new_path(""));
    fs::write(&empty, "").unwrap();
    fs::create_dir(&folder).unwrap();
    let [empty, folder] = [empty, folder].map(|path| path.display().to_string());
    let ran = run(&["saga", "check", &empty, &folder, "nowhere.yaml", &good]).await;
    ran.check(1).says(&["trip is good"]).complains(&[
        &format!("{empty}:1:1: is empty; a definition has `saga: NAME`, and `steps:`"),
        &format!("failed to read {folder}: Is a directory"),
        ": name the files in it, each by its path\n",
        "failed to read nowhere.yaml: No such file",
        ": a path is looked for from the current directory\n",
    ]);
    let ran = run(&["saga", "check", "--json", &empty, &folder, &good]).await;
    let json = ran.check(1).json();
    assert_eq!(json["files"][0]["mistakes"][0]["line"], 1);
    let rule = json["files"][0]["mistakes"][0]["rule"].as_str().unwrap();
    assert!(rule.starts_with("is empty; a definition has"), "{json}");
    assert!(json["files"][1]["error"].as_str().unwrap().contains("Is a directory"), "{json}");
    let expected = json!({ "file": good, "good": true, "saga": "trip", "steps": 4,
        "inputs": ["fare", "who"], "error": null, "mistakes": [], "warnings": [] });
    assert_eq!(json["files"][2], expected);
    for of in [&["saga", "graph"][..], &["saga", "run", "--gid", "g"]] {
        let ran = run(&[of, &[&*empty]].concat()).await;
        ran.check(2).complains(&["is empty; a definition has `saga: NAME`"]);
    }
}

/// A saga that was only to be accepted is a success once it is.
#[tokio::test]
async fn a_saga_that_is_accepted_is_a_success() {
    let served = Served::start(&[]).await;
    let path = trip("hang");
    let run = ["run", &path, "--gid=g", "--set=who=ann", "--set=fare=7", "--wait=accepted"];
    let ran = served.saga(&run).await;
    ran.check(0).says(&["accepted, and not decided yet\n", "hint: `unanimo tx watch g`"]);
    assert!(!ran.out.contains("same command"), "{}", ran.out);
}

/// A step that has ended otherwise than was decided is no success.
#[tokio::test]
async fn s11_a_deviation_of_a_step_has_an_exit_code_of_its_own() {
    let served = Served::start(&[]).await;
    let path = new_path(".yaml");
    fs::write(&path, TRIP.replace("PAY", "ok").replace("output-3", "commit-heuristic")).unwrap();
    let path = path.display().to_string();
    let run =
        ["run", &path, "--gid", "g", "--set", "who=ann", "--set", "fare=7", "--wait", "ended"];
    let ran = served.saga(&run).await;
    ran.check(6).says(&["committed\n", "heuristic: mixed: an operator has to look at it"]);
}

#[tokio::test]
async fn every_definition_in_the_repository_is_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    let mut open =
        vec![root.join("examples/sagas"), root.join("coordinator/saga/tests/definitions")];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "yaml") {
                found.push(path.display().to_string());
            }
        }
    }
    let mut args = vec!["saga", "check"];
    args.extend(found.iter().map(String::as_str));
    run(&args).await.check(0);
}

#[tokio::test]
async fn a_saga_runs_and_its_outcome_is_the_exit_code() {
    let served = Served::start(&[]).await;
    let good = trip("output-2");
    let with = ["--input", r#"{"who": "ann", "fare": 12345678901234567890123}"#];
    let ran = served
        .saga(&["run", &good, "--gid", "t-1", with[0], with[1], "--wait", "ended", "--graph"])
        .await;
    ran.check(0).says(&[
        "committed\ngid    t-1\n",
        "\nOutputs\nflight: ooo\npay: oo\n",
        "\nt-1: committed\n",
        "●    flight  done",
        "●    mail    done",
        "pivot; after flight, hotel",
    ]);
    let seen = served.p.seen();
    let payload = |id: &str| {
        let call = seen.iter().find(|seen| seen.branch_id == id).expect(id);
        String::from_utf8(call.payload.to_vec()).unwrap()
    };
    assert_eq!(payload("flight"), r#"{"for":"ann"}"#);
    assert_eq!(payload("pay"), "12345678901234567890123");

    // The same gid with the same inputs is the same transaction.
    let ran = served.saga(&["run", &good, "--gid", "t-1", with[0], with[1], "--json"]).await;
    let again = ran.check(0).json();
    assert_eq!((&again["gid"], &again["outcome"]), (&json!("t-1"), &json!("committed")));
    assert_eq!(again["branches"][2]["branch_id"], "pay");
    let ran = served.saga(&["run", &good, "--gid", "t-1", "--set=who=bob", "--set=fare=1"]).await;
    ran.check(1).complains(&["reason: GID_REUSED"]);

    let values = new_path(".json");
    fs::write(&values, r#"{"who": "ann", "fare": 7}"#).unwrap();
    let values = format!("@{}", values.display());
    let refused = trip("refuse");
    let ran = served
        .saga(&["run", &refused, "--gid", "t-2", "--input", &values, "--wait=ended", "--graph"])
        .await;
    ran.check(4).says(&["aborted: branch pay refused", "✗", "NO_MONEY", "cancelled", "not sent"]);
    let slow = trip("hang");
    let ran = served
        .saga(&["run", &slow, "--gid", "t-3", "--input", &values, "--timeout", "500ms"])
        .await;
    ran.check(5).says(&["not decided yet"]);
}

/// The file has steps, and no branches.
#[tokio::test]
async fn a_refusal_names_the_steps_of_the_file() {
    let served = Served::start(&["--keep-alive-interval=1ms"]).await;
    let text = fs::read_to_string(trip("ok")).unwrap();
    let nobody = new_path(".yaml");
    fs::write(&nobody, text.replace("participant: p", "participant: nobody")).unwrap();
    let nobody = nobody.display().to_string();
    let ran = served.saga(&["run", &nobody, "--gid", "t", "--set=who=ann", "--set=fare=1"]).await;
    ran.check(2).complains(&["reason: PARTICIPANT_UNKNOWN", "steps.pay.participant"]);
    assert_eq!(ran.err.matches("steps.pay.participant").count(), 1, "said once: {}", ran.err);
    assert!(!ran.err.contains("branches["), "{}", ran.err);
    served.stop().await.check(0);
}

/// Returns the gid that a command made, as it said.
fn made_gid(err: &str) -> String {
    let line = err.lines().find(|line| line.starts_with("gid ")).expect("the gid is told");
    let (gid, rest) = line["gid ".len()..].split_once(';').unwrap();
    assert_eq!(rest, format!(" to ask for this saga again: the same command with --gid {gid}"));
    gid.to_owned()
}

#[tokio::test]
async fn s9_a_gid_that_was_made_asks_for_the_same_saga_again() {
    let served = Served::start(&[]).await;
    let file = trip("ok");
    let args = ["run", &file, "--set=who=ann", "--set=fare=1", "--wait=ended", "--json"];
    let first = served.saga(&args).await;
    let told = first.check(0).json();
    let gid = made_gid(&first.err);
    assert!(gid.starts_with("trip-"), "{gid}");
    assert_eq!(told["gid"], gid.as_str());
    let again = served.saga(&[&args[..], &["--gid", &gid]].concat()).await;
    assert_eq!(again.check(0).json()["tx_id"], told["tx_id"]);
    assert!(!again.err.contains("to ask for this saga again"), "{}", again.err);
    // Without it, it is another saga.
    let other = served.saga(&args).await;
    assert_ne!(other.check(0).json()["tx_id"], told["tx_id"]);
    assert_ne!(made_gid(&other.err), gid);
    served.stop().await.check(0);

    // It is told before the call.
    let lost = ["saga", "run", &file, "--set=who=ann", "--set=fare=1", "--endpoint"];
    let ran = run(&[&lost[..], &["http://127.0.0.1:1", "--timeout", "1s"]].concat()).await;
    let error = ran.err.find("error:").expect("nobody listens");
    assert!(ran.err.find(&made_gid(&ran.err)).unwrap() < error, "{}", ran.err);
}

/// The outcome is told, and is the exit code, also where the graph cannot be drawn: whoever reads "failed" of a saga
/// that has committed, runs it again under another gid.
#[tokio::test]
async fn a_graph_that_cannot_be_drawn_hides_no_outcome() {
    let served = Served::start(&[]).await;
    let without_get = |called: &Called| match &*called.method {
        "GetTransaction" => Way::Instead(Status::unavailable("the connection broke").into_http()),
        _ => Way::Pass,
    };
    let guard = Guard::before(served.endpoint.clone(), without_get).await;
    let endpoint = guard.address();
    for (pay, code, outcome) in [("ok", 0, "committed\n"), ("refuse", 4, "aborted: ")] {
        let (file, gid) = (trip(pay), format!("g-{code}"));
        let args = ["saga", "run", &file, "--gid", &gid, "--set=who=ann", "--set=fare=1"];
        let args = [&args[..], &["--graph", "--endpoint", endpoint]].concat();
        let ran = run(&args).await;
        ran.check(code).says(&[outcome, &format!("gid    {gid}\n")]);
        ran.complains(&["no graph: ", "the connection broke"]);
    }
    served.stop().await.check(0);
}

#[tokio::test]
async fn a_mistake_is_told_and_nothing_is_sent() {
    let file = trip("ok");
    for (args, complaints) in [
        (&["--gid", "g"][..], &["failed to put the inputs into", "input.fare needs a value"][..]),
        (
            &["--gid", "g", "--input", "{\"who\": 1, \"fare\": 2}"],
            &["--input:1:9: who must be of type string, is 1"],
        ),
        (&["--gid", "g", "--input", "@nowhere"], &["failed to read the inputs from nowhere"]),
        (&["--gid", "g", "--set=who=a", "--set=who=b"], &["--set who is there twice"]),
        (&["--gid", "g", "--set==1"], &["write NAME=VALUE"]),
        (&["--gid", "a b", "--set=who=a", "--set=fare=1"], &["understand --gid: must consist of"]),
        (&["--must-exist", "--set=who=a", "--set=fare=1"], &["--gid"]),
    ] {
        // No coordinator listens at the endpoint.
        let mut all = vec!["saga", "run", &file, "--endpoint", "http://127.0.0.1:1"];
        all.extend(args);
        run(&all).await.check(2).complains(complaints);
    }
    let bad = trip("ok, mode: tcc");
    let ran = run(&["saga", "run", &bad, "--gid", "g"]).await;
    ran.check(2).complains(&[&format!("error: failed to understand {bad}:\n{bad}:7:")]);
}

#[tokio::test]
async fn a_graph_is_drawn_of_a_definition_and_of_a_transaction() {
    let served = Served::start(&[]).await;
    let file = trip("ok");
    let ran = run(&["saga", "graph", &file]).await;
    ran.check(0)
        .says(&["trip\n◇    flight  p.output-3  tcc\n│ ○  hotel   p.ok\n◆─╯  pay     p.ok"]);
    let ran = run(&["saga", "graph", &file, "--format", "mermaid"]).await;
    ran.check(0).says(&["flowchart TD\n", "  s0 --> s2\n"]);
    let picture = new_path(".svg").display().to_string();
    let ran = run(&["saga", "graph", &file, "--format", "svg", "-o", &picture]).await;
    assert_eq!(ran.check(0).out, "");
    assert!(fs::read_to_string(&picture).unwrap().starts_with("<svg xmlns="));
    let ran = run(&["saga", "graph", &file, "-o", "/nowhere/x.svg"]).await;
    ran.check(2).complains(&["failed to write /nowhere/x.svg: No such file"]);
    let ran = run(&["saga", "graph"]).await;
    ran.check(2).complains(&["<FILE|--gid <GID>>"]);

    served
        .saga(&["run", &file, "--gid", "g", "--set=who=a", "--set=fare=1", "--wait=ended"])
        .await
        .check(0);
    served.saga(&["graph", "--gid", "g"]).await.check(0).says(&["g: committed\n", "done"]);
    let ran = served.saga(&["graph", "--gid", "nothing"]).await;
    ran.check(1).complains(&["reason: GID_UNKNOWN"]);
}

/// Who says that a branch is committed which others read gives its output, too, as JSON or from a file.
#[tokio::test]
async fn an_operator_gives_the_output_of_what_is_said_to_be_committed() {
    let served = Served::start(&[]).await;
    let path = new_path(".yaml");
    let text = "saga: a\nsteps:\n  pay: {participant: p, action: hang, pivot: true, compensation: none}\n  \
        ship: {participant: p, action: hang, after: pay, inputs: {it: pay}, compensation: none}\n  \
        mail: {participant: p, action: ok, after: ship, inputs: {it: ship}, compensation: none}\n";
    fs::write(&path, text).unwrap();
    let file = path.display().to_string();
    served.saga(&["run", &file, "--gid", "g", "--wait=accepted"]).await.check(0);
    let is_called = async |id: &str| {
        let seen = || served.p.seen().into_iter().find(|seen| seen.branch_id == id);
        super::until("a call", async || seen()).await
    };
    let tx_id = is_called("pay").await.tx_id;
    let resolve = async |branch: &str, how: &str, more: &[&str]| {
        let word = ["resolve", "g", "--branch", branch, "--as", how];
        served.tx(&[&word[..], &["--operator", "ann", "--note", "by hand"], more].concat()).await
    };
    for (how, more, complaint) in [
        ("committed", &[][..], "error: output must be given: it is read by ship"),
        (
            "rolled-back",
            &["--output", "1"],
            "error: output must be left out where nothing is committed",
        ),
        ("committed", &["--output", "{"], "invalid value '{' for '--output <JSON>'"),
        ("committed", &["--output", "1", "--output-file", "x"], "cannot be used with"),
        ("committed", &["--output-file", "/nowhere"], "failed to read the output from /nowhere"),
    ] {
        resolve("pay", how, more).await.check(2).complains(&[complaint]);
    }
    assert_eq!(served.p.calls(&tx_id, "ship"), [""; 0], "nothing is decided");
    resolve("pay", "committed", &["--output", r#"{"id":7}"#]).await.check(0);
    assert_eq!(&is_called("ship").await.inputs["it"][..], br#"{"id":7}"#);
    let bytes = new_path(".bin");
    fs::write(&bytes, [0xff, 0]).unwrap();
    let bytes = bytes.display().to_string();
    resolve("ship", "committed", &["--output-file", &bytes]).await.check(0);
    assert_eq!(&is_called("mail").await.inputs["it"][..], [0xff, 0]);
    let shown = served.show_until("g", "its end", |shown| shown["state"] == "committed").await;
    assert_eq!(shown["branches"][0]["output"], json!({"id": 7}));
    assert_eq!(shown["branches"][1]["output_base64"], "/wA=");
    let ran = resolve("mail", "committed", &["--output", "1"]).await;
    ran.check(1).complains(&["NOTHING_TO_RESOLVE"]);
}

/// Who ends a step without its output is told of the steps that can never be done for that.
#[tokio::test]
async fn an_operator_is_told_of_steps_that_can_never_be_done() {
    let served = Served::start(&[]).await;
    let path = new_path(".yaml");
    let text = "saga: a\nsteps:\n  pay: {participant: p, action: ok, pivot: true, compensation: none}\n  \
        ship: {participant: p, action: hang, after: pay, compensation: none}\n  \
        mail: {participant: p, action: ok, after: ship, inputs: {it: ship}, compensation: none}\n  \
        bill: {participant: p, action: hang, after: ship, compensation: none}\n";
    fs::write(&path, text).unwrap();
    let file = path.display().to_string();
    served.saga(&["run", &file, "--gid", "g", "--wait=accepted"]).await.check(0);
    served.show_until("g", "the step", |shown| shown["branches"][1]["state"] == "preparing").await;
    let resolve = async |branch: &str, how: &str| {
        let word = ["resolve", "g", "--branch", branch, "--as", how];
        served.tx(&[&word[..], &["--operator", "ann", "--note", "by hand"]].concat()).await
    };
    let never = "warning: mail cannot be done without the output of ship";
    resolve("ship", "hazard").await.check(0).complains(&[never]);
    let ran = resolve("bill", "rolled-back").await;
    ran.check(0);
    assert!(!ran.err.contains("cannot be done"), "nobody reads it: {}", ran.err);
}

#[tokio::test]
async fn children_are_drawn_with_their_steps() {
    let served = Served::start(&[]).await;
    let path = new_path(".yaml");
    let text = "saga: a\nsteps:\n  sub: {child: {mode: tcc, steps: {one: {participant: p, action: ok}}}}\n";
    fs::write(&path, text).unwrap();
    let file = path.display().to_string();
    let ran = served.saga(&["run", &file, "--gid", "g", "--wait=ended", "--graph"]).await;
    ran.check(0).says(&["sub  done  g.sub", "\ng.sub: committed\n", "one  done"]);
    let shown = served.tx(&["show", "g.sub", "--json"]).await.check(0).json();
    assert_eq!(shown["parent"]["branch_id"], "sub");
    let shown = served.tx(&["show", "g", "--json"]).await.check(0).json();
    assert_eq!(shown["branches"][0]["child_gid"], "g.sub");
    fs::write(&path, text.replace("mode: tcc, ", "")).unwrap();
    let ran = served.saga(&["run", &file, "--gid", "s", "--wait=ended", "--graph"]).await;
    ran.check(0).says(&["sub  done  s.sub", "\ns.sub: committed\n"]);
    assert!(!ran.out.contains("tcc"), "it is a saga: {}", ran.out);

    // Another transaction has the gid of the child: it is nobody's child.
    served.submit("h.sub", &["ok"], &[]).await.check(0);
    let ran = served.saga(&["run", &file, "--gid", "h", "--wait=ended", "--graph"]).await;
    ran.check(4).says(&["h: aborted"]);
    assert!(!ran.out.contains("\nh.sub: "), "{}", ran.out);
}

/// With `--wait ended` a transaction that has not ended in time is no success, whatever was decided.
#[tokio::test]
async fn an_outcome_without_its_end_is_told_as_such() {
    let served = Served::start(&[]).await;
    let args = ["--wait", "ended", "--timeout", "1500ms"];
    let ran = served.submit("g", &["commit-hang"], &args).await;
    ran.check(5)
        .says(&["committed, and not every branch has ended\n", "run the same command again"]);
    let ran = served.submit("g", &["commit-hang"], &["--timeout", "1500ms"]).await;
    ran.check(0);
    assert!(!ran.out.contains("has ended"), "nobody waits for that: {}", ran.out);
}

#[tokio::test]
async fn a_saga_is_shown_with_what_its_steps_wait_for() {
    let served = Served::start(&[]).await;
    let file = trip("hang");
    let args = ["run", &file, "--gid", "g", "--set=who=a", "--set=fare=1", "--wait=accepted"];
    served.saga(&args).await.check(0);
    let shown = served
        .show_until("g", "the pivot to be sent", |shown| {
            shown["branches"][2]["state"] == "preparing"
        })
        .await;
    assert_eq!(shown["mode"], "saga");
    assert_eq!(shown["branches"][0]["mode"], "tcc");
    assert_eq!(shown["branches"][2]["pivot"], true);
    assert_eq!(shown["branches"][2]["depends_on"], json!(["flight"]));
    assert_eq!(shown["branches"][3]["state"], "waiting");
    assert_eq!(shown["branches"][3]["compensation"], "none");
    let ran = served.tx(&["show", "g"]).await;
    ran.check(0).says(&["mode       saga", "waits for pay", "pivot"]);

    // A start in the future.
    let path = new_path(".yaml");
    let later = "saga: later\nstart_delay: 2h\nlocks: [{name: \"shelf:1\", mode: shared}]\nsteps: {a: {participant: p, action: ok}}\n";
    fs::write(&path, later).unwrap();
    let file = path.display().to_string();
    served.saga(&["run", &file, "--gid", "later", "--wait=accepted"]).await.check(0);
    let ran = served.tx(&["show", "later"]).await;
    ran.check(0).says(&["scheduled: it waits for its start", "starts     20"]);
    let list = served.tx(&["list", "--state", "scheduled", "--json"]).await.check(0).json();
    assert_eq!(list["transactions"][0]["gid"], "later");
    assert!(list["transactions"][0]["start_at"].is_string());
}
