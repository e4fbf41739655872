//! Flags and environment variables of the settings, made from the library's table.

use clap::builder::{PossibleValuesParser, ValueParser};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use unanimo_coordinator::config::{Config, Described, Layer};

/// Key of the setting whose flag may be repeated, once for each participant.
const PARTICIPANTS: &str = "participants";

/// Settings of the environment's variables and of the flags.
#[derive(Debug)]
pub(super) struct Flags {
    pub(super) environment: Layer,
    pub(super) flags: Layer,
}

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
        let (mut environment, mut flags) = (Layer::default(), Layer::default());
        for Described { key, .. } in Config::described() {
            let layer = match matches.value_source(&key) {
                Some(ValueSource::EnvVariable) => &mut environment,
                _ => &mut flags,
            };
            for text in matches.get_many::<String>(&key).into_iter().flatten() {
                layer
                    .set(&key, text)
                    .map_err(|rule| clap::Error::raw(ErrorKind::ValueValidation, rule))?;
            }
        }
        Ok(Self { environment, flags })
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
            "Endpoint of a participant that does not register: NAME=http://HOST:PORT, or over HTTP with \
             JSON NAME=http+json://HOST:PORT/BASE. The flag may be repeated. In the file it is a table [participants] of lists",
        );
    }
    let help = plain(&help.replace('\n', " "));
    // The documented default is TOML, such as `["loopback"]`; the help shows it as the flag takes
    // it.
    let default = default.replace(['"', '[', ']'], "");
    let help = match default.as_str() {
        "" => help,
        default => format!("{help} [default: {default}]"),
    };
    let arg = arg.long(key).env(env).hide_env_values(true).help(help);
    match values {
        // The flag without a value means true.
        ["true", "false"] => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg,
    }
}

/// Returns a text of Markdown as a terminal shows it: without marks of code, and with the names of links alone.
fn plain(markdown: &str) -> String {
    let mut text = String::new();
    let mut rest = markdown;
    while let Some((before, link)) = rest.split_once('[') {
        text.push_str(before);
        rest = match link
            .split_once("](")
            .and_then(|(name, to)| Some((name, to.split_once(')')?.1)))
        {
            Some((name, after)) => {
                text.push_str(name);
                after
            }
            None => {
                text.push('[');
                link
            }
        };
    }
    text.push_str(rest);
    text.replace('`', "")
}

/// Parser with the setting's own rule, so that the error message names the flag.
fn parser(key: &str, values: &'static [&'static str]) -> ValueParser {
    if !values.is_empty() {
        return PossibleValuesParser::new(values).into();
    }
    let key = key.to_owned();
    ValueParser::new(move |text: &str| Layer::default().set(&key, text).map(|()| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_shows_no_markdown() {
        let markdown = "As `a` says. See [security](../security.md#identities), [b] and [c";
        assert_eq!(plain(markdown), "As a says. See security, [b] and [c");
        let flags = Flags::augment_args(Command::new("serve")).render_long_help().to_string();
        assert!(
            !flags.contains('`') && !flags.contains("](") && !flags.contains("[default: ]"),
            "{flags}"
        );
    }
}
