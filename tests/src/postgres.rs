//! PostgreSQL servers for tests: the test process starts and removes them, and they use no port.
//!
//! They listen on a Unix socket in the run's folder. One server is shared by all tests of a
//! process, each in a database of its own; a test that kills its server starts another one.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

use crate::clock::Clock;
use crate::server::{as_server_user, copy, new_database, new_folder, program, run, write};
use crate::wait::block_until;

const USER: &str = "unanimo";

/// Settings of every server. A killed process loses nothing that the operating system has, so
/// nothing is synced; a benchmark of commits uses [`Server::durable`].
const SETTINGS: &str = "
listen_addresses = ''
max_connections = 200
max_prepared_transactions = 100
shared_buffers = 64MB
log_min_messages = fatal
fsync = off
";

/// Server of PostgreSQL.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
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
        Self::start_with("")
    }

    /// Starts a server that syncs its log to disk at each commit.
    #[must_use]
    pub fn durable() -> Self {
        Self::start_with("fsync = on\n")
    }

    /// Starts a server with more settings, each a line of `postgresql.conf`.
    ///
    /// # Panics
    /// The server does not start.
    #[must_use]
    pub fn start_with(settings: &str) -> Self {
        Self::start_in(settings, Vec::new())
    }

    /// Starts a server that goes by a clock of its own.
    #[must_use]
    pub fn with_clock(clock: &Clock) -> Self {
        Self::start_in("", clock.variables())
    }

    fn start_in(settings: &str, environment: Vec<(&'static str, String)>) -> Self {
        let folder = new_folder("pg");
        copy(template(), &folder.join("data"));
        let all = format!("{SETTINGS}{settings}unix_socket_directories = '{}'\n", folder.display());
        fs::write(folder.join("data/postgresql.auto.conf"), all).expect("write the settings");
        let server = Self { folder, environment };
        server.launch();
        server
    }

    /// Starts a standby that follows this server.
    ///
    /// # Panics
    /// It cannot be copied, or the standby does not start.
    #[must_use]
    pub fn standby(&self) -> Self {
        let folder = new_folder("pg");
        let data = folder.join("data");
        // Of the same version.
        let copier = program("postgres").with_file_name("pg_basebackup");
        if copier.is_file() {
            run(as_server_user(copier)
                .args(["--write-recovery-conf", "--checkpoint=fast", "--username", USER, "--host"])
                .arg(&self.folder)
                .arg("--pgdata")
                .arg(&data));
        } else {
            self.copy_running(&data);
        }
        let auto = data.join("postgresql.auto.conf");
        let mut all = fs::read_to_string(&auto).expect("its settings");
        // A test's question that is in the way of what is replayed is waited for, and not cancelled.
        let more = format!(
            "\nunix_socket_directories = '{}'\nmax_standby_streaming_delay = -1\n\
             max_standby_archive_delay = -1\n",
            folder.display()
        );
        all.push_str(&more);
        fs::write(auto, all).expect("write the settings");
        let server = Self { folder, environment: Vec::new() };
        server.launch();
        server
    }

    /// Copies what the running server has, for a standby that follows it. Packages of servers that are a part of another
    /// program lack `pg_basebackup`.
    fn copy_running(&self, to: &Path) {
        let (url, from, data) = (self.url("postgres"), self.data(), to.to_owned());
        let copied = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let mut session = PgConnection::connect(&url).await?;
                session.execute("SELECT pg_backup_start('standby', true)").await?;
                // A file may go meanwhile.
                let _ = as_server_user("cp").arg("-a").arg(&from).arg(&data).output();
                let stop = "SELECT labelfile FROM pg_backup_stop(false)";
                sqlx::query_scalar::<_, String>(stop).fetch_one(&mut session).await
            })
        });
        let label = copied.join().expect("no panic").expect("the end of a backup");
        write(&to.join("backup_label"), &label);
        write(&to.join("standby.signal"), "");
        fs::remove_file(to.join("postmaster.pid")).expect("remove postmaster.pid");
        let auto = to.join("postgresql.auto.conf");
        let mut all = fs::read_to_string(&auto).expect("its settings");
        all.push_str(&format!(
            "\nprimary_conninfo = 'host={} user={USER}'\n",
            self.folder.display()
        ));
        fs::write(auto, all).expect("write the settings");
    }

    /// Starts the server as a standby that follows nobody, or as a primary again. It must be stopped.
    ///
    /// # Panics
    /// The server does not start.
    pub fn launch_as_standby(&self, standby: bool) {
        let signal = self.data().join("standby.signal");
        if standby {
            fs::write(&signal, "").expect("write standby.signal");
        } else {
            fs::remove_file(&signal).expect("remove standby.signal");
        }
        self.launch();
    }

    /// Starts the server, or starts it again after it was killed.
    ///
    /// # Panics
    /// The server does not start.
    pub fn launch(&self) {
        // Sessions of a killed server end a moment later, and until then no new server starts.
        let mut child = block_until("PostgreSQL to come up", || self.try_launch().ok());
        // A thread waits for its end: otherwise a zombie would look like a live process.
        std::thread::spawn(move || child.wait());
    }

    /// Starts the server again if its process has ended.
    ///
    /// # Panics
    /// The server does not start.
    pub fn launch_if_dead(&self) {
        let alive = self.pid().is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
        if !alive {
            self.launch();
        }
    }

    fn try_launch(&self) -> Result<Child, ()> {
        let log = fs::File::create(self.folder.join("log")).expect("a log file");
        // The test does not wait for it: a kill ends it, or the reaper does.
        let mut child = as_server_user(program("postgres"))
            .arg("-D")
            .arg(self.data())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
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

    /// Kills the server and all its sessions as `kill -9` does.
    pub fn kill(&self) {
        self.end(Signal::KILL);
    }

    /// Stops the server as `pg_ctl stop -m immediate` does: without a checkpoint, sessions are cut.
    pub fn stop_immediately(&self) {
        self.end(Signal::QUIT);
    }

    fn end(&self, signal: Signal) {
        let Some(pid) = self.pid() else { return };
        // The process may have ended already.
        let _ = kill_process(pid, signal);
        block_until("PostgreSQL to end", || {
            rustix::process::test_kill_process(pid).is_err().then_some(())
        });
    }

    /// Copies its files, and returns the folder of the copy. It must be stopped.
    #[must_use]
    pub fn back_up(&self) -> PathBuf {
        let backup = new_folder("pg-backup").join("data");
        copy(&self.data(), &backup);
        backup
    }

    /// Puts the files of a copy in the place of its own. It must be stopped.
    ///
    /// # Panics
    /// Its own files cannot be removed.
    pub fn restore(&self, backup: &Path) {
        fs::remove_dir_all(self.data()).expect("remove the files");
        copy(backup, &self.data());
    }

    /// Returns the id of its main process. If that is killed, the sessions notice it and end, too.
    #[must_use]
    pub fn pid(&self) -> Option<Pid> {
        let state = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        Pid::from_raw(state.lines().next()?.trim().parse().ok()?)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Returns the path of the socket that it listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// Returns the address of a database.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.display().to_string().replace('/', "%2F");
        format!("postgres://{USER}@{folder}/{database}")
    }

    /// Creates an empty database, and returns its address.
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
        // The reaper removes the folder.
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
