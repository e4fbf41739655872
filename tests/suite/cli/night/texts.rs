//! Texts: of mistakes, of tables, of the help.

use std::time::Instant;

use rustix::process::Signal;
use tokio::net::TcpListener;
use unanimo_tests::postgres::Server;

use super::{Program, Served, addresses, file, run};
use crate::cli::{command, new_path, tcc};

/// D5: what is no object is told so, and not by the names of this program's types.
#[tokio::test]
async fn a_file_of_another_shape_is_told() {
    for (text, says) in [
        ("[]", "must be an object; `unanimo tx submit --help` describes it"),
        (r#"["a", "tcc", null, {}, []]"#, "must be an object"),
        (r#"{"gid": "g", "mode": "tcc", "branches": [["a"]]}"#, "branches[0]: must be an object"),
        (r#"{"gid": "g", "mode": "tcc", "branches": ["a"]}"#, "branches[0]: must be an object"),
        (r#"{"gid":"#, "EOF while parsing a value at line 1"),
        (r#"{"gid": "g", "branches": [{"branch_id": "#, "EOF while parsing a value at line 1"),
        ("", "the file is empty; `unanimo tx submit --help` describes it"),
    ] {
        let path = file(text);
        let ran = run(&["tx", "submit", &path]).await;
        ran.check(2).complains(&[&format!("error: failed to understand {path}: "), says]);
        for bad in ["struct", "elements", "?:"] {
            assert!(!ran.err.contains(bad), "{bad:?} in {}", ran.err);
        }
    }
}

/// D5: a retry that sends nothing says so; a name that is not known is in its error; a page that is full
/// has no next one if there is nothing more.
#[tokio::test]
async fn commands_say_what_they_did_not_do() {
    let served = Served::start(&[]).await;
    served.submit("g", &["ok"], &["--wait", "ended"]).await.check(0);
    let ran = served.tx(&["retry", "g"]).await;
    ran.check(0).complains(&["nothing was sent: the transaction has ended"]);
    served.p.hold(true);
    served.submit("h", &["ok", "commit-hang"], &[]).await.check(0);
    let ran = served.tx(&["retry", "h"]).await;
    assert_eq!(ran.check(0).err, "", "its Commits are due");
    for (command, name) in [("show", "nothing"), ("watch", "nothing"), ("retry", "nothing")] {
        served
            .tx(&[command, name])
            .await
            .check(1)
            .complains(&["error: nothing: no transaction has"]);
    }
    let never = "01a0c2d4-0000-7000-8000-000000000000";
    served.tx(&["show", never]).await.check(1).complains(&[&format!("error: {never}: ")]);

    let list = async |limit: &str| served.tx(&["list", "--limit", limit]).await;
    assert_eq!(list("2").await.check(0).err, "", "there are no more");
    assert!(list("1").await.check(0).err.contains("there are more"));
    let page = served.tx(&["list", "--limit", "2", "--json"]).await.json();
    assert_eq!(page["next_page_token"], serde_json::Value::Null);
    served.p.hold(false);
    served.stop().await.check(0);
}

/// D5: what people read in a terminal has at most 80 columns.
#[tokio::test]
async fn tables_fit_eighty_columns() {
    let served =
        Served::start(&["--participant=a-participant-with-a-name=http://127.0.0.1:1"]).await;
    let gid = "01a2169b-93da-710f-b1cf-1be7d14ac65b-and-more-of-a-long-gid";
    served.submit(gid, &["commit-fail-3", "refuse", "fail-2"], &[]).await.check(4);
    served.submit("heuristic", &["commit-heuristic"], &["--wait", "ended"]).await.check(6);
    let narrow = async |args: &[&str]| {
        let mut narrow = command(&[args, &["--endpoint", &served.endpoint]].concat());
        narrow.env("COLUMNS", "80");
        Program::start(narrow).end().await
    };
    let name = "a-participant-with-a-name";
    let watched = narrow(&["tx", "watch", "heuristic"]).await;
    watched.check(6).says(&["an administrator"]);
    assert!(watched.out.lines().all(|line| line.chars().count() <= 80), "{}", watched.out);
    let output = file(&tcc("output", &["output-1000", "typed"]));
    let mut all = vec![
        narrow(&["tx", "list"]).await,
        narrow(&["tx", "show", "--gid", gid]).await,
        narrow(&["tx", "show", "heuristic"]).await,
        narrow(&["tx", "counts"]).await,
        narrow(&["tx", "server"]).await,
        narrow(&["tx", "submit", &output]).await,
        narrow(&["participant", "list"]).await,
        narrow(&["participant", "show", name]).await,
        narrow(&["participant", "show", "p"]).await,
        narrow(&["top", "--once"]).await,
    ];
    for ran in &mut all {
        ran.check(0);
        // A command that is to be copied is whole.
        for line in ran.out.lines().filter(|line| !line.trim().starts_with("unanimo tx ")) {
            assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        }
    }
    // What a person copies stays whole, and a terminal that is wider is used.
    let mut wide = served.tx_command(&["list"]);
    wide.env("COLUMNS", "200");
    assert!(Program::start(wide).end().await.check(0).out.contains(&format!(" {gid} ")));
    served.tx(&["list", "--wide"]).await.check(0).says(&["TX_ID", gid]);
    // A program that reads them finds a line for each.
    served.tx(&["list"]).await.check(0).says(&[&format!(" {gid} ")]);
    let wide = narrow(&["participant", "list", "--wide"]).await;
    let piped = run(&["participant", "list", "--endpoint", &served.endpoint]).await;
    for ran in [wide, piped] {
        ran.check(0).says(&["a-participant-with-a-name  1 configured  closed "]);
    }
    let shown = run(&["participant", "show", name, "--endpoint", &served.endpoint]).await;
    shown.check(0).says(&[name, "http://127.0.0.1:1  configured"]);
    served.stop().await.check(0);
}

/// D5: a port that serves something else is told at once.
#[tokio::test]
async fn a_check_at_the_wrong_port_ends_at_once() {
    let served = Served::start(&[]).await;
    let mut program = served.program;
    let (grpc, admin) = addresses(&mut program).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", silent.local_addr().unwrap());
    let closing = tokio::spawn(async move {
        // A server of another kind: it says something and hangs up.
        while let Ok((mut stream, _)) = silent.accept().await {
            let said = tokio::io::AsyncWriteExt::write_all(&mut stream, b"SSH-2.0-x\r\n").await;
            drop(said);
        }
    });
    for endpoint in [grpc, admin, address] {
        let started = Instant::now();
        let check = ["participant", "check", "--participant", "p", "--action", "ok"];
        let ran = run(&[&check[..], &["--endpoint", &endpoint]].concat()).await;
        ran.check(1);
        assert!(started.elapsed().as_secs() < 10, "{endpoint}: {:?}", started.elapsed());
        assert!(ran.err.contains("serves no participant"), "{endpoint}: {}", ran.err);
        ran.complains(&["hint: --endpoint is the address of the participant's gRPC service"]);
    }
    closing.abort();
    program.process.signal(Signal::TERM);
    program.end().await.check(0);
}

/// D5: an address to listen on may be a name, as a flag, a variable and in the file.
#[tokio::test]
async fn an_address_to_listen_on_may_name_its_host() {
    let config = new_path(".toml");
    let database = format!("sqlite:{}", new_path(".db").display());
    std::fs::write(&config, "listen = \"localhost:0\"\n").unwrap();
    let mut serve =
        command(&["serve", "--admin-listen", "localhost:0", "--database-url", &database]);
    serve.args(["--config", config.to_str().unwrap()]);
    let mut program = Program::start(serve);
    let (grpc, admin) = addresses(&mut program).await;
    assert!(grpc.starts_with("http://127.0.0.1:") && admin.starts_with("http://127.0.0.1:"));
    program.process.signal(Signal::TERM);
    program.end().await.check(0);
    for (address, says) in [
        ("no-such-host.invalid:1", "cannot be resolved: "),
        ("localhost", "write HOST:PORT"),
        ("7610", "write HOST:PORT"),
    ] {
        let ran = run(&["serve", "--listen", address, "--database-url", &database]).await;
        ran.check(2).complains(&["--listen", address, says]);
    }
    let mut serve = command(&["serve", "--database-url", &database]);
    serve.env("UNANIMO_LISTEN", "localhost");
    Program::start(serve).end().await.check(2).complains(&["write HOST:PORT"]);
}

/// D5: the demo on a server without prepared transactions says what to do, and leaves nothing behind.
#[tokio::test]
async fn the_demo_says_that_prepared_transactions_are_missing() {
    let server = Server::start_with("max_prepared_transactions = 0\n");
    let url = server.database().await;
    let ran = run(&["demo", "--postgres", &url]).await;
    ran.check(1).complains(&[
        "error: failed to use two-phase commit on this server: it allows no prepared transactions; set \
         max_prepared_transactions to 10 or more",
    ]);
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_database WHERE datname LIKE 'unanimo_demo%'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(left, 0);
    let ran = run(&["demo", "--postgres", "postgres://nobody@%2Fnowhere/x"]).await;
    ran.check(1).complains(&["error: failed to use a bank's database: ", "No such file"]);
}

/// D5: every exit code that a command has is in its help.
#[tokio::test]
async fn exit_codes_are_documented() {
    let help = run(&["--help"]).await;
    let codes = [
        "  0  success",
        "  1  failure",
        "  2  wrong usage",
        "  3  `serve`",
        "  4  `tx",
        "  5  `tx",
    ];
    help.check(0).says(&codes);
    for command in [
        &["serve"][..],
        &["tx", "submit"],
        &["tx", "watch"],
        &["tx", "forget"],
        &["tx", "retry"],
        &["saga", "run"],
        &["saga", "check"],
        &["replay"],
        &["participant", "check"],
        &["participant", "list"],
        &["demo"],
    ] {
        let ran = run(&[command, &["--help"]].concat()).await;
        let said = ran.check(0).out.to_lowercase();
        assert!(said.contains("exit code"), "{command:?}: {said}");
    }
}
