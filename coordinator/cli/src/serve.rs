//! `unanimo serve`: starts a coordinator and runs it until it is stopped.

use std::process::ExitCode;

use rustix::process;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use unanimo_coordinator::config::{Config, Loaded};
use unanimo_coordinator::coordinator::{Builder, Running};
use unanimo_coordinator::store::Relocation;

use super::config::Settings;
use super::error::Error;
use super::{logging, output};

/// Run a coordinator
///
/// Without any setting it keeps its state in an SQLite file in the folder `unanimo-data`. It serves
/// on 127.0.0.1: gRPC on port 7610, health and metrics on port 7611. With any setting, the database
/// has to be named, too.
///
/// While another node serves the same PostgreSQL database it waits as a standby: `/healthz` answers
/// 200, `/readyz` 503, and connections to the gRPC port are refused. It takes its place by itself.
///
/// The log goes to standard error. Once the coordinator serves, it prints two lines on standard
/// output: `grpc http://IP:PORT` and `admin http://IP:PORT`, with TLS `https`. A program that starts it with port 0
/// reads the ports there.
///
/// SIGTERM or SIGINT (Ctrl-C) stops it in good order: it accepts no new transactions, and waits up
/// to --drain-timeout for transactions in flight to end. The next start adopts the others. A second
/// signal ends the process at once; no transaction is lost by that.
///
/// Exit codes: 0 stopped by a signal; 1 failed to start, ended with an error, or ended by a second
/// signal; 2 wrong usage or configuration; 3 fenced: another coordinator adopts its transactions; or
/// its database was moved, restored or removed under it. If it is started again it waits as a standby,
/// or says how to go on.
#[derive(Debug, clap::Args)]
// A flag may be given twice, by a script and by its caller: the last one counts.
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    settings: Settings,
    /// The database was moved or restored, and nobody serves the original any more. Without this a
    /// database that is not where it was used last is refused. It accepts one move: left in the command
    /// it does not accept the next one. With a place, as a refusal names it: only a move to that place
    #[arg(
        long,
        value_name = "PLACE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        conflicts_with = "copy"
    )]
    moved: Option<String>,
    /// The database is a copy, and the original goes on: give it a cluster id of its own, and forget
    /// the endpoints of participants. With a cluster id: only while it has that one; needed for the
    /// clone of a whole disk, which does not know that it is one
    #[arg(
        long,
        value_name = "CLUSTER_ID",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    copy: Option<String>,
}

impl Args {
    fn relocation(&self) -> Option<Relocation> {
        match &self.copy {
            Some(id) if id.is_empty() => Some(Relocation::Copy(None)),
            Some(id) => Some(Relocation::Copy(Some(id.clone()))),
            None => self.moved.as_ref().map(|place| match place.is_empty() {
                true => Relocation::Moved,
                false => Relocation::MovedTo(place.clone()),
            }),
        }
    }
}

/// Has the system give memory in small pages. A request that has said how large it will be has its buffer then, of which
/// nothing is used until bytes come: with huge pages two mebibytes of each are, and the bound on what callers may hold
/// is none.
#[cfg(target_os = "linux")]
fn keep_pages_small() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "failed to switch off huge pages: requests that stall may take more memory");
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_pages_small() {}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    let relocation = args.relocation();
    let loaded = args.settings.load()?;
    logging::init(&loaded.config);
    keep_pages_small();
    log_database(&loaded);
    let runtime =
        Runtime::new().map_err(|source| Error::System { doing: "start threads", source })?;
    let result = runtime.block_on(serve(loaded, relocation));
    // Tasks that still run after a second signal are not waited for.
    runtime.shutdown_background();
    result.map_err(|error| {
        tracing::error!("{error}");
        Error::Logged(Box::new(error))
    })
}

/// The first line of the log: whoever has started on the wrong database sees it there.
fn log_database(loaded: &Loaded) {
    let Config { node, database_url, .. } = &loaded.config;
    // A relative path says where it is only together with the process's folder.
    let file = database_url.file().map(std::path::absolute).and_then(Result::ok);
    tracing::info!(
        database = %database_url,
        file = file.map(|file| tracing::field::display(file.display().to_string())),
        source = loaded.database_source(),
        node = node.as_str(),
        version = env!("CARGO_PKG_VERSION"),
        "the coordinator starts on this database"
    );
    if loaded.database_source() == "flag" && database_url.has_secret() {
        tracing::warn!(
            "the password of the database, or what may be one, is in the command line, which every account of this machine can read: use \
             UNANIMO_DATABASE_URL, or a configuration file that its owner alone can read"
        );
    }
}

async fn serve(loaded: Loaded, relocation: Option<Relocation>) -> Result<ExitCode, Error> {
    let (settings, config) = (loaded.settings(), loaded.config);
    // From here on signals are handled, also while the coordinator starts.
    let mut signals = Signals::new()?;
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let (node, database) = (config.node.clone(), config.database_url.clone());
    let scheme = if config.tls_cert.is_set() { "https" } else { "http" };
    let mut builder = Builder::new(config).settings(settings);
    if let Some(relocation) = relocation {
        builder = builder.relocated(relocation);
    }
    let mut running = tokio::select! {
        started = builder.start() => started.map_err(Error::Start)?,
        name = signals.next() => {
            tracing::info!(signal = name, "the coordinator was stopped before it had started");
            return Ok(ExitCode::SUCCESS);
        }
    };
    tracing::info!(
        node = node.as_str(),
        incarnation = %running.incarnation(),
        %database,
        version = env!("CARGO_PKG_VERSION"),
        "the coordinator has started"
    );
    announce(&running, scheme);
    tokio::select! {
        ended = running.ended() => return Err(Error::Ended(ended)),
        name = signals.next() => {
            tracing::info!(signal = name, "the coordinator stops; a second signal ends it at once");
        }
    }
    tokio::select! {
        stopped = running.stop() => stopped.map_err(Error::Ended)?,
        name = signals.next() => {
            tracing::warn!(
                signal = name,
                "the coordinator ended at once; its transactions in flight are adopted later"
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    tracing::info!("the coordinator has stopped in good order");
    Ok(ExitCode::SUCCESS)
}

/// Announces the addresses: in the log, and on standard output for the parent process.
fn announce(running: &Running, scheme: &str) {
    let addresses = running.grpc_address().zip(running.admin_address());
    let (grpc, admin) = addresses.expect("it was started with its network");
    tracing::info!(%grpc, %admin, "the coordinator serves gRPC, and health and metrics");
    let mut lines = format!("grpc {scheme}://{grpc}\nadmin {scheme}://{admin}\n");
    if let Some(http) = running.http_address() {
        tracing::info!(%http, "the coordinator serves its API over HTTP");
        lines += &format!("http {scheme}://{http}\n");
    }
    if let Some(pages) = running.dashboard_address() {
        tracing::info!(
            address = format!("{scheme}://{pages}/"),
            "the dashboard is there for browsers"
        );
    }
    // A parent process that does not read the lines is no reason to stop.
    let _ = output::print(&lines);
}

/// Signals that stop the coordinator.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Write beyond a limit of a file's size: it fails then, and that is answered. Without a listener it would end the process.
    _too_large: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|source| Error::System { doing: "listen for signals", source })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            _too_large: listen(SignalKind::from_raw(process::Signal::XFSZ.as_raw()))?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
