//! MariaDB servers for tests: the test process starts and removes them, and they use no port.
//!
//! They listen on a Unix socket in the run's folder, as the [PostgreSQL](crate::postgres) ones do.

use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::Pid;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::reaper::Owned;
use crate::server::{as_server_user, copy, new_database, new_folder, program, run};
use crate::wait::block_until;

/// Arguments of every server. A killed process loses nothing that the operating system has, so
/// commits are written and not synced.
const SETTINGS: [&str; 6] = [
    "--skip-networking",
    "--max-connections=300",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=16M",
    "--skip-name-resolve",
];

/// Server of MariaDB.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    settings: Vec<String>,
    process: Mutex<Option<Owned>>,
}

impl Server {
    /// Returns the server that all tests of this process share. It ends with the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a server for one test.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server for one test, with more arguments.
    #[must_use]
    pub fn start_with(settings: &[&str]) -> Self {
        let folder = new_folder("maria");
        copy(template(), &folder.join("data"));
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        let server = Self { folder, settings, process: Mutex::default() };
        server.launch();
        server
    }

    /// Starts the server, or starts it again after it was killed.
    ///
    /// # Panics
    /// The server does not start.
    pub fn launch(&self) {
        let log = fs::File::create(self.folder.join("log")).expect("a log file");
        let mut command = as_server_user(program("mariadbd"));
        arguments(&mut command, &self.folder.join("data"));
        command
            .args(SETTINGS)
            .args(&self.settings)
            .arg(option("socket", &self.socket()))
            .arg(option("pid-file", &self.folder.join("pid")))
            .arg(option("tmpdir", &self.folder))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file twice"))
            .stderr(log)
            .process_group(0);
        let mut owned = Owned::spawn(&mut command);
        block_until("MariaDB to come up", || {
            let ended = owned.child().try_wait().expect("its state");
            let log = || fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "MariaDB ended: {}", log());
            UnixStream::connect(self.socket()).ok()
        });
        *self.process() = Some(owned);
    }

    /// Kills the server as `kill -9` does.
    pub fn kill(&self) {
        if let Some(process) = &mut *self.process() {
            process.kill();
        }
    }

    /// Returns its process's id.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        let id = self.process().as_mut()?.child().id();
        Pid::from_raw(i32::try_from(id).ok()?)
    }

    /// Starts the server again if its process has ended.
    ///
    /// # Panics
    /// The server does not start.
    pub fn launch_if_dead(&self) {
        let ended = |process: &mut Owned| process.child().try_wait().ok().flatten().is_some();
        let dead = self.process().as_mut().is_none_or(ended);
        if dead {
            self.launch();
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Owned>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the path of the socket that it listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// Returns the address of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("mysql://root@localhost/{database}?socket={}", self.socket().display())
    }

    /// Creates an empty database, and returns its address.
    ///
    /// # Panics
    /// The server does not answer.
    pub async fn database(&self) -> String {
        let name = new_database();
        let mut admin =
            MySqlConnection::connect(&self.url("mysql")).await.expect("connect to the server");
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        admin.execute(create).await.expect("create a database");
        self.url(&name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        // The reaper removes the folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let data = new_folder("maria-template").join("base");
        let mut command = as_server_user(program("mariadb-install-db"));
        arguments(&mut command, &data);
        run(command.args([
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            "--innodb-log-file-size=16M",
        ]));
        data
    })
}

/// Makes a command that ignores the configuration files of the machine's own server.
fn arguments(command: &mut Command, data: &Path) {
    command.arg("--no-defaults").arg(option("datadir", data));
}

fn option(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}
