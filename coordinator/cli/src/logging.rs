//! Log lines: on standard error, as text or as JSON.

use std::io;

use anstream::ColorChoice;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::{EnvFilter, fmt};
use unanimo_coordinator::config::{Config, LogFormat};

/// Beginning of the targets of this project's own lines.
const OURS: &str = "unanimo";

/// Sends the process's log lines to standard error from now on.
pub(super) fn init(config: &Config) {
    // The filter is valid: the configuration's rules have checked it.
    let filter = EnvFilter::new(own_lines(&config.log));
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

/// Libraries whose warnings say nothing that our own lines do not say better: the pool of connections
/// warns of each that a lost database takes with it.
const QUIET: [&str; 2] = ["sqlx::pool", "sqlx_core::pool"];

/// Makes a filter in which a level alone is that of our own lines. The libraries below have ten times as
/// many at `debug`, and only their warnings concern an operator.
fn own_lines(filter: &str) -> String {
    let mut parts = Vec::new();
    for part in filter.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse::<LevelFilter>() {
            Ok(level) if !part.contains(['=', '[']) => {
                parts.push(level.min(LevelFilter::WARN).to_string());
                let quiet = level.min(LevelFilter::ERROR);
                parts.extend(QUIET.map(|target| format!("{target}={quiet}")));
                parts.push(format!("{OURS}={level}"));
            }
            _ => parts.push(part.to_owned()),
        }
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::own_lines;

    #[test]
    fn a_level_alone_is_that_of_our_own_lines() {
        for (filter, expected) in [
            ("info", "warn,POOL=error,unanimo=info"),
            ("debug", "warn,POOL=error,unanimo=debug"),
            ("error", "error,POOL=error,unanimo=error"),
            ("off", "off,POOL=off,unanimo=off"),
            ("info, unanimo::ended=off", "warn,POOL=error,unanimo=info,unanimo::ended=off"),
            ("debug,h2=debug", "warn,POOL=error,unanimo=debug,h2=debug"),
            ("sqlx=info", "sqlx=info"),
        ] {
            let made = own_lines(filter);
            let made = made.replace("sqlx::pool=error,sqlx_core::pool=error", "POOL=error");
            let made = made.replace("sqlx::pool=off,sqlx_core::pool=off", "POOL=off");
            assert_eq!(made, expected);
        }
    }
}
