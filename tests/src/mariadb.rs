//! MariaDB servers for tests: the test process starts and removes them, and they use no port.
//!
//! They listen on a Unix socket in the run's folder, as the [PostgreSQL](crate::postgres) ones do. The same tests
//! run over MySQL where [`MYSQLD`] names its program.

use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::Pid;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlPool, Row};

use crate::reaper::Owned;
use crate::server::{as_server_user, copy, new_database, new_folder, program, run};
use crate::wait::block_until;

/// Name of the environment variable with the path of a `mysqld` of MySQL, which is started instead of MariaDB.
pub const MYSQLD: &str = "TEST_MYSQLD";

/// Arguments of every server. A killed process loses nothing that the operating system has, so
/// commits are written and not synced.
const SETTINGS: [&str; 5] = [
    "--skip-networking",
    "--max-connections=300",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-size=32M",
    "--skip-name-resolve",
];

/// Size of the log: a template is copied for each server.
const MARIADB_LOG: &str = "--innodb-log-file-size=16M";
const MYSQL_LOG: &str = "--innodb-redo-log-capacity=32M";

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
        let mysqld = mysqld();
        let program = mysqld.clone().unwrap_or_else(|| program("mariadbd"));
        let mut command = as_server_user(program);
        arguments(&mut command, &self.folder.join("data"));
        command.args(match mysqld {
            Some(_) => {
                &[MYSQL_LOG, "--mysqlx=OFF", "--sync-binlog=0", "--secure-file-priv=NULL"][..]
            }
            None => &[MARIADB_LOG],
        });
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

/// Tells whether the servers are those of MySQL.
#[must_use]
pub fn is_mysql() -> bool {
    mysqld().is_some()
}

/// Keeps every commit of a server waiting, until [`let_commits_go`] is called on the same session.
///
/// # Panics
/// The server does not answer.
pub async fn hold_commits(session: &mut MySqlConnection) {
    if is_mysql() {
        session.execute("FLUSH TABLES WITH READ LOCK").await.expect("a lock");
        return;
    }
    for stage in ["START", "FLUSH", "BLOCK_DDL", "BLOCK_COMMIT"] {
        let stage = AssertSqlSafe(format!("BACKUP STAGE {stage}"));
        session.execute(stage).await.expect("a stage");
    }
}

/// Lets the commits go that [`hold_commits`] keeps.
///
/// # Panics
/// The server does not answer.
pub async fn let_commits_go(session: &mut MySqlConnection) {
    let end = if is_mysql() { "UNLOCK TABLES" } else { "BACKUP STAGE END" };
    session.execute(end).await.expect("its end");
}

/// Ends a session. The server may have closed the connection before its client does.
pub async fn end(session: MySqlConnection) {
    let _ = session.close().await;
}

/// Returns the names of every prepared transaction of a server, as SQL takes them.
///
/// # Panics
/// The server does not answer.
pub async fn prepared(pool: &MySqlPool) -> Vec<String> {
    if is_mysql() {
        let rows = sqlx::raw_sql("XA RECOVER CONVERT XID").fetch_all(pool).await;
        return rows.expect("the prepared transactions").iter().map(name_on_mysql).collect();
    }
    let rows = sqlx::raw_sql("XA RECOVER FORMAT='SQL'").fetch_all(pool).await;
    let name = |row: &MySqlRow| row.try_get_unchecked::<String, _>(3).expect("a name");
    rows.expect("the prepared transactions").iter().map(name).collect()
}

/// Writes a name as MariaDB does: as text where all of it can be printed.
fn name_on_mysql(row: &MySqlRow) -> String {
    let number = |column: usize| row.try_get_unchecked::<i64, _>(column).expect("a number");
    let data: String = row.try_get_unchecked(3).expect("the name");
    let data = data.trim_start_matches("0x").to_ascii_lowercase();
    let (gtrid, bqual) = data.split_at(2 * usize::try_from(number(1)).expect("a length"));
    let bytes = |hex: &str| -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits");
        (0..hex.len()).step_by(2).map(byte).collect()
    };
    let can_be_printed = bytes(&data).iter().all(|byte| (b' '..=b'~').contains(byte));
    let part = |hex: &str| match can_be_printed {
        true => format!("'{}'", String::from_utf8_lossy(&bytes(hex))),
        false => format!("X'{hex}'"),
    };
    let mut name = part(gtrid);
    if !bqual.is_empty() || number(0) != 1 {
        name += &format!(",{}", part(bqual));
    }
    if number(0) != 1 {
        name += &format!(",{}", number(0));
    }
    name
}

fn mysqld() -> Option<PathBuf> {
    std::env::var_os(MYSQLD).map(PathBuf::from)
}

fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let data = new_folder("maria-template").join("base");
        if let Some(mysqld) = mysqld() {
            let mut command = as_server_user(mysqld);
            arguments(&mut command, &data);
            run(command.args(["--initialize-insecure", MYSQL_LOG]));
            return data;
        }
        let mut command = as_server_user(program("mariadb-install-db"));
        arguments(&mut command, &data);
        run(command.args([
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
            MARIADB_LOG,
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
