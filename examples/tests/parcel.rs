//! The step of a saga of the tutorial, run as a reader runs it.
#![expect(clippy::expect_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Process that ends with the test.
struct Owned(Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the coordinator with free ports, and returns its endpoint. The program of the sagas is one, too.
fn coordinator(folder: &Path) -> (Owned, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    command.args(["--database-url", "sqlite:unanimo.db"]);
    command.current_dir(folder).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a coordinator");
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut endpoints = lines.map_while(Result::ok);
    let endpoint = endpoints.find_map(|line| line.strip_prefix("grpc ").map(str::to_owned));
    (Owned(child), endpoint.expect("an endpoint"))
}

fn run(endpoint: &str, arguments: &[&str]) -> Output {
    run_until("ended", endpoint, arguments)
}

fn run_until(wait: &str, endpoint: &str, arguments: &[&str]) -> Output {
    let definition = Path::new(env!("CARGO_MANIFEST_DIR")).join("parcel.yaml");
    let definition = definition.display().to_string();
    unanimo(endpoint, &[&["saga", "run", &definition], arguments, &["--wait", wait]].concat())
}

fn unanimo(endpoint: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_saga"));
    command.args(arguments).env("UNANIMO_ENDPOINT", endpoint).output().expect("a run")
}

/// Repeats `tx show` until it says this.
fn shows(endpoint: &str, gid: &str, words: &str) -> String {
    let began = Instant::now();
    loop {
        let shown = unanimo(endpoint, &["tx", "show", gid]).stdout;
        let shown = String::from_utf8_lossy(&shown).into_owned();
        if shown.contains(words) {
            return shown;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{words} in\n{shown}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_saga_of_the_tutorial_commits_and_is_undone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_coordinator, endpoint) = coordinator(folder.path());
    let mut post = Command::new(env!("CARGO_BIN_EXE_post"));
    post.current_dir(folder.path()).env("UNANIMO_ENDPOINT", &endpoint).stderr(Stdio::null());
    let _post = Owned(post.spawn().expect("a post office"));
    let began = Instant::now();
    // The post office registers itself in a moment.
    let committed = loop {
        let ran = run(&endpoint, &["--gid", "parcel-1", "--set", "to=Lisbon"]);
        if ran.status.success() || began.elapsed() > Duration::from_secs(30) {
            break ran;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let said = String::from_utf8_lossy(&committed.stdout);
    assert!(committed.status.success() && said.contains("second: 2"), "{committed:?}");
    let undone = run(&endpoint, &["--gid", "parcel-2", "--set", "to=Rome", "--set", "second="]);
    assert_eq!(undone.status.code(), Some(4), "{undone:?}");
    assert!(String::from_utf8_lossy(&undone.stdout).contains("NO_ADDRESS"), "{undone:?}");

    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let file = format!("sqlite:{}", folder.path().join("post.db").display());
    let pool = runtime.block_on(sqlx::SqlitePool::connect(&file)).expect("its database");
    let receivers = || -> Vec<String> {
        let receivers = sqlx::query_scalar("SELECT receiver FROM parcel ORDER BY number");
        runtime.block_on(receivers.fetch_all(&pool)).expect("parcels")
    };
    assert_eq!(receivers(), ["Lisbon", "a neighbour", "sender"]);

    // A parcel that somebody has deleted is not called back: the saga does not end before somebody has mended that.
    let execute = |statement| {
        runtime.block_on(sqlx::raw_sql(statement).execute(&pool)).expect("a statement");
    };
    execute(
        "CREATE TRIGGER gone AFTER INSERT ON parcel WHEN new.receiver = 'Oslo'
         BEGIN DELETE FROM parcel WHERE receiver = 'Oslo'; END",
    );
    let gone = ["--gid", "parcel-3", "--set", "to=Oslo", "--set", "second="];
    let gone = run_until("decided", &endpoint, &gone);
    assert_eq!(gone.status.code(), Some(4), "{gone:?}");
    let shown = shows(&endpoint, "parcel-3", "the parcel is gone");
    assert!(shown.contains("cancelling"), "{shown}");
    // Its number is not given again.
    let next = run(&endpoint, &["--gid", "parcel-4", "--set", "to=Bergen"]);
    assert!(String::from_utf8_lossy(&next.stdout).contains("first: 5"), "{next:?}");
    execute("DROP TRIGGER gone; INSERT INTO parcel VALUES (4, 'Oslo')");
    let _ = unanimo(&endpoint, &["tx", "retry", "parcel-3"]);
    shows(&endpoint, "parcel-3", "cancelled");
    let all = ["Lisbon", "a neighbour", "sender", "sender", "Bergen", "a neighbour"];
    assert_eq!(receivers(), all);
}
