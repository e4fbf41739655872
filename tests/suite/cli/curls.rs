//! Commands of the pages about HTTP, run as they stand, against a coordinator that serves.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Program, Ran, addresses, new_path, serve, sqlite};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the blocks of a page, each with its language.
fn blocks(page: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("docs").join(page)).unwrap();
    let mut parts = text.split("```").skip(1).step_by(2).map(|block| {
        let (language, code) = block.split_once('\n').unwrap();
        (language.to_owned(), code.to_owned())
    });
    let found: Vec<_> = parts.by_ref().collect();
    assert!(!found.is_empty(), "{page} has no blocks");
    found
}

fn commands(page: &str) -> Vec<String> {
    blocks(page).into_iter().filter(|(of, _)| of == "sh").map(|(_, code)| code).collect()
}

/// Runs commands in a folder where `unanimo` is the program under test; what they leave running ends with them.
async fn shell(commands: &str, endpoint: &str) -> Ran {
    let programs = new_path(".bin");
    fs::create_dir(&programs).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_unanimo-under-test"), programs.join("unanimo"))
        .unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut bash = Command::new("bash");
    // Each wait for a server is as long as it takes here.
    let all = format!("trap 'kill $(jobs -p) 2>/dev/null' EXIT\n{commands}");
    bash.args(["-c", &all]).current_dir(root()).stdin(Stdio::null());
    bash.env("PATH", format!("{}:{path}", programs.display()));
    bash.env("UNANIMO_ENDPOINT", endpoint).env("USER", "ann");
    Program::start(bash).end().await
}

#[track_caller]
fn answers(ran: &Ran) -> Vec<Value> {
    let stream = serde_json::Deserializer::from_str(&ran.out).into_iter();
    stream.map_while(Result::ok).collect()
}

#[tokio::test]
async fn the_page_about_http_says_what_its_commands_answer() {
    let mut program = serve(&sqlite(&new_path(".db")), &[]);
    let (grpc, admin) = addresses(&mut program).await;
    let blocks = commands("http.md");
    assert_eq!(blocks.len(), 6, "a block that is not tried: {blocks:#?}");
    let mut told = Vec::new();
    let look = "curl -s http://127.0.0.1:7611/v1/transactions/transfer-42";
    for block in &blocks {
        assert!(!block.contains("curl") || block.contains("http://127.0.0.1:7611"), "{block}");
        // An answer to a rollback does not tell the state.
        let more = if block.contains(":rollback") { look } else { "" };
        let all = format!("{block}\n{more}").replace("http://127.0.0.1:7611", &admin);
        told.push(shell(&all, &grpc).await);
    }
    let [server, registered, submitted, looked, rolled_back, ended] = &told[..] else {
        unreachable!("six");
    };
    let one = |ran: &Ran| {
        ran.check(0);
        let mut found = answers(ran);
        assert_eq!(found.len(), 1, "{}", ran.out);
        found.remove(0)
    };
    assert_eq!(one(server)["version"], env!("CARGO_PKG_VERSION"), "{}", server.out);
    assert!(one(registered)["keepAliveInterval"].is_string(), "{}", registered.out);
    let submitted = one(submitted);
    assert_eq!(submitted["result"]["outcome"], "OUTCOME_NOT_DECIDED", "{submitted}");
    let tx_id = submitted["result"]["txId"].as_str().unwrap();

    // One transaction and why it waits, those that are not decided, and the changes as they come.
    let found = answers(looked);
    assert_eq!(found.len(), 2, "{}", looked.out);
    let tx = &found[0]["transaction"];
    assert_eq!((&tx["txId"], &tx["gid"]), (&json!(tx_id), &json!("transfer-42")), "{tx}");
    assert!(tx["waiting"]["sentence"].as_str().unwrap().contains("bank-a"), "{tx}");
    assert!(!tx["timeline"].as_array().unwrap().is_empty(), "{tx}");
    let listed = found[1]["transactions"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["txId"], tx_id);
    for part in ["event: state\n", "data: {", tx_id, "id: "] {
        let (_, watched) = looked.out.split_once("event: ").expect(&looked.out);
        assert!(format!("event: {watched}").contains(part), "{part}: {watched}");
    }

    let found = answers(rolled_back);
    assert_eq!(found.len(), 2, "{}", rolled_back.out);
    assert_eq!(found[0]["result"]["outcome"], "OUTCOME_ABORTED", "{found:?}");
    assert_eq!(found[1]["transaction"]["state"], "TRANSACTION_STATE_ABORTING", "{found:?}");
    ended.check(0).says(&["aborted"]);
    let now = shell(&blocks[3].replace("http://127.0.0.1:7611", &admin), &grpc).await;
    let now = &answers(&now)[0]["transaction"];
    assert_eq!(now["state"], "TRANSACTION_STATE_ABORTED", "{now}");
    assert_eq!(now["attention"], Value::Null, "it is forgotten: {now}");
    program.process.kill();
}

/// Makes the commands of the page about participants use a port that is free here, and a folder of their own.
fn here(block: &str, address: &str) -> String {
    let folder = new_path(".tmp");
    fs::create_dir(&folder).unwrap();
    let up = format!("until curl -s http://{address}/stock > /dev/null; do sleep 0.1; done");
    block
        .replace("127.0.0.1:7702", address)
        .replace("/tmp/", &format!("{}/", folder.display()))
        .replace("sleep 1\n", &format!("{up}\n"))
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn the_page_about_participants_says_what_its_commands_answer() {
    let all = blocks("http-participant.md");
    let by_hand = all.iter().position(|(of, code)| of == "sh" && code.contains("curl")).unwrap();
    let expected = &all[by_hand + 1].1;
    let block = &all[by_hand].1;
    assert!(block.contains("127.0.0.1:7702") && block.contains("sleep 1\n"), "{block}");
    let ran = shell(&here(block, &free_address()), "").await;
    let id = |text: &str| {
        let (_, rest) = text.split_once("\"databaseId\":\"")?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let (theirs, ours) = (id(expected).unwrap(), id(&ran.out).expect(&ran.out));
    let expected = expected.replace(&theirs, &ours);
    // The shop itself says where it serves, before all of them.
    assert!(ran.out.ends_with(&expected), "{}\ninstead of\n{expected}", ran.out);

    let check = all.iter().find(|(of, code)| of == "sh" && code.contains("participant check"));
    let check = &check.unwrap().1;
    assert!(check.contains("127.0.0.1:7702") && check.contains("sleep 1\n"), "{check}");
    let ran = shell(&here(check, &free_address()), "").await;
    ran.check(0).says(&[" 0 failed"]);
    assert_eq!(commands("http-participant.md").len(), 2, "a block that is not tried");
}
