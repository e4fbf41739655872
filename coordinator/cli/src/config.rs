//! `unanimo config`: the configuration that `serve` would use.

mod flags;

use std::path::PathBuf;
use std::process::ExitCode;

use unanimo_coordinator::config::Loaded;

use self::flags::Flags;
use super::error::Error;
use super::output;

/// Print the configuration that `serve` would use, and the source of each setting
///
/// The output is TOML that --config can read. A comment behind a setting names its source: file,
/// environment or flag; a setting without a comment has its default. Passwords are hidden. If a
/// setting breaks a rule, the command prints the same error as `serve` and exits with code 2.
#[derive(Debug, clap::Args)]
// A flag may be given twice, by a script and by its caller: the last one counts.
#[command(args_override_self = true)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) settings: Settings,
}

/// Settings from the file, the environment and the flags. A later source wins: defaults < file <
/// environment < flags.
#[derive(Debug, clap::Args)]
pub(super) struct Settings {
    /// Configuration file, in TOML. Its keys are the flags below without `--`. An environment
    /// variable overrides the file, and a flag overrides both.
    #[arg(long, env = "UNANIMO_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Settings")]
    flags: Flags,
}

impl Settings {
    pub(super) fn load(self) -> Result<Loaded, Error> {
        let Flags { environment, flags } = self.flags;
        Ok(Loaded::load(self.config.as_deref(), environment, flags)?)
    }
}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    output::print(&args.settings.load()?.to_toml())?;
    Ok(ExitCode::SUCCESS)
}
