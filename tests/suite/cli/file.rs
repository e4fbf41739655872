//! Processes whose SQLite file is deleted, replaced, moved or full, as an operator sees them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::task::JoinSet;
use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{BranchSpec, Mode, Outcome, SubmitTransactionRequest};
use unanimo_tests::scripted::Scripted;
use unanimo_tests::small_disk::SmallDisk;
use unanimo_tests::wait::until;

use super::standby::{admin, http_get};
use super::{Program, addresses, new_path, serve, serve_command, sqlite};

/// Tasks that submit one transaction after the other.
const CLIENTS: usize = 8;

/// Transaction of which a client was told that it is committed.
struct Told {
    gid: String,
    tx_id: String,
    at: Instant,
}

/// Load on a process, and what its clients were told.
struct Load {
    committed: Arc<Mutex<Vec<Told>>>,
    tasks: JoinSet<()>,
}

impl Load {
    fn start(grpc: &str) -> Self {
        let committed: Arc<Mutex<Vec<_>>> = Arc::default();
        let mut tasks = JoinSet::new();
        for client in 0..CLIENTS {
            let (grpc, committed) = (grpc.to_owned(), Arc::clone(&committed));
            tasks.spawn(async move {
                for n in 0.. {
                    let gid = format!("pay-{client}-{n}");
                    match submit(&grpc, &gid).await {
                        Some((Outcome::Committed, tx_id)) => {
                            let told = Told { gid, tx_id, at: Instant::now() };
                            committed.lock().unwrap().push(told);
                        }
                        _ => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            });
        }
        Self { committed, tasks }
    }

    fn count(&self) -> usize {
        self.committed.lock().unwrap().len()
    }

    async fn until_it_flows(&self) {
        until("some to be committed", async || (self.count() > 50).then_some(())).await;
    }

    async fn stop(mut self) -> Vec<Told> {
        self.tasks.shutdown().await;
        std::mem::take(&mut *self.committed.lock().unwrap())
    }
}

/// Submits a transaction of one branch; its outcome and `tx_id`, if there is an answer.
async fn submit(grpc: &str, gid: &str) -> Option<(Outcome, String)> {
    let mut client = CoordinatorServiceClient::connect(grpc.to_owned()).await.ok()?;
    let branch = BranchSpec {
        branch_id: "a".into(),
        participant: "p".into(),
        action: "ok".into(),
        ..Default::default()
    };
    let request = SubmitTransactionRequest {
        gid: gid.into(),
        mode: Mode::Tcc.into(),
        branches: vec![branch],
        ..Default::default()
    };
    let answer = client.submit_transaction(request).await.ok()?.into_inner();
    let result = answer.result?;
    Some((result.outcome(), result.tx_id))
}

/// Process on a file in a folder of its own, with a participant in the test's process.
struct World {
    folder: PathBuf,
    p: Scripted,
    participant: String,
}

impl World {
    async fn new() -> Self {
        let folder = new_path("");
        fs::create_dir(&folder).unwrap();
        Self::at(folder).await
    }

    async fn at(folder: PathBuf) -> Self {
        let p = Scripted::default();
        let participant = format!("p={}", p.serve().await);
        Self { folder, p, participant }
    }

    fn serve(&self, more: &[&str]) -> Program {
        let url = sqlite(&self.folder.join("x.db"));
        serve(&url, &[&["--participant", &*self.participant], more].concat())
    }

    /// Starts it once more: each is the transaction that it was.
    async fn compare(&self, committed: &[Told]) -> super::Ran {
        let mut again = self.serve(&[]);
        let (grpc, _) = addresses(&mut again).await;
        for Told { gid, tx_id, .. } in committed {
            let found = submit(&grpc, gid).await.expect("an answer");
            assert_eq!(found, (Outcome::Committed, tx_id.clone()), "{gid}");
        }
        again.process.signal(Signal::TERM);
        again.end().await
    }
}

async fn commits(grpc: &str, gid: &str) {
    assert_eq!(submit(grpc, gid).await.map(|(outcome, _)| outcome), Some(Outcome::Committed));
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// S1: the file goes under load. The process ends with 3 and a sentence, soon, and answers nothing meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_a_process_ends_with_3_when_its_file_goes() {
    type Disturb = (fn(&Path), &'static str, fn(&Path));
    let restore_folder: fn(&Path) = |f| {
        let _ = fs::remove_dir_all(f);
        fs::rename(beside(f, ".moved"), f).unwrap();
    };
    let cases: [Disturb; 6] = [
        (|f| fs::remove_file(f.join("x.db")).unwrap(), "is not there any more", |_| {}),
        (
            |f| {
                fs::copy(f.join("x.db"), f.join("copy")).unwrap();
                fs::rename(f.join("copy"), f.join("x.db")).unwrap();
            },
            "another file is there",
            |_| {},
        ),
        (|f| fs::rename(f, beside(f, ".moved")).unwrap(), "not there any more", restore_folder),
        (
            |f| {
                fs::rename(f, beside(f, ".moved")).unwrap();
                fs::create_dir(f).unwrap();
            },
            "not there any more",
            restore_folder,
        ),
        (|f| fs::remove_file(f.join("x.db.lock")).unwrap(), "use the lock file", |_| {}),
        (|f| fs::remove_file(f.join("x.db-wal")).unwrap(), "the write-ahead log", |_| {}),
    ];
    for (number, (disturb, says, restore)) in cases.into_iter().enumerate() {
        let world = World::new().await;
        let mut program = world.serve(&[]);
        let (grpc, _) = addresses(&mut program).await;
        let load = Load::start(&grpc);
        load.until_it_flows().await;
        disturb(&world.folder);
        let gone = Instant::now();
        let ran = program.end().await;
        ran.check(3).complains(&["moved, restored or removed under this process", says]);
        let committed = load.stop().await;
        // What was committed before may be on its way to the client.
        let late = committed.iter().filter(|told| told.at > gone + Duration::from_millis(500));
        assert_eq!(late.count(), 0, "{says}: answered without a file");
        if number >= 2 {
            restore(&world.folder);
            world.compare(&committed).await.check(0);
        }
    }
}

/// S10: the file is emptied under load. The process that a supervisor starts next does not begin anew beside the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s10_nothing_begins_anew_beside_the_log_of_an_emptied_file() {
    let world = World::new().await;
    let mut program = world.serve(&[]);
    let (grpc, _) = addresses(&mut program).await;
    let load = Load::start(&grpc);
    load.until_it_flows().await;
    drop(fs::File::create(world.folder.join("x.db")).unwrap());
    program.end().await.check(3).complains(&["the database file", "it became shorter"]);
    load.stop().await;
    let log = fs::read(world.folder.join("x.db-wal")).unwrap();
    assert!(!log.is_empty());
    let says = ["the file is empty", "x.db-wal"];
    world.serve(&[]).end().await.check(1).complains(&says);
    assert!(fs::read(world.folder.join("x.db-wal")).unwrap() == log, "the log has changed");
}

/// An idle process notices it at the next renewal of its lease.
#[tokio::test]
async fn an_idle_process_notices_that_its_file_is_gone() {
    let world = World::new().await;
    let mut program = world.serve(&[]);
    addresses(&mut program).await;
    fs::remove_dir_all(&world.folder).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), program.end()).await.unwrap();
    ended.check(3).complains(&["the database file", "x.db: it is not there any more"]);
    // The next one says that it has begun anew, and where.
    let mut again = world.serve(&[]);
    addresses(&mut again).await;
    let path = fs::canonicalize(&world.folder).unwrap().join("x.db");
    let path = path.display().to_string();
    let err = again.err();
    let line = err.lines().find(|line| line.contains("there was no database file")).unwrap();
    assert!(line.contains("WARN") && line.contains("empty one was made"), "{line}");
    assert!(line.contains(&path), "{line}");
    again.process.signal(Signal::TERM);
    again.end().await.check(0);
    // A start on a file that is there does not.
    let mut again = world.serve(&[]);
    addresses(&mut again).await;
    assert!(!again.err().contains("there was no database file"), "{}", again.err());
    again.process.signal(Signal::TERM);
    again.end().await.check(0);
}

