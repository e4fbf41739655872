//! Commands that look at all transactions: `top`, `tx list --follow`, and `tx retry --all`.

use std::path::Path;

use serde_json::{Value, json};

use super::{Program, Served, command, until};

/// Runs `unanimo top` once.
async fn top(served: &Served, args: &[&str]) -> super::Ran {
    let all = [&["top", "--endpoint", &served.endpoint], args].concat();
    Program::start(command(&all)).end().await
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
    let mut gone =
        Program::start(served.tx_command(&["list", "--follow", "--json", "--timeout=3s"]));
    let calm = top(&served, &["--once"]).await;
    calm.check(0).says(&["nothing needs a person", "\np            1 of 1 alive\n"]);

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

    // Without a terminal one look is printed, in lines that fit.
    let ran = top(&served, &[]).await;
    ran.check(0)
        .says(&["owed         3 committing, 0 aborting, the oldest for ", "3 stalled, 0 heur"]);
    ran.says(&["s-1  committing  stalled\n"]);
    assert!(ran.out.lines().all(|line| line.chars().count() <= 80), "{}", ran.out);
    let seen = top(&served, &["--once", "--json"]).await.check(0).json();
    assert_eq!((&seen["stalled"], &seen["counts"]["committing"]), (&json!(3), &json!(3)));
    assert_eq!(seen["attention"].as_array().unwrap().len(), 3);
    assert!(seen["begun_per_second"].as_f64().unwrap() > 0.0, "{seen}");
    assert_eq!(seen["participants"], json!([{ "name": "p", "endpoints": 1, "alive": 1 }]));

    let calls = || ids.iter().map(|id| served.p.calls(id, "a").len()).collect::<Vec<_>>();
    let before = calls();
    let retry = async |more: &[&str]| {
        let args = [&["retry", "--all", "--operator", "ann"], more].concat();
        served.tx(&args).await
    };
    retry(&["--dry-run"]).await.check(0).says(&["3 transactions would be retried\n"]);
    retry(&["--participant", "q"]).await.check(0).says(&["0 transactions: "]);
    assert_eq!(calls(), before);
    let ran = retry(&["--participant", "p", "--attention", "--json"]).await;
    let expected = json!({ "matched": 3, "sent": 3, "not_sent": 0, "failed": 0, "dry_run": false });
    assert_eq!(ran.check(0).json(), expected);
    let is_more = async || calls().iter().zip(&before).all(|(now, was)| now > was).then_some(());
    until("a call of each", is_more).await;
    served.tx(&["retry"]).await.check(2).complains(&["required arguments", "<TX>"]);
    for option in ["--dry-run", "--attention", "--participant=p", "--gid-prefix=s", "--pace=1"] {
        let ran = served.tx(&["retry", "s-1", option]).await;
        ran.check(2).complains(&["cannot be used with", option.split('=').next().unwrap()]);
    }
    let shown = served.tx(&["show", "s-2", "--json"]).await.check(0).json();
    let events = shown["timeline"].as_array().unwrap();
    let by: Vec<&Value> = events.iter().filter(|event| event["event"] == "retried").collect();
    assert_eq!(by.len(), 1, "{events:?}");
    let lines = gone.end().await.check(0).out.clone();
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{lines}");
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
