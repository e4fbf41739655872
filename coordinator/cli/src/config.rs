//! `unanimo config`: what `serve` would run with.

mod flags;

use std::path::PathBuf;
use std::process::ExitCode;

use unanimo_coordinator::config::Loaded;

use self::flags::Flags;
use super::error::Error;
use super::output;

/// Print the configuration that `serve` would use, and where each setting is from
///
/// Prints TOML that --config reads again. Each setting that is not at its default says which source
/// set it. Passwords are hidden. Settings that break rules are reported as `serve` would report
/// them, and the exit code is 2.
#[derive(Debug, clap::Args)]
// Of a flag that a script has and its caller gives again, the last one counts.
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) settings: Settings,
}

/// Where settings are from: defaults < file < environment < flags.
#[derive(Debug, clap::Args)]
pub(super) struct Settings {
    /// Configuration file, in TOML: keys are the flags below without their dashes in front.
    /// Environment variables win over it, and flags over them.
    #[arg(long, env = "UNANIMO_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Settings")]
    flags: Flags,
}

impl Settings {
    pub(super) fn load(self) -> Result<Loaded, Error> {
        Ok(Loaded::load(self.config.as_deref(), self.flags.0)?)
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    output::print(&args.settings.load()?.to_toml())?;
    Ok(ExitCode::SUCCESS)
}
