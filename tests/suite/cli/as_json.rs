//! `--json`: standard output is JSON and nothing else, of every command, whatever happens.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;
use unanimo_tests::scripted::Scripted;

use super::sagas::trip;
use super::{Program, Ran, Served, command, file, new_path, run, sqlite, tcc, until};
use crate::coordinator::webhooks::unreachable;

/// Commands without `--json`, with what they print instead.
const WITHOUT: [(&str, &str); 5] = [
    ("completions", "a script for a shell"),
    ("demo", "a story for a reader"),
    ("man", "the folder with the pages of the manual"),
    ("saga schema", "JSON, always"),
    ("serve", "its log, which is JSON with --log-format json"),
];

/// Form of the output.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// One value in one line.
    Value,
    /// A value in each line.
    Lines,
}

/// Way in which an error is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    /// A line `error: …` on standard error, and nothing on standard output.
    Error,
    /// The same, from a coordinator that refuses: with `  reason: …`.
    Reason,
    /// Part of the JSON, for the command is about several.
    InJson,
}

/// Names of the commands below this one, as its help lists them.
async fn below(path: &[String]) -> Vec<String> {
    let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
    args.push("-h");
    let help = run(&args).await.check(0).out.clone();
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != "help").map(str::to_owned).collect()
}

/// Every command that has none below it, by the program's own help.
async fn commands() -> BTreeSet<String> {
    let (mut open, mut found) = (vec![Vec::new()], BTreeSet::new());
    while let Some(path) = open.pop() {
        let names = below(&path).await;
        if names.is_empty() {
            found.insert(path.join(" "));
        }
        open.extend(names.into_iter().map(|name| [&path[..], &[name]].concat()));
    }
    found
}

/// Checks that every line of a text is JSON.
#[track_caller]
fn check_json(text: &str, form: Form, what: &str) {
    let bad = text.lines().find(|line| serde_json::from_str::<Value>(line).is_err());
    assert_eq!(bad, None, "{what}: {text}");
    match form {
        Form::Value => assert_eq!(text.lines().count(), 1, "{what}: {text}"),
        Form::Lines => assert!(text.lines().count() > 0, "{what}: no line"),
    }
}

/// Row of the table: a command with its arguments, the form of its output, and its exit codes.
type Row<'a> = (&'a str, Vec<&'a str>, Form, &'a [i32]);

async fn with_json(endpoint: &str, command: &str, args: &[&str]) -> Ran {
    let mut all: Vec<&str> = command.split(' ').collect();
    all.extend(args);
    all.push("--json");
    let is_local = ["config", "certs", "token", "saga check", "participant check"];
    if !is_local.iter().any(|local| command.starts_with(local)) && !args.contains(&"--endpoint") {
        all.extend(["--endpoint", endpoint]);
    }
    run(&all).await
}

