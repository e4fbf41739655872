//! Where log lines go: standard error, for people or for programs.

use std::io;

use anstream::ColorChoice;
use tracing_subscriber::{EnvFilter, fmt};
use unanimo_coordinator::config::{Config, LogFormat};

/// Sends the process's log lines to standard error from now on.
pub(super) fn init(config: &Config) {
    // The configuration's rules have read it before.
    let filter = EnvFilter::new(&config.log);
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // It would write to standard error that it cannot write there, and panic.
        .log_internal_errors(false);
    // A process that embeds several commands keeps its first one's.
    let _ = match config.log_format {
        LogFormat::Human => {
            let colored = anstream::AutoStream::choice(&io::stderr()) != ColorChoice::Never;
            builder.with_ansi(colored).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
