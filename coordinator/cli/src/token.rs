//! `unanimo token`: bearer tokens of callers, and of the coordinator itself.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use unanimo_coordinator::identity::{self, Role, Token};
use unanimo_coordinator::participants::tokens;
use unanimo_core::{Namespace, ParticipantName, ids};

use crate::error::Error;
use crate::output;

/// Make bearer tokens: of callers, and of the coordinator
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    New(NewArgs),
    Coordinator(CoordinatorArgs),
}

/// Make a new token, and the entry for the coordinator's file of identities
///
/// The token is printed once, on standard output, and is nowhere else: give it to its owner. The entry has its hash.
/// It is appended to --file, if the coordinator can use that then, or printed on standard error. The coordinator reads the file again by itself. To revoke
/// the token remove its hash from the file.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON (--json): an object with token, hash, entry (TOML, for the file of
  identities) and file (to which the entry was appended, or null).")]
struct NewArgs {
    /// Name of the identity: in log lines, and with the transactions that it begins
    #[arg(long, value_name = "NAME", value_parser = ParticipantName::new)]
    name: ParticipantName,
    /// Role of its owner: initiator, participant, operator or viewer; may be given again
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = role)]
    roles: Vec<Role>,
    /// Participant that its owner speaks for; may be given again
    #[arg(long = "participant", value_name = "NAME", value_parser = ParticipantName::new)]
    participants: Vec<ParticipantName>,
    /// Namespace of its owner: for it there is nothing outside, and its names are in it
    #[arg(long, value_name = "NAMESPACE", value_parser = Namespace::new)]
    namespace: Option<Namespace>,
    /// File of identities to which the entry is appended
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

/// Make the token that the coordinator sends to a participant
///
/// It is appended to --file, the coordinator's setting `participant-tokens`, if the coordinator can use that then, or
/// printed on standard error. Its hash is printed on standard output: a line for the participant's own file, by which it
/// knows the coordinator. To replace a token give the participant the new hash beside the old one first.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
JSON (--json): an object with hash, entry (TOML with the token, for the
  coordinator's file of tokens; null where it was appended) and file (to which
  it was, or null).")]
struct CoordinatorArgs {
    /// Participant that the token is for: NAME, or NAMESPACE/NAME. Each has its own
    #[arg(long, value_name = "NAME", value_parser = full_name)]
    participant: ParticipantName,
    /// File of tokens to which it is appended
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

fn full_name(text: &str) -> Result<ParticipantName, ids::Error> {
    ParticipantName::try_from(text.to_owned())
}

fn role(text: &str) -> Result<Role, String> {
    let found = Role::ALL.into_iter().find(|role| role.name() == text);
    found.ok_or_else(|| "must be initiator, participant, operator or viewer".to_owned())
}

fn system(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { doing, source }
}

/// Tells whether the coordinator can use a file with this text.
type Check = fn(&Path, &str) -> Result<(), unanimo_tls::Error>;

/// Appends the entry, unless the coordinator could not use the file then. A new file is for its owner alone. Nothing is
/// ever removed: a file that was not there a moment ago may be somebody else's now.
fn append(path: &Path, entry: &str, check: Check) -> Result<(), Error> {
    let bad = system("append to the file");
    if !path.exists() {
        // So that none is made for an entry that is of no use.
        check(path, entry).map_err(|error| Error::Identities(error.to_string()))?;
    }
    let mut options = OpenOptions::new();
    let opened = options.create(true).read(true).append(true).mode(0o600).open(path);
    let mut file = opened.map_err(&bad)?;
    // Another one that appends now would not be checked together with this one.
    file.lock().map_err(&bad)?;
    append_checked(&mut file, path, entry, check)
}

fn append_checked(file: &mut File, path: &Path, entry: &str, check: Check) -> Result<(), Error> {
    let bad = system("append to the file");
    let mut text = String::new();
    let before = file.read_to_string(&mut text).map_err(&bad)? as u64;
    let entry = match text.is_empty() || text.ends_with('\n') {
        true => entry.to_owned(),
        false => format!("\n{entry}"),
    };
    check(path, &(text + &entry)).map_err(|error| Error::Identities(error.to_string()))?;
    file.write_all(entry.as_bytes()).map_err(|error| {
        // Part of an entry would be a file that the coordinator refuses. The error to tell is the first one.
        let _ = file.set_len(before);
        bad(error)
    })
}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    match args.command {
        Command::New(args) => new(args),
        Command::Coordinator(args) => coordinator(args),
    }
}

