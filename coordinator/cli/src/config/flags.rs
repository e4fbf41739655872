//! The settings as flags and variables of the environment, made from the library's table.

use clap::builder::{PossibleValuesParser, ValueParser};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use unanimo_coordinator::config::{Config, Described, Layer};

/// Key of the setting whose flag is given once for each participant.
const PARTICIPANTS: &str = "participants";

/// Settings that flags and the environment's variables gave.
#[derive(Debug)]
pub(super) struct Flags(pub(super) Layer);

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        command.args(Config::described().into_iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut layer = Layer::default();
        for Described { key, .. } in Config::described() {
            for text in matches.get_many::<String>(&key).into_iter().flatten() {
                layer
                    .set(&key, text)
                    .map_err(|rule| clap::Error::raw(ErrorKind::ValueValidation, rule))?;
            }
        }
        Ok(Self(layer))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(setting: Described) -> Arg {
    let Described { key, env, value_name, values, default, help } = setting;
    let arg = Arg::new(key.clone()).value_name(value_name).value_parser(parser(&key, values));
    if key == PARTICIPANTS {
        return arg.long("participant").action(ArgAction::Append).help(
            "Endpoint of a participant that does not register: NAME=http://HOST:PORT. May be given \
             several times; in the file, a table [participants] of lists",
        );
    }
    let help = help.replace('\n', " ");
    // In the file a list or a text, here as it would stand behind the flag.
    let default = default.replace(['"', '[', ']'], "");
    let arg =
        arg.long(key).env(env).hide_env_values(true).help(format!("{help} [default: {default}]"));
    match values {
        // The flag alone says yes.
        ["true", "false"] => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg,
    }
}

/// Accepts what the setting accepts, so that an error names the flag.
fn parser(key: &str, values: &'static [&'static str]) -> ValueParser {
    if !values.is_empty() {
        return PossibleValuesParser::new(values).into();
    }
    let key = key.to_owned();
    ValueParser::new(move |text: &str| Layer::default().set(&key, text).map(|()| text.to_owned()))
}
