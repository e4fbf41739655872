//! The binary as a process: its output and its exit codes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use unanimo_tests::reaper::{Owned, run_folder};
use unanimo_tests::scripted::Scripted;
use unanimo_tests::wait::until;
use uuid::Uuid;

mod as_json;
mod audit;
mod certs;
mod curls;
mod demo;
mod deployed;
mod descriptors;
mod file;
mod generated;
mod guards;
mod histories;
mod lives;
mod many;
mod moves;
mod night;
mod operators;
mod participant;
mod proxied;
mod readers;
mod reference;
mod sagas;
mod secrets;
mod server;
mod settings;
mod shown;
mod standby;
mod steps;
mod submit;
mod tokens;
mod transactions;
mod upgrade;

/// Returns a new path in the run's folder.
fn new_path(suffix: &str) -> PathBuf {
    run_folder().join(format!("{}{suffix}", Uuid::new_v4()))
}

/// Writes a file with this content, and returns its path.
fn file(content: &str) -> String {
    let path = new_path(".json");
    fs::write(&path, content).unwrap();
    path.display().to_string()
}

/// Command of the binary with these arguments and an empty environment.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unanimo-under-test"));
    command.args(args).env_clear().current_dir(run_folder()).stdin(Stdio::null());
    command
}

/// Process whose output goes to files.
struct Program {
    process: Owned,
    out: PathBuf,
    err: PathBuf,
}

/// Exit code and output of a process that has ended.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Program {
    fn start(mut command: Command) -> Self {
        let out = new_path(".out");
        let stdout = File::create(&out).unwrap();
        Self::start_with(&mut command, stdout.into(), out)
    }

    /// Starts a process whose standard output is closed.
    fn start_unread(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Self::start_with(&mut command, writer.into(), "/dev/null".into())
    }

    fn start_with(command: &mut Command, stdout: Stdio, out: PathBuf) -> Self {
        let err = new_path(".err");
        command.stdout(stdout).stderr(File::create(&err).unwrap());
        Self { process: Owned::spawn(command), out, err }
    }

    async fn end(&mut self) -> Ran {
        let status = until("a process to end", async || self.process.child().try_wait().unwrap());
        let code = status.await.code().expect("it was not killed");
        Ran { code, out: self.out(), err: self.err() }
    }

    fn out(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    fn err(&self) -> String {
        fs::read_to_string(&self.err).unwrap()
    }

    async fn until_err(&self, text: &str) {
        let said = async || self.err().contains(text).then_some(());
        until(text, said).await;
    }
}

impl Ran {
    #[track_caller]
    fn check(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// Parses the output, which is one JSON value.
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    #[track_caller]
    fn says(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(self.out.contains(text), "no {text:?} in {}", self.out);
        }
        self
    }

    #[track_caller]
    fn complains(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(self.err.contains(text), "no {text:?} in {}", self.err);
        }
        self
    }
}

async fn run(args: &[&str]) -> Ran {
    Program::start(command(args)).end().await
}

fn sqlite(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// Starts `serve` on free ports, with short pauses.
fn serve(database_url: &str, more: &[&str]) -> Program {
    Program::start(serve_command(database_url, more))
}

fn serve_command(database_url: &str, more: &[&str]) -> Command {
    let quick = "serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --node one --lease 2s \
                 --prepare-backoff 5ms --phase-two-backoff 5ms --phase-two-backoff-max 200ms \
                 --drain-timeout 5s";
    let mut args: Vec<&str> = quick.split_whitespace().collect();
    args.extend(["--database-url", database_url]);
    args.extend(more);
    command(&args)
}

/// Waits for the addresses that a process prints: of gRPC, and of health and metrics.
async fn addresses(program: &mut Program) -> (String, String) {
    until("it to say where it serves", async || {
        let ended = program.process.child().try_wait().unwrap();
        assert!(ended.is_none(), "it ended: {}", program.err());
        let out = program.out();
        let (grpc, admin) = out.strip_suffix('\n')?.split_once('\n')?;
        let grpc = grpc.strip_prefix("grpc ").expect("gRPC first");
        let admin = admin.strip_prefix("admin ").expect("then the other");
        Some((grpc.to_owned(), admin.to_owned()))
    })
    .await
}

/// Process that serves, with one participant, `p`, in the test's process.
struct Served {
    program: Program,
    endpoint: String,
    p: Scripted,
}

impl Served {
    async fn start(more: &[&str]) -> Self {
        let p = Scripted::default();
        let participant = format!("p={}", p.serve().await);
        let mut all = vec!["--participant", participant.as_str()];
        all.extend(more);
        let mut program = serve(&sqlite(&new_path(".db")), &all);
        let (endpoint, _) = addresses(&mut program).await;
        Self { program, endpoint, p }
    }

    fn tx_command(&self, args: &[&str]) -> Command {
        let mut all = vec!["tx", "--endpoint", self.endpoint.as_str()];
        all.extend(args);
        command(&all)
    }

    async fn tx(&self, args: &[&str]) -> Ran {
        Program::start(self.tx_command(args)).end().await
    }

    /// Submits a TCC of branches `a`, `b`, … with these actions.
    async fn submit(&self, gid: &str, actions: &[&str], more: &[&str]) -> Ran {
        let file = file(&tcc(gid, actions));
        let mut args = vec!["submit", file.as_str()];
        args.extend(more);
        self.tx(&args).await
    }

    /// Waits until `tx show --json` meets the condition.
    async fn show_until(&self, gid: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        until(what, async || {
            let shown = self.tx(&["show", gid, "--json"]).await.json();
            done(&shown).then_some(shown)
        })
        .await
    }

    async fn stop(mut self) -> Ran {
        self.program.process.signal(Signal::TERM);
        self.program.end().await
    }
}

fn tcc(gid: &str, actions: &[&str]) -> String {
    let branches: Vec<String> = ["a", "b", "c"]
        .iter()
        .zip(actions)
        .map(|(id, action)| {
            format!(
                r#"{{"branch_id": "{id}", "participant": "p", "action": "{action}",
                     "payload": {{"of": "{id}", "big": 12345678901234567890123}}}}"#
            )
        })
        .collect();
    let branches = branches.join(",");
    format!(r#"{{"gid": "{gid}", "mode": "tcc", "timeout": "20s", "branches": [{branches}]}}"#)
}
