//! `unanimo serve`: a coordinator, from its start to its end.

use std::process::ExitCode;

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use unanimo_coordinator::config::{Config, Loaded};
use unanimo_coordinator::coordinator::{Builder, Running};

use super::config::Settings;
use super::error::Error;
use super::{logging, output};

/// Run a coordinator
///
/// With nothing configured it keeps its state in an SQLite file in the folder `unanimo-data` and
/// serves on 127.0.0.1, gRPC on port 7610, health and metrics on port 7611.
///
/// The log goes to standard error. Standard output gets two lines once the coordinator serves, for
/// whoever started it with port 0: `grpc http://IP:PORT` and `admin http://IP:PORT`.
///
/// SIGTERM and SIGINT (Ctrl-C) stop it in good order: it takes no new transactions, lets those in
/// flight end for as long as --drain-timeout, and hands the rest over to its next start. A second
/// signal ends it at once, which loses nothing either.
///
/// Exit codes: 0 stopped by a signal, 1 failed to start or ended on an error, 2 bad usage or
/// configuration, 3 fenced: another process has taken over, and this one must not be started again
/// beside it.
#[derive(Debug, clap::Args)]
// Of a flag that a script has and its caller gives again, the last one counts.
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    let Loaded { config, .. } = args.settings.load()?;
    logging::init(&config);
    let runtime =
        Runtime::new().map_err(|source| Error::System { doing: "start threads", source })?;
    let result = runtime.block_on(serve(config));
    // What still runs after a second signal is not waited for.
    runtime.shutdown_background();
    result.map_err(|error| {
        tracing::error!("{error}");
        Error::Logged(Box::new(error))
    })
}

async fn serve(config: Config) -> Result<ExitCode, Error> {
    // From here on a signal is ours to answer, while it starts as well.
    let mut signals = Signals::new()?;
    let (node, database) = (config.node.clone(), config.database_url.clone());
    let mut running = tokio::select! {
        started = Builder::new(config).start() => started.map_err(Error::Start)?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped before it had started");
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
    announce(&running);
    tokio::select! {
        ended = running.ended() => return Err(Error::Ended(ended)),
        name = signals.next() => tracing::info!(signal = name, "stopping; a second signal ends it at once"),
    }
    tokio::select! {
        stopped = running.stop() => stopped.map_err(Error::Ended)?,
        name = signals.next() => {
            tracing::warn!(signal = name, "ended at once: what was in flight is adopted later");
            return Ok(ExitCode::FAILURE);
        }
    }
    tracing::info!("stopped in good order");
    Ok(ExitCode::SUCCESS)
}

/// Tells where it serves, in the log and to whoever started it.
fn announce(running: &Running) {
    let addresses = running.grpc_address().zip(running.admin_address());
    let (grpc, admin) = addresses.expect("it was started with its network");
    tracing::info!(%grpc, %admin, "listening");
    let lines = format!("grpc http://{grpc}\nadmin http://{admin}\n");
    // A parent that does not read it is no reason not to serve.
    let _ = output::print(&lines);
}

/// The signals that end it.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Error> {
        let listen = |kind| {
            signal(kind).map_err(|source| Error::System { doing: "listen for signals", source })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