#[tokio::test]
async fn every_command_prints_json_and_nothing_else() {
    let webhooks = unreachable().display().to_string();
    let served = Served::start(&[
        "--history=all",
        "--webhooks",
        &webhooks,
        "--stalled-after=50ms",
        "--call-timeout=200ms",
        "--phase-two-backoff=1h",
        "--phase-two-backoff-max=1h",
    ])
    .await;
    // It breaks guarantees, and is checked quickly.
    let participant = Scripted::default().serve().await;
    served.submit("good", &["ok", "ok"], &["--wait", "ended"]).await.check(0);
    served.submit("mixed", &["commit-heuristic"], &["--wait", "ended"]).await;
    served.submit("stuck", &["commit-hang"], &[]).await;
    for gid in ["mixed", "stuck"] {
        let needs = |shown: &Value| shown["attention"] == true;
        served.show_until(gid, "its alarm", needs).await;
    }
    let definition = file(&tcc("new", &["ok"]));
    let history = new_path(".json").display().to_string();
    served.tx(&["export", "good", "-o", &history]).await.check(0);
    let trip = trip("ok");
    let (database, folder) = (sqlite(&new_path(".db")), new_path("").display().to_string());
    let (folder, database) = (folder.as_str(), database.as_str());
    let [history, trip, definition] = [&history, &trip, &definition].map(String::as_str);
    let by = ["--operator=ann", "--note=looked"];
    let checked = vec![
        "--endpoint",
        &participant,
        "--participant=p",
        "--action=ok",
        "--payload=1",
        "--timeout=1s",
    ];
    let table: Vec<Row<'_>> = vec![
        ("audit export", vec![], Form::Lines, &[0]),
        ("audit list", vec![], Form::Value, &[0]),
        ("audit verify", vec![], Form::Value, &[0]),
        ("certs dev", vec![folder], Form::Value, &[0]),
        ("config", vec!["--database-url", database], Form::Value, &[0]),
        ("events", vec!["--from=0", "--timeout=1s"], Form::Lines, &[0]),
        ("participant check", checked, Form::Value, &[1]),
        ("participant list", vec![], Form::Value, &[0]),
        ("participant show", vec!["p"], Form::Value, &[0]),
        ("replay", vec![history, history], Form::Lines, &[0]),
        ("replay", vec![history, "--step"], Form::Value, &[0]),
        ("saga check", vec![trip], Form::Value, &[0]),
        ("saga graph", vec![trip], Form::Value, &[0]),
        ("saga run", vec![trip, "--gid=t", "--set=who=ann", "--set=fare=5"], Form::Value, &[0]),
        ("saga graph", vec!["--gid=t"], Form::Value, &[0]),
        ("token coordinator", vec!["--participant=p"], Form::Value, &[0]),
        ("token new", vec!["--name=ann", "--role=viewer"], Form::Value, &[0]),
        ("top", vec!["--once"], Form::Value, &[0]),
        ("tx counts", vec![], Form::Value, &[0]),
        ("tx export", vec!["good"], Form::Value, &[0]),
        ("tx list", vec![], Form::Value, &[0]),
        ("tx list", vec!["--gid-prefix=none"], Form::Value, &[0]),
        ("tx list", vec!["--follow", "--since=1h", "--timeout=2s"], Form::Lines, &[0]),
        ("tx retry", [&["--all", "--dry-run"], &by[..]].concat(), Form::Value, &[0]),
        ("tx retry", [&["--all"], &by[..]].concat(), Form::Value, &[2]),
        ("tx retry", [&["stuck"], &by[..]].concat(), Form::Value, &[0]),
        (
            "tx resolve",
            [&["stuck", "--branch=a", "--as=committed"], &by[..]].concat(),
            Form::Value,
            &[0],
        ),
        ("tx forget", [&["mixed", "--released"], &by[..]].concat(), Form::Value, &[0]),
        ("tx rollback", vec!["good"], Form::Value, &[1]),
        ("tx server", vec![], Form::Value, &[0]),
        ("tx show", vec!["good"], Form::Value, &[0]),
        ("tx submit", vec![definition], Form::Value, &[0]),
        ("tx watch", vec!["good"], Form::Lines, &[0]),
        ("webhook dead-letters", vec![], Form::Value, &[0]),
        ("webhook list", vec![], Form::Value, &[0]),
        ("webhook redeliver", vec!["hook", "--all"], Form::Value, &[0]),
        ("webhook test", vec!["hook"], Form::Value, &[1]),
    ];
    let mut seen: BTreeSet<String> = WITHOUT.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (name, args, form, codes) in &table {
        let ran = with_json(&served.endpoint, name, args).await;
        let what = format!("{name} {args:?}, {}: {}", ran.code, ran.err);
        assert!(codes.contains(&ran.code), "{what}\n{}", ran.out);
        check_json(&ran.out, *form, &what);
        seen.insert((*name).to_owned());
    }
    // This one goes on until it is ended.
    let mut viewer = Program::start(command(&["view", "--no-open", "--json", history]));
    until("the address", async || serde_json::from_str::<Value>(&viewer.out()).ok()).await;
    viewer.process.signal(Signal::INT);
    let ran = viewer.end().await;
    check_json(&ran.check(0).out, Form::Value, "view");
    seen.insert("view".to_owned());
    assert_eq!(
        seen,
        commands().await,
        "each command is in this table, or in the list of those without"
    );
}

/// The graph in JSON has each step, and the steps that it waits for.
#[tokio::test]
async fn a_graph_in_json_has_each_step_and_what_it_waits_for() {
    let trip = trip("ok");
    let graph = run(&["saga", "graph", "--json", &trip]).await.check(0).json();
    let step = |id: &str| {
        let steps = graph["steps"].as_array().unwrap();
        steps.iter().find(|step| step["id"] == id).unwrap().clone()
    };
    assert_eq!(graph["title"], "trip");
    assert_eq!(graph["steps"].as_array().unwrap().len(), 4, "{graph}");
    let flight = step("flight");
    assert_eq!((&flight["kind"], &flight["state"]), (&"reserved".into(), &Value::Null));
    assert_eq!((&flight["work"], &flight["after"]), (&"p.output-3".into(), &Value::Array(vec![])));
    assert_eq!(step("pay")["kind"], "pivot");
    let mut after = step("pay")["after"].as_array().unwrap().clone();
    after.sort_by_key(ToString::to_string);
    assert_eq!(after, ["flight", "hotel"]);
    assert_eq!(step("mail")["after"], serde_json::json!(["pay"]));
    assert_eq!(step("mail")["notes"], serde_json::json!(["no compensation"]));
    let both = run(&["saga", "graph", "--json", "--format", "svg", &trip]).await;
    both.check(2).complains(&["cannot be used with"]);
}

