//! Example participant in Python, in a process of its own, with a real coordinator.

mod evidence;
mod outside;
mod secured;
mod set_up;
mod sweep;
mod syntax;
mod traced;
mod work;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::future::pending;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::Signal;
use sqlx::{Connection, SqliteConnection};
use unanimo_conformance::{Options, Remote, Session, Vote};
use unanimo_proto::v1::Mode;
use unanimo_sdk::{Client, Json, Outcome, Serve, Serving};
use unanimo_testing::{Coordinator, Subject};
use unanimo_tests::reaper::{Owned, run_folder};
use unanimo_tests::wait::{PATIENCE, until};
use uuid::Uuid;

use crate::testing::sqlite::{self, Shop};

/// Pieces in stock of both shops at the start.
const STOCK: i64 = crate::testing::STOCK;

/// Pause before a client repeats a call that was not answered.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

pub(crate) fn python() -> Command {
    let program = root().join("target/python/venv/bin/python");
    let program = fs::exists(&program).unwrap().then_some(program);
    let program = program.expect("target/python/venv is not there: cargo xtask test makes it");
    let mut command = Command::new(program);
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
    command
}

/// Generates the Python code of the contract, as the example's README says.
pub(crate) fn stubs() -> &'static Path {
    static STUBS: OnceLock<PathBuf> = OnceLock::new();
    STUBS.get_or_init(|| {
        let folder = run_folder().join("stubs");
        fs::create_dir(&folder).unwrap();
        let proto = root().join("proto");
        let files = fs::read_dir(proto.join("unanimo/v1")).unwrap();
        let out = folder.display();
        let made = python()
            .args(["-m", "grpc_tools.protoc", "-I"])
            .arg(&proto)
            .args([format!("--python_out={out}"), format!("--grpc_python_out={out}")])
            .args(files.map(|file| file.unwrap().path()))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        folder
    })
}

/// Shop in Python, with its database file.
struct PyShop {
    folder: PathBuf,
    process: Owned,
    lives: u32,
}

impl PyShop {
    fn start(coordinator: &str) -> Self {
        let folder = run_folder().join(Uuid::new_v4().to_string());
        fs::create_dir(&folder).unwrap();
        let process = Self::spawn(&folder, 0, coordinator);
        Self { folder, process, lives: 0 }
    }

    fn spawn(folder: &Path, life: u32, coordinator: &str) -> Owned {
        let stock = format!("lamp={STOCK}");
        let mut command = python();
        command
            .arg(root().join("examples/python-participant/shop.py"))
            .args(["--coordinator", coordinator, "--item", &stock, "--sweep-interval", "0.3"])
            .arg("--database")
            .arg(folder.join("shop.db"))
            .env("PYTHONPATH", stubs())
            .stdout(File::create(folder.join(format!("{life}.out"))).unwrap())
            .stderr(File::create(folder.join(format!("{life}.err"))).unwrap());
        Owned::spawn(&mut command)
    }

    /// Kills the shop as `kill -9` does, and starts it again.
    fn kill(&mut self, coordinator: &str) {
        self.process.kill();
        self.lives += 1;
        self.process = Self::spawn(&self.folder, self.lives, coordinator);
    }

    fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap();
        (0..=self.lives).map(|life| read(format!("{life}.err"))).collect()
    }

    /// Waits until it serves, and returns the endpoint.
    async fn endpoint(&self) -> String {
        until("the shop to say where it answers", async || {
            let out = self.folder.join(format!("{}.out", self.lives));
            let line = fs::read_to_string(out).unwrap();
            Some(line.strip_suffix('\n')?.rsplit_once(' ')?.1.to_owned())
        })
        .await
    }

    /// Returns the pieces that are free and that are reserved.
    async fn stock(&self) -> (i64, i64) {
        let mut database = self.database().await;
        let stock = sqlx::query_as("SELECT free, reserved FROM stock WHERE item = 'lamp'");
        stock.fetch_one(&mut database).await.unwrap()
    }
}

