//! `unanimo token`: bearer tokens of callers.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use unanimo_coordinator::identity::{self, Role, Token};
use unanimo_core::ParticipantName;

use crate::error::Error;
use crate::output;

/// Make bearer tokens of callers
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    New(NewArgs),
}

/// Make a new token, and the entry for the coordinator's file of identities
///
/// The token is printed once, on standard output, and is nowhere else: give it to its owner. The entry has its hash.
/// It is appended to --file, if the coordinator can use that then, or printed on standard error. The coordinator reads the file again by itself. To revoke
/// the token remove its hash from the file.
#[derive(Debug, clap::Args)]
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
    /// File of identities to which the entry is appended
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

fn role(text: &str) -> Result<Role, String> {
    let found = Role::ALL.into_iter().find(|role| role.name() == text);
    found.ok_or_else(|| "must be initiator, participant, operator or viewer".to_owned())
}

fn system(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::System { doing, source }
}

/// Appends the entry, unless the coordinator could not use the file then.
fn append(path: &Path, entry: &str) -> Result<(), Error> {
    let is_new = !path.exists();
    let bad = system("append to the file of identities");
    let opened = OpenOptions::new().create(true).read(true).append(true).open(path);
    let mut file = opened.map_err(&bad)?;
    // Another one that appends now would not be checked together with this one.
    file.lock().map_err(&bad)?;
    let appended = append_checked(&mut file, path, entry);
    if appended.is_err() && is_new {
        // It is empty, and of no use. The error to tell is the first one.
        let _ = std::fs::remove_file(path);
    }
    appended
}

fn append_checked(file: &mut File, path: &Path, entry: &str) -> Result<(), Error> {
    let bad = system("append to the file of identities");
    let mut text = String::new();
    let before = file.read_to_string(&mut text).map_err(&bad)? as u64;
    identity::check(path, &(text + entry)).map_err(|error| Error::Identities(error.to_string()))?;
    file.write_all(entry.as_bytes()).map_err(|error| {
        // Part of an entry would be a file that the coordinator refuses. The error to tell is the first one.
        let _ = file.set_len(before);
        bad(error)
    })
}

pub(super) fn run(args: Args) -> Result<ExitCode, Error> {
    let Command::New(NewArgs { name, roles, participants, file }) = args.command;
    if roles.contains(&Role::Participant) == participants.is_empty() {
        let rule = "use --role participant and --participant NAME alone: give both";
        return Err(Error::Identities(rule.to_owned()));
    }
    let mut random = [0; Token::RANDOM_BYTES];
    let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    let filled = filled.map_err(|error| system("draw random bytes")(error.into()))?;
    assert_eq!(filled, random.len(), "up to 256 bytes come at once");
    let token = Token::new(random);
    let list = |texts: Vec<String>| {
        texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ")
    };
    let roles = list(roles.iter().map(|role| role.name().to_owned()).collect());
    let mut entry = format!("\n[[identity]]\nname = \"{name}\"\nroles = [{roles}]\n");
    if !participants.is_empty() {
        let names = list(participants.iter().map(ToString::to_string).collect());
        entry.push_str(&format!("participants = [{names}]\n"));
    }
    entry.push_str(&format!("tokens = [\"{}\"]\n", token.hashed()));
    match file {
        Some(path) => append(&path, &entry)?,
        None => {
            output::note(&format!("add this to the coordinator's file of identities:\n{entry}"));
        }
    }
    output::print(&format!("{}\n", token.text()))?;
    Ok(ExitCode::SUCCESS)
}