/// Errors are told as the help says: on standard error, with their reason, and standard output has no word of them.
#[tokio::test]
async fn errors_of_every_command_stay_out_of_the_json() {
    let served = Served::start(&[]).await;
    let nobody = ["--endpoint", "http://127.0.0.1:1"];
    let at_nobody = |args: &[&'static str]| [&nobody[..], args].concat();
    let nowhere = "/nowhere/file.json";
    let taken = file("");
    let taken = taken.as_str();
    let checked = ["--participant=p", "--action=ok", "--timeout=300ms"];
    let by = ["--operator=ann", "--note=n"];
    let of_operator = |args: &[&'static str]| [args, &by[..]].concat();
    let table: Vec<(&str, Vec<&str>, Told, i32)> = vec![
        ("audit export", at_nobody(&[]), Told::Error, 1),
        ("audit list", at_nobody(&[]), Told::Error, 1),
        ("audit verify", vec![nowhere], Told::Error, 1),
        ("certs dev", vec![taken], Told::Error, 1),
        ("config", vec!["--lease=soon"], Told::Error, 2),
        ("events", vec!["--from=4711"], Told::Reason, 1),
        ("participant check", at_nobody(&checked), Told::Error, 1),
        ("participant list", at_nobody(&[]), Told::Error, 1),
        ("participant show", vec!["none"], Told::Error, 1),
        ("replay", vec![nowhere], Told::Error, 2),
        ("saga check", vec![nowhere], Told::InJson, 1),
        ("saga graph", vec![nowhere], Told::Error, 2),
        ("saga graph", vec!["--gid=none"], Told::Reason, 1),
        ("saga run", vec![nowhere], Told::Error, 2),
        ("token coordinator", vec!["--participant=a b"], Told::Error, 2),
        ("token new", vec!["--name=ann", "--role=participant"], Told::Error, 2),
        ("top", at_nobody(&["--once"]), Told::Error, 1),
        ("tx counts", at_nobody(&[]), Told::Error, 1),
        ("tx export", vec!["none"], Told::Reason, 1),
        ("tx forget", of_operator(&["none", "--released"]), Told::Reason, 1),
        ("tx list", vec!["--page-token=x"], Told::Reason, 2),
        ("tx resolve", of_operator(&["none", "--branch=a", "--as=committed"]), Told::Reason, 1),
        ("tx retry", of_operator(&["none"]), Told::Reason, 1),
        ("tx rollback", at_nobody(&["g"]), Told::Error, 1),
        ("tx server", at_nobody(&[]), Told::Error, 1),
        ("tx show", vec!["none"], Told::Reason, 1),
        ("tx submit", vec![nowhere], Told::Error, 2),
        ("tx watch", vec!["none"], Told::Reason, 1),
        ("view", vec!["--no-open", nowhere], Told::Error, 2),
        ("webhook dead-letters", at_nobody(&[]), Told::Error, 1),
        ("webhook list", at_nobody(&[]), Told::Error, 1),
        ("webhook redeliver", vec!["none", "--all"], Told::Reason, 1),
        ("webhook test", vec!["none"], Told::Reason, 1),
    ];
    let mut seen: BTreeSet<String> = WITHOUT.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut wrong = Vec::new();
    for (name, args, told, code) in &table {
        let ran = with_json(&served.endpoint, name, args).await;
        let has = |start: &str| ran.err.lines().any(|line| line.starts_with(start));
        let is_told = match told {
            Told::Error => ran.out.is_empty() && has("error: "),
            Told::Reason => ran.out.is_empty() && has("error: ") && has("  reason: "),
            Told::InJson => serde_json::from_str::<Value>(&ran.out).is_ok() && ran.err.is_empty(),
        };
        if !is_told || ran.code != *code {
            wrong.push(format!("{name} {args:?}, {}: {}\n{}", ran.code, ran.out, ran.err));
        }
        seen.insert((*name).to_owned());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(seen, commands().await, "each command that can fail has a row");
    let help = run(&["--help"]).await;
    for words in
        ["standard output has JSON alone", "begins with `error: `", "  reason: REASON (CODE)"]
    {
        assert!(help.out.contains(words), "{words}: {}", help.out);
    }
}