impl PyShop {
    async fn database(&self) -> SqliteConnection {
        let file = format!("sqlite:{}", self.folder.join("shop.db").display());
        SqliteConnection::connect(&file).await.unwrap()
    }

    /// Customers of its sales.
    async fn sales(&self) -> Vec<String> {
        let sales = sqlx::query_scalar("SELECT customer FROM sale ORDER BY id");
        sales.fetch_all(&mut self.database().await).await.unwrap()
    }

    /// States of the barrier's rows.
    async fn states(&self) -> Vec<String> {
        let states = sqlx::query_scalar("SELECT state FROM barrier ORDER BY state, tx_id");
        states.fetch_all(&mut self.database().await).await.unwrap()
    }
}

type RustShop = Shop<{ sqlite::GOOD }>;

/// Coordinator, the shop in Python, and a shop of the SDK.
struct World {
    coordinator: Coordinator,
    python: PyShop,
    rust: RustShop,
    serving: Serving,
}

impl World {
    async fn start() -> Self {
        let coordinator = Coordinator::start().await.unwrap();
        let python = PyShop::start(&coordinator.endpoint());
        let rust = RustShop::fresh().await.unwrap();
        let serve = Serve::on("127.0.0.1:0").register_with(coordinator.endpoint());
        let mut serving = rust.participant().await.unwrap().serve(serve).await.unwrap();
        serving.registered().await.unwrap();
        let world = Self { coordinator, python, rust, serving };
        // The shop is registered once a transaction with it is not refused as unknown.
        until("the shop in Python to be registered", async || {
            let gid = format!("probe-{}", Uuid::new_v4());
            submit(&world.client(), &gid, 100_000, 1).await.map(drop)
        })
        .await;
        world
    }

    fn client(&self) -> Client {
        self.coordinator.client().unwrap()
    }

    /// Waits until both shops have the stock that these transactions leave.
    async fn until_stock(&self, free: i64) {
        let rust = format!("free {free}, reserved 0");
        let what = format!("both shops to have {free}; the one in Python:\n{}", self.python.log());
        until(&what, async || {
            let both = (self.python.stock().await, self.rust.observe().await.unwrap());
            (both == ((free, 0), rust.clone())).then_some(())
        })
        .await;
    }

    async fn stop(mut self) {
        self.python.process.signal(Signal::TERM);
        let ended = async || self.python.process.child().try_wait().unwrap();
        let status = until("the shop in Python to end", ended).await;
        assert!(status.success(), "{}", self.python.log());
        self.serving.stop().await.unwrap();
        self.coordinator.stop().await.unwrap();
    }
}

/// Submits a transaction over both shops; `None` if there is no answer.
async fn submit(client: &Client, gid: &str, python: i64, rust: i64) -> Option<Outcome> {
    let lamps = serde_json::json!({"item": "lamp", "pieces": python});
    let draft = client.tcc(gid).timeout(Duration::from_secs(20)).with_outputs();
    let draft = draft.branch("python", "py-shop", "reserve", Json(lamps));
    let pieces = serde_json::json!({"pieces": rust});
    draft.branch("rust", "shop", "reserve", Json(pieces)).submit().await.ok()
}

/// Repeats a submission with the same gid until it has an outcome.
async fn is_committed(client: &Client, gid: &str, rust: i64) -> bool {
    let started = Instant::now();
    loop {
        match submit(client, gid, 1, rust).await {
            Some(Outcome::Committed(_)) => return true,
            Some(Outcome::Aborted(_)) => return false,
            // The transaction is not decided, or no coordinator listens.
            Some(Outcome::NotDecided(_)) | None => tokio::time::sleep(PAUSE).await,
        }
        assert!(started.elapsed() < PATIENCE, "{gid} has no outcome");
    }
}

