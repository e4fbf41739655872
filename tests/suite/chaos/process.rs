//! Process that is started again each time that it has ended, behind a fixed address.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Pid;
use unanimo_tests::reaper::{Owned, run_folder};
use unanimo_tests::relay::Relay;

use super::bank::Bank;

pub(crate) struct Process {
    relay: Relay,
    program: &'static str,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    process: Arc<Mutex<Option<Owned>>>,
    /// Number of times that it has ended by itself since the last restart by the test.
    crashes: Arc<AtomicU32>,
    keeper: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// Starts a coordinator of these banks.
pub(crate) async fn coordinator(database: &str, banks: &[Bank]) -> Process {
    let bank =
        |bank: &Bank| ["--participant".to_owned(), format!("{}={}", bank.name, bank.endpoint)];
    coordinator_with(database, banks.iter().flat_map(bank), "4s").await
}

/// Time in which a transaction of [`coordinator`] has ended once all faults are over (promise L1): its
/// deadline, two leases, and the longest pause between two attempts.
pub(crate) const ENDED_WITHIN: Duration = Duration::from_millis(4_000 + 2 * 2_000 + 200);

/// Starts a coordinator with more arguments, and the time-out of transactions that set none.
pub(crate) async fn coordinator_with(
    database: &str,
    more: impl IntoIterator<Item = String>,
    timeout_default: &str,
) -> Process {
    coordinator_under(arguments(database, more, timeout_default), Vec::new()).await
}

/// Returns the arguments of a coordinator.
pub(crate) fn arguments(
    database: &str,
    more: impl IntoIterator<Item = String>,
    timeout_default: &str,
) -> Vec<String> {
    let mut arguments = vec!["serve".to_owned()];
    for (flag, value) in [
        ("--database-url", database),
        ("--node", "one"),
        ("--listen", "127.0.0.1:0"),
        ("--admin-listen", "127.0.0.1:0"),
        ("--lease", "2s"),
        ("--call-timeout", "3s"),
        ("--prepare-backoff", "5ms"),
        ("--prepare-backoff-max", "200ms"),
        ("--phase-two-backoff", "5ms"),
        ("--phase-two-backoff-max", "200ms"),
        ("--timeout-default", timeout_default),
    ] {
        arguments.extend([flag.to_owned(), value.to_owned()]);
    }
    arguments.extend(more);
    arguments
}

/// Starts a coordinator with environment variables.
pub(crate) async fn coordinator_under(
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
) -> Process {
    let program = env!("CARGO_BIN_EXE_unanimo-under-test");
    Process::start_under(Relay::start().await, program, arguments, variables)
}

impl Process {
    /// Starts a program that prints its address, and starts it again each time that it ends.
    pub(crate) async fn start(program: &'static str, arguments: Vec<String>) -> Self {
        Self::start_behind(Relay::start().await, program, arguments)
    }

    /// The same behind an address that is known before.
    pub(crate) fn start_behind(
        relay: Relay,
        program: &'static str,
        arguments: Vec<String>,
    ) -> Self {
        Self::start_under(relay, program, arguments, Vec::new())
    }

    /// Starts it with an armed crash point, `POINT:VISIT`; its later lives have none.
    pub(crate) async fn start_to_crash(
        program: &'static str,
        arguments: Vec<String>,
        crash: Option<String>,
    ) -> Self {
        let process = Self::new(Relay::start().await, program, arguments, Vec::new());
        process.keep_alive(crash);
        process
    }

    fn start_under(
        relay: Relay,
        program: &'static str,
        arguments: Vec<String>,
        variables: Vec<(&'static str, String)>,
    ) -> Self {
        let process = Self::new(relay, program, arguments, variables);
        process.keep_alive(None);
        process
    }

    fn new(
        relay: Relay,
        program: &'static str,
        arguments: Vec<String>,
        variables: Vec<(&'static str, String)>,
    ) -> Self {
        Self {
            relay,
            program,
            arguments,
            variables,
            process: Arc::default(),
            crashes: Arc::default(),
            keeper: Mutex::default(),
        }
    }

    pub(crate) fn url(&self) -> String {
        self.relay.url()
    }

    /// Tells whether it has reached the crash point at which it kills itself.
    pub(crate) fn has_crashed(&self) -> bool {
        self.crashes.load(Ordering::SeqCst) > 0
    }

    /// Returns the id of the present process.
    pub(crate) fn pid(&self) -> Option<Pid> {
        let mut process = self.process.lock().unwrap();
        Pid::from_raw(process.as_mut()?.child().id().try_into().ok()?)
    }

    /// Kills the process, which is then started again.
    pub(crate) fn kill(&self) {
        if let Some(process) = &mut *self.process.lock().unwrap() {
            process.kill();
        }
    }

    /// Starts it again with an armed crash point: at its nth visit the process kills itself.
    pub(crate) fn crash_at(&self, point: &str, nth: u32) {
        self.start_armed(format!("{point}:{nth}"));
    }

    /// Starts it again with an armed crash point: at its nth visit it kills the process `victim`.
    pub(crate) fn kill_at(&self, point: &str, nth: u32, victim: Pid) {
        self.start_armed(format!("{point}:{nth}:{}", victim.as_raw_nonzero()));
    }

    fn start_armed(&self, crash: String) {
        if let Some(keeper) = self.keeper.lock().unwrap().take() {
            keeper.abort();
        }
        self.kill();
        self.crashes.store(0, Ordering::SeqCst);
        self.keep_alive(Some(crash));
    }

    fn keep_alive(&self, crash: Option<String>) {
        let (relay, program) = (self.relay.clone(), self.program);
        let (arguments, variables) = (self.arguments.clone(), self.variables.clone());
        let (process, crashes) = (Arc::clone(&self.process), Arc::clone(&self.crashes));
        let keeper = tokio::spawn(async move {
            let mut crash = crash;
            loop {
                relay.point_to(None);
                let mut command = Command::new(program);
                command.args(&arguments).envs(variables.iter().cloned());
                if let Some(crash) = crash.take() {
                    command.env(unanimo_tests::crash::VARIABLE, crash);
                }
                let (owned, address) = spawn(command).await;
                *process.lock().unwrap() = Some(owned);
                relay.point_to(address);
                while is_alive(&process) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                crashes.fetch_add(1, Ordering::SeqCst);
            }
        });
        *self.keeper.lock().unwrap() = Some(keeper);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.lock().unwrap().take() {
            keeper.abort();
        }
        self.kill();
    }
}

fn is_alive(process: &Mutex<Option<Owned>>) -> bool {
    let mut process = process.lock().unwrap();
    let child = process.as_mut().map(Owned::child);
    child.is_some_and(|child| child.try_wait().unwrap().is_none())
}

/// Starts it, and waits until it prints its address; `None` if it ends before that.
async fn spawn(mut command: Command) -> (Owned, Option<SocketAddr>) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let log = std::fs::File::create(run_folder().join(format!("serve{number}.log"))).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let mut owned = Owned::spawn(&mut command);
    let stdout = owned.child().stdout.take().unwrap();
    let address = tokio::task::spawn_blocking(move || {
        let line = BufReader::new(stdout).lines().next()?.ok()?;
        line.strip_prefix("grpc http://")?.parse().ok()
    });
    (owned, address.await.unwrap())
}