fn make() -> Result<Token, Error> {
    let mut random = [0; Token::RANDOM_BYTES];
    let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    let filled = filled.map_err(|error| system("draw random bytes")(error.into()))?;
    assert_eq!(filled, random.len(), "up to 256 bytes come at once");
    Ok(Token::new(random))
}

fn coordinator(args: CoordinatorArgs) -> Result<ExitCode, Error> {
    let CoordinatorArgs { participant, file, json } = args;
    let token = make()?;
    // A name may have a dot, which means something else in a bare key.
    let entry = format!("\"{participant}\" = \"{}\"\n", token.text());
    match &file {
        Some(path) => append(path, &entry, tokens::check)?,
        None if json => {}
        None => output::note(&format!("add this to the coordinator's file of tokens:\n{entry}")),
    }
    if json {
        // A token that is in its file is nowhere else.
        let entry = if file.is_some() { None } else { Some(entry) };
        output::print_json(
            &serde_json::json!({ "hash": token.hashed(), "entry": entry, "file": name_of(file.as_deref()) }),
        )?;
    } else {
        output::print(&format!("{}\n", token.hashed()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the name of a file for JSON.
fn name_of(file: Option<&Path>) -> Option<String> {
    file.map(|path| path.display().to_string())
}

fn new(args: NewArgs) -> Result<ExitCode, Error> {
    let NewArgs { name, roles, participants, namespace, file, json } = args;
    if roles.contains(&Role::Participant) == participants.is_empty() {
        let rule = "use --role participant and --participant NAME alone: give both";
        return Err(Error::Identities(rule.to_owned()));
    }
    let token = make()?;
    let list = |texts: Vec<String>| {
        texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ")
    };
    let roles = list(roles.iter().map(|role| role.name().to_owned()).collect());
    let mut entry = format!("\n[[identity]]\nname = \"{name}\"\nroles = [{roles}]\n");
    if let Some(namespace) = namespace {
        entry.push_str(&format!("namespace = \"{namespace}\"\n"));
    }
    if !participants.is_empty() {
        let names = list(participants.iter().map(ToString::to_string).collect());
        entry.push_str(&format!("participants = [{names}]\n"));
    }
    entry.push_str(&format!("tokens = [\"{}\"]\n", token.hashed()));
    match &file {
        Some(path) => append(path, &entry, identity::check)?,
        None if json => {}
        None => {
            output::note(&format!("add this to the coordinator's file of identities:\n{entry}"));
        }
    }
    if json {
        output::print_json(&serde_json::json!({
            "token": token.text(), "hash": token.hashed(), "entry": entry, "file": name_of(file.as_deref()),
        }))?;
    } else {
        output::print(&format!("{}\n", token.text()))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Somebody else makes the file, and the entry is of no use together with what is in it.
    #[test]
    fn a_file_that_another_one_makes_meanwhile_stays() {
        fn check(path: &Path, text: &str) -> Result<(), unanimo_tls::Error> {
            match text {
                "ours" => {
                    fs::write(path, "theirs ").expect("a file");
                    Ok(())
                }
                _ => Err(unanimo_tls::Error::Settings("both")),
            }
        }
        let path = std::env::temp_dir().join(format!("unanimo-token-{}", std::process::id()));
        let appended = append(&path, "ours", check);
        let found = fs::read_to_string(&path);
        fs::remove_file(&path).expect("the file is there");
        appended.expect_err("both");
        assert_eq!(found.expect("the file is there"), "theirs ");
    }
}