#[tokio::test]
async fn a_shop_in_python_commits_aborts_and_refuses() {
    let world = World::start().await;
    let client = world.client();
    let outcome = submit(&client, "both", 3, 3).await.unwrap();
    let Outcome::Committed(committed) = outcome else { panic!("{outcome:?}") };
    let output: Json<serde_json::Value> = committed.branches[0].output.read().unwrap();
    assert_eq!(output.0, serde_json::json!({"reserved": 3}));
    assert_eq!(committed.branches[0].output.media_type(), "application/json");
    world.until_stock(STOCK - 3).await;

    for (gid, python, rust, words) in [
        ("no-python", STOCK, 1, "fewer than 10000 pieces of lamp are left"),
        ("no-rust", 1, STOCK, "too few left"),
    ] {
        let outcome = submit(&client, gid, python, rust).await.unwrap();
        assert!(outcome.is_aborted(), "{outcome:?}");
        assert!(format!("{outcome:?}").contains(words), "{outcome:?}");
    }
    world.until_stock(STOCK - 3).await;
    assert!(!world.python.log().contains("Traceback"), "{}", world.python.log());
    world.stop().await;
}

#[tokio::test]
async fn a_shop_in_python_keeps_every_guarantee() {
    let world = World::start().await;
    let options = Options {
        payload: Bytes::from_static(br#"{"item": "lamp", "pieces": 2}"#),
        refused_payload: Some(Bytes::from_static(br#"{"item": "lamp", "pieces": 100000}"#)),
        // One that it does not read.
        inputs: BTreeMap::from([("note".to_owned(), Bytes::from_static(b"1"))]),
        ..Options::new("py-shop", "reserve")
    };
    let remote = Arc::new(Remote::connect(&world.python.endpoint().await).await.unwrap());
    let session = Session::new(Arc::clone(&remote) as _, options.clone());
    let branch = session.prepared().await.unwrap();
    assert_eq!(branch.output.media_type, "application/json");
    session.cancel(&branch).await.unwrap();
    let report = unanimo_conformance::run(remote, options, |_| {}, pending()).await.unwrap();
    assert!(report.passed(), "{report}");
    assert_eq!(
        report.counts().2,
        1,
        "nothing but WORKING, which it never answers, is skipped: {report}"
    );
    let committed = i64::from(report.committed);
    assert_eq!(world.python.stock().await, (STOCK - 2 * committed, 0), "{report}");
    assert!(!world.python.log().contains("Traceback"), "{}", world.python.log());
    world.stop().await;
}

/// A step of a saga with an input, and its compensation, which needs the step's output.
#[tokio::test]
async fn a_step_in_python_keeps_every_guarantee() {
    let world = World::start().await;
    let options = Options {
        payload: Bytes::from_static(br#"{"item": "lamp", "pieces": 2}"#),
        refused_payload: Some(Bytes::from_static(br#"{"item": "lamp", "pieces": 100000}"#)),
        inputs: BTreeMap::from([("customer".to_owned(), Bytes::from_static(b"\"customer-7\""))]),
        mode: Mode::Saga,
        ..Options::new("py-shop", "sell")
    };
    let remote = Arc::new(Remote::connect(&world.python.endpoint().await).await.unwrap());
    let session = Session::new(Arc::clone(&remote) as _, options.clone());
    let mut branch = session.branch();
    branch.inputs.clear();
    let vote = session.prepare(&branch).await.unwrap();
    let words = "REFUSED (INPUT_MISSING: input customer must be given)";
    assert_eq!(vote.to_string(), words);
    let branch = session.branch();
    let vote = session.prepare(&branch).await.unwrap();
    assert!(matches!(vote, Vote::Prepared(_)), "{vote}");
    assert_eq!(world.python.sales().await, ["customer-7"]);
    assert_eq!(world.python.stock().await, (STOCK - 2, 0));
    session.cancel(&branch).await.unwrap();

    let report = unanimo_conformance::run(remote, options, |_| {}, pending()).await.unwrap();
    assert!(report.passed(), "{report}");
    assert_eq!(report.counts().2, 9, "only what is about Commit and WORKING is skipped: {report}");
    assert_eq!(world.python.stock().await, (STOCK, 0), "all is compensated: {report}");
    assert_eq!(world.python.sales().await, [""; 0]);
    assert!(!world.python.log().contains("Traceback"), "{}", world.python.log());
    world.stop().await;
}

/// S7: transactions go on while the shop, and at last the coordinator, too, are killed at any
/// moment.
#[tokio::test(flavor = "multi_thread")]
async fn s7_a_shop_in_python_is_killed_in_the_middle() {
    const WAVES: u64 = 4;
    const AT_ONCE: u64 = 6;
    let mut world = World::start().await;
    let mut committed = 0;
    for wave in 0..WAVES {
        let transactions: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                let (client, gid) = (world.client(), format!("wave-{wave}-{number}"));
                // The other shop refuses every third one, when Python may have voted PREPARED.
                let rust = if number % 3 == 2 { 2 * STOCK } else { 1 };
                tokio::spawn(async move { is_committed(&client, &gid, rust).await })
            })
            .collect();
        // Different moments of the work: the branches write their file one after the other.
        tokio::time::sleep(Duration::from_millis(8 + 17 * wave)).await;
        let endpoint = world.coordinator.endpoint();
        world.python.kill(&endpoint);
        if wave % 2 == 1 {
            world.coordinator.crash().await.unwrap();
        }
        for transaction in transactions {
            committed += i64::from(transaction.await.unwrap());
        }
    }
    world.until_stock(STOCK - committed).await;
    assert!(!world.python.log().contains("Traceback"), "{}", world.python.log());
    world.stop().await;
}

/// S12: the right coordinator group is asked, and rows that are evidence are kept.
#[tokio::test]
async fn s12_a_shop_in_python_asks_each_group_about_its_own_rows() {
    let mut world = World::start().await;
    let client = world.client();
    assert!(submit(&client, "gone", 1, 1).await.unwrap().is_committed());
    until("its end", async || match client.find("gone").await.unwrap() {
        Outcome::Committed(committed) => committed.ended.then_some(()),
        _ => None,
    })
    .await;
    // All of it happened long ago. Rows without a bound are kept, and so are those of somebody else.
    let mut database = world.python.database().await;
    let long_ago = "
        DELETE FROM barrier WHERE state <> 'committed';
        UPDATE barrier SET until = 1, changed_at = 1;
        INSERT INTO barrier (tx_id, branch_id, cluster_id, state, until, changed_at)
            SELECT '01890a5d-ac96-774b-bcce-b302099a805' || n, 'a', cluster, state, bound, 1 FROM (
                SELECT 1 AS n, cluster_id AS cluster, 'prepared' AS state, 1 AS bound FROM barrier
                UNION ALL SELECT 2, 'elsewhere', 'prepared', 1
                UNION ALL SELECT 3, 'elsewhere', 'committed', 1
                UNION ALL SELECT 4, 'elsewhere', 'lost', 1
                UNION ALL SELECT 5, 'elsewhere', 'cancelled', NULL
                UNION ALL SELECT 6, 'elsewhere', 'cancelled', 1)";
    sqlx::raw_sql(long_ago).execute(&mut database).await.unwrap();
    assert_eq!(world.python.states().await.len(), 7);
    // It purges when it starts.
    let endpoint = world.coordinator.endpoint();
    world.python.kill(&endpoint);
    let left = ["cancelled", "committed", "lost", "prepared", "prepared"];
    until("the purge", async || (world.python.states().await == left).then_some(())).await;
    for alarm in ["alarm=in_doubt_unknown", "alarm=in_doubt_other_cluster"] {
        until(alarm, async || world.python.log().contains(alarm).then_some(())).await;
    }
    assert_eq!(world.python.states().await, left, "nobody ends them");
    assert!(!world.python.log().contains("not swept"), "{}", world.python.log());
    world.stop().await;
}

/// SQLite rolls back by itself where the disk is full: nothing is kept, and it is no loss. What a handler ends
/// by itself is one, and so is what it does behind SQLite's rollback.
#[test]
fn s11_a_disk_that_is_full_is_no_loss_in_python() {
    const SCRIPT: &str = "
import sqlite3, sys, threading, types
from barrier import Barrier, Lost
barrier = Barrier(sys.argv[1])
with barrier.transaction() as db:
    db.execute('CREATE TABLE big (n blob)')
def of(tx_id):
    return types.SimpleNamespace(tx_id=tx_id, branch_id='b', cluster_id='c')
def fill(db):
    db.execute('PRAGMA max_page_count = 1')
    db.execute('INSERT INTO big VALUES (zeroblob(10000000))')
def go_on(db):
    try:
        fill(db)
    except sqlite3.OperationalError:
        pass
    db.execute('PRAGMA max_page_count = 100000')
    db.execute('INSERT INTO big VALUES (1)')
    fill(db)
def end(db):
    db.execute('ROLLBACK')
    raise ValueError('and it fails')
def leave(db):
    db.execute('ROLLBACK')
    raise SystemExit('the thread ends')
def interrupted(db):
    threading.Timer(0.1, db.interrupt).start()
    db.execute('INSERT INTO big WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n')
def in_python_3_10(work):
    def run(db):
        try:
            work(db)
        except sqlite3.Error as error:
            if hasattr(error, 'sqlite_errorcode'):
                del error.sqlite_errorcode
            raise
    return run
for tx_id, work, text in (
    ('freed', fill, 'full'),
    ('cancelled', fill, 'full'),
    ('full-3.10', in_python_3_10(fill), 'full'),
    ('interrupted', interrupted, 'interrupted'),
    ('interrupted-3.10', in_python_3_10(interrupted), 'interrupted'),
):
    try:
        barrier.prepare(of(tx_id), 'tcc', None, False, work)
        sys.exit('it has prepared')
    except sqlite3.OperationalError as error:
        assert text in str(error), error
assert barrier.cancel(of('interrupted-3.10'), None, None) == ('done', '')
assert barrier.cancel(of('cancelled'), None, None) == ('done', '')
assert barrier.prepare(of('freed'), 'tcc', None, False, lambda db: (b'', ''))[0] == 'prepared'
for tx_id, work in (('ended', end), ('left', leave), ('went-on', go_on)):
    for _ in range(2):
        try:
            barrier.prepare(of(tx_id), 'tcc', None, False, work)
            sys.exit('it has prepared')
        except Lost:
            pass
    assert barrier.cancel(of(tx_id), None, None)[0] == 'hazard'
with barrier.transaction() as db:
    assert db.execute('SELECT count(*) FROM big').fetchone() == (0,), 'nothing is done outside of the transaction'
";
    let file = unanimo_tests::reaper::run_folder().join(format!("{}.db", uuid::Uuid::now_v7()));
    let mut command = python();
    command.current_dir(root().join("examples/python-participant"));
    let output = command.arg("-c").arg(SCRIPT).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The saga of the initiator in Python, as its README runs it: with the shop alone, and no other option.
#[tokio::test]
async fn the_sale_of_the_initiator_in_python_needs_the_shop_alone() {
    let world = World::start().await;
    let at = world.coordinator.endpoint();
    let at = at.trim_start_matches("http://");
    for (gid, pieces, code) in [("sale-1", "2", 0), ("sale-2", "100000", 4)] {
        let mut command = python();
        command.arg(root().join("examples/python-initiator/sale.py"));
        command.args([gid, "--coordinator", at, "--pieces", pieces]).env("PYTHONPATH", stubs());
        let output = tokio::process::Command::from(command).output().await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
    let undone = async || {
        let customers = "SELECT name FROM customer ORDER BY id";
        let customers = sqlx::query_scalar::<_, String>(customers);
        let customers = customers.fetch_all(&mut world.python.database().await).await.unwrap();
        (customers == ["customer-7"]).then_some(())
    };
    until("the customer of the sale that was refused to be undone", undone).await;
    assert_eq!(world.python.sales().await, ["customer-7"]);
    world.stop().await;
}