/// S1, S5: with the lock deleted, or the folder, a second process gets in. A payment is made once all the same.
#[tokio::test]
async fn s1_two_processes_on_one_path_pay_once() {
    let world = World::new().await;
    let mut first = world.serve(&["--node", "first"]);
    let (grpc, _) = addresses(&mut first).await;
    commits(&grpc, "pay-1").await;
    fs::remove_file(world.folder.join("x.db.lock")).unwrap();
    let mut second = world.serve(&["--node", "second"]);
    first.end().await.check(3).complains(&["use the lock file"]);
    let (grpc, _) = addresses(&mut second).await;
    second.until_err("there was no lock file beside this database").await;
    commits(&grpc, "pay-1").await;
    let prepares = world.p.seen().iter().filter(|seen| seen.operation == "prepare").count();
    assert_eq!(prepares, 1, "it is paid once");

    fs::rename(&world.folder, beside(&world.folder, ".moved")).unwrap();
    let mut third = world.serve(&["--node", "third"]);
    second.end().await.check(3);
    addresses(&mut third).await;
    third.until_err("there was no database file").await;
    third.process.signal(Signal::TERM);
    third.end().await.check(0);
}

/// L3: a full disk ends nothing. The process says why it is not ready, and goes on once there is space; so does
/// a start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_full_disk_is_waited_for() {
    let Some(disk) = SmallDisk::mount(16 << 20) else { return };
    let world = World::at(disk.folder().to_owned()).await;
    let mut program = world.serve(&[]);
    let health = admin(&mut program).await;
    let (grpc, _) = addresses(&mut program).await;
    let load = Load::start(&grpc);
    load.until_it_flows().await;
    disk.fill();
    let says = |health: SocketAddr, text: &str| {
        let (code, why) = http_get(health, "/readyz");
        (code == 503 && why.contains(text)).then_some(())
    };
    until("it to say why", async || says(health, "disk is full")).await;
    // Longer than a lease.
    tokio::time::sleep(Duration::from_secs(3)).await;
    says(health, "disk is full").expect("it says so still");
    assert_eq!(http_get(health, "/healthz").0, 200);
    assert!(program.process.child().try_wait().unwrap().is_none(), "{}", program.err());
    let before = load.count();
    disk.free();
    let ready = async || (http_get(health, "/readyz").0 == 200).then_some(());
    until("it to be ready", ready).await;
    until("it to go on", async || (load.count() > before + 20).then_some(())).await;
    let committed = load.stop().await;
    disk.fill();
    program.process.signal(Signal::KILL);
    let _ = until("its end", async || program.process.child().try_wait().unwrap()).await;

    let mut again = world.serve(&[]);
    let health = admin(&mut again).await;
    until("it to say why", async || says(health, "it waits for space in its database")).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(again.process.child().try_wait().unwrap().is_none(), "{}", again.err());
    disk.free();
    addresses(&mut again).await;
    until("it to be ready", async || (http_get(health, "/readyz").0 == 200).then_some(())).await;
    again.process.signal(Signal::TERM);
    again.end().await.check(0).complains(&["the database has no space for writes"]);
    world.compare(&committed).await.check(0);
}

