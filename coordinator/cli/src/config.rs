//! `unanimo config`: the configuration that `serve` would use.

mod flags;

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;
use unanimo_coordinator::config::{Loaded, Setting};

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
#[command(after_long_help = "\
JSON (--json): an object with settings, a list of objects with key, value (as
  TOML has it) and source (default, file, environment or flag); the endpoint
  of a participant has the key participants.NAME.")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) settings: Settings,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Output of `--json`. Keys are only ever added.
#[derive(Serialize)]
struct Json {
    settings: Vec<JsonSetting>,
}

#[derive(Serialize)]
struct JsonSetting {
    key: String,
    value: String,
    source: String,
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
    let loaded = args.settings.load()?;
    if args.json {
        let settings = loaded.settings().into_iter().map(|setting| {
            let Setting { key, value, source } = setting;
            JsonSetting { key, value, source }
        });
        output::print_json(&Json { settings: settings.collect() })?;
    } else {
        output::print(&loaded.to_toml())?;
    }
    Ok(ExitCode::SUCCESS)
}
