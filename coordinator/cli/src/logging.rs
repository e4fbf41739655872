//! Log lines: on standard error, as text or as JSON.

use std::io;

use anstream::ColorChoice;
use tracing_subscriber::{EnvFilter, fmt};
use unanimo_coordinator::config::{Config, LogFormat};

/// Sends the process's log lines to standard error from now on.
pub(super) fn init(config: &Config) {
    // The filter is valid: the configuration's rules have checked it.
    let filter = EnvFilter::new(&config.log);
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // The report of a failed write would go to standard error, too, and panic.
        .log_internal_errors(false);
    // Fails if the process has a subscriber already, which is then kept.
    let _ = match config.log_format {
        LogFormat::Human => {
            let colored = anstream::AutoStream::choice(&io::stderr()) != ColorChoice::Never;
            builder.with_ansi(colored).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
