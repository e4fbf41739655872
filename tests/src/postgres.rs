//! PostgreSQL servers of the tests' own: no server started by hand, no port, nothing left behind.
//!
//! They listen on a Unix socket in the run's folder. One server is shared by all tests of a process,
//! each in a database of its own; a test that kills its server starts another one.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::server::{as_server_user, copy, new_database, new_folder, program, run};
use crate::wait::block_until;

const USER: &str = "unanimo";

/// What every server is started with. A killed process loses nothing that it gave to the operating
/// system, so nothing is synced; a benchmark that measures commits asks for [`Server::durable`].
const SETTINGS: &str = "
listen_addresses = ''
max_connections = 200
max_prepared_transactions = 100
shared_buffers = 64MB
log_min_messages = fatal
fsync = off
";

/// A server.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
}

impl Server {
    /// The one that all tests of this process share. It ends with the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server for one test.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// A server that syncs its log to disk at each commit.
    #[must_use]
    pub fn durable() -> Self {
        Self::start_with("fsync = on\n")
    }

    /// A server with settings of its own, each a line of `postgresql.conf`.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start_with(settings: &str) -> Self {
        let folder = new_folder("pg");
        copy(template(), &folder.join("data"));
        let all = format!("{SETTINGS}{settings}unix_socket_directories = '{}'\n", folder.display());
        fs::write(folder.join("data/postgresql.auto.conf"), all).expect("write the settings");
        let server = Self { folder };
        server.launch();
        server
    }

    /// Starts the server, or starts it again after it was killed.
    ///
    /// # Panics
    /// It does not come up.
    pub fn launch(&self) {
        // Sessions of a killed server live a moment longer, and no new one starts beside them.
        let mut child = block_until("PostgreSQL to come up", || self.try_launch().ok());
        // Reaped when it ends: a zombie would look as if it were alive.
        std::thread::spawn(move || child.wait());
    }

    /// Starts the server again if it has died.
    ///
    /// # Panics
    /// It does not come up.
    pub fn launch_if_dead(&self) {
        let alive = self.pid().is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
        if !alive {
            self.launch();
        }
    }

    fn try_launch(&self) -> Result<Child, ()> {
        let log = fs::File::create(self.folder.join("log")).expect("a log file");
        // Not ours to wait for: a kill ends it, and the reaper at last.
        let mut child = as_server_user(program("postgres"))
            .arg("-D")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file twice"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("postgres");
        block_until("PostgreSQL to come up, or to end", || {
            if child.try_wait().expect("its state").is_some() {
                return Some(Err(()));
            }
            let state = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let mut lines = state.lines().map(str::trim);
            let own = lines.next() == Some(child.id().to_string().as_str());
            (own && lines.nth(6) == Some("ready")).then_some(Ok(()))
        })?;
        Ok(child)
    }

    /// `kill -9` of the server and all its sessions.
    pub fn kill(&self) {
        self.end(Signal::KILL);
    }

    /// What `pg_ctl stop -m immediate` does: no checkpoint, sessions are cut.
    pub fn stop_immediately(&self) {
        self.end(Signal::QUIT);
    }

    fn end(&self, signal: Signal) {
        let Some(pid) = self.pid() else { return };
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
        block_until("PostgreSQL to end", || {
            rustix::process::test_kill_process(pid).is_err().then_some(())
        });
    }

    /// Its main process. Whoever kills it has killed the server: its sessions see that and end.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        let state = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        Pid::from_raw(state.lines().next()?.trim().parse().ok()?)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The socket that it listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// The address of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://{USER}@{folder}/{database}")
    }

    /// A new empty database, and its address.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn database(&self) -> String {
        let name = new_database();
        let mut admin =
            PgConnection::connect(&self.url("postgres")).await.expect("connect to the server");
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        admin.execute(create).await.expect("create a database");
        self.url(&name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        // The reaper removes what is left.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let data = new_folder("pg-template").join("base");
        run(as_server_user(program("initdb"))
            .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--no-locale", "-U", USER, "-D"])
            .arg(&data));
        data
    })
}