/// The gauge of the log's size.
#[tokio::test]
async fn the_size_of_the_log_is_a_metric() {
    let world = World::new().await;
    let mut program = world.serve(&[]);
    let health = admin(&mut program).await;
    let (grpc, _) = addresses(&mut program).await;
    commits(&grpc, "g").await;
    // The last writes may come in between the two looks.
    until("the gauge to tell the file's size", async || {
        let (_, text) = http_get(health, "/metrics");
        let line = text.lines().find(|line| line.starts_with("unanimo_sqlite_log_bytes ")).unwrap();
        let bytes: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
        (bytes == fs::metadata(world.folder.join("x.db-wal")).unwrap().len()).then_some(())
    })
    .await;
    program.process.signal(Signal::TERM);
    program.end().await.check(0);
}

/// A purge that fails says which statement has failed, and why.
#[tokio::test]
async fn a_purge_that_fails_says_why() {
    let world = World::new().await;
    let retention = ["--retention", "1ms", "--gid-retention", "1ms", "--purge-interval", "100ms"];
    let mut program = world.serve(&retention);
    let (grpc, _) = addresses(&mut program).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(world.folder.join("x.db"));
    let mut raw = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let refuse = "CREATE TRIGGER refuse BEFORE INSERT ON log WHEN NEW.stripped_ms IS NOT NULL
        BEGIN SELECT RAISE(ABORT, 'a row that is stuck'); END";
    sqlx::raw_sql(refuse).execute(&mut raw).await.unwrap();
    commits(&grpc, "g").await;
    program.until_err("failed to purge ended transactions").await;
    program.process.signal(Signal::TERM);
    let ran = program.end().await;
    ran.check(0)
        .complains(&["delete the details of ended transactions (STRIP)", "row that is stuck"]);
}

/// A quota, or a limit of a file's size, is no space either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn l3_a_limit_of_the_files_size_is_waited_for() {
    let world = World::new().await;
    let url = sqlite(&world.folder.join("x.db"));
    let inner = serve_command(&url, &["--participant", &world.participant]);
    let mut outer = Command::new("sh");
    // Blocks of 512 bytes. The signal for such a write ends nothing.
    outer.args(["-c", "ulimit -S -f 4096; exec \"$0\" \"$@\""]);
    outer.arg(inner.get_program()).args(inner.get_args());
    let mut program = Program::start(outer);
    let health = admin(&mut program).await;
    let (grpc, _) = addresses(&mut program).await;
    let load = Load::start(&grpc);
    until("it to say why", async || {
        let (code, why) = http_get(health, "/readyz");
        (code == 503 && why.contains("disk I/O error")).then_some(())
    })
    .await;
    assert!(program.process.child().try_wait().unwrap().is_none(), "{}", program.err());
    let before = load.count();
    let pid = program.process.child().id().to_string();
    let raised = Command::new("prlimit").args(["--fsize=unlimited", "--pid", &pid]).status();
    assert!(raised.unwrap().success());
    until("it to go on", async || (load.count() > before + 20).then_some(())).await;
    let committed = load.stop().await;
    program.process.signal(Signal::TERM);
    program.end().await.check(0);
    world.compare(&committed).await.check(0);
}
