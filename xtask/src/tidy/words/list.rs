//! Words that were replaced, and the words to write instead. The glossary in ARCHITECTURE.md
//! explains the words in use.

/// Sequence of words that is not used any more.
#[derive(Debug)]
pub(super) struct Banned {
    pub(super) what: Sequence,
    pub(super) instead: &'static str,
    /// Folders and files to which the entry applies; none means all.
    pub(super) within: &'static [&'static str],
    /// Folders and files that may use it.
    pub(super) except: &'static [&'static str],
}

/// Words in a row, in lower case.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sequence {
    /// Words in names, comments, strings and pages.
    Word(&'static [&'static str]),
    /// Words in names only: `["take", "over"]` is in `take_over` and in `TakeOver`.
    Name(&'static [&'static str]),
    /// Words in comments, strings and pages only.
    Prose(&'static [&'static str]),
    /// Text of code.
    Code(&'static str),
}

impl std::fmt::Display for Sequence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(words) | Self::Name(words) => write!(f, "\"{}\"", words.join(" ")),
            Self::Prose(words) => write!(f, "\"{}\" in a sentence", words.join(" ")),
            Self::Code(code) => write!(f, "`{code}`"),
        }
    }
}

const fn everywhere(what: Sequence, instead: &'static str) -> Banned {
    Banned { what, instead, within: &[], except: &[] }
}

const fn within(folders: &'static [&'static str], what: Sequence, instead: &'static str) -> Banned {
    Banned { what, instead, within: folders, except: &[] }
}

const fn except(folders: &'static [&'static str], what: Sequence, instead: &'static str) -> Banned {
    Banned { what, instead, within: &[], except: folders }
}

use Sequence::{Code, Name, Prose, Word};

const COMPLETE: &str =
    "complete (a journal's write), clear (an alarm), is_durable (an engine's write)";
const PHASE_TWO: &str = "PhaseTwo…, phase_two_…";
const ENDED: &str = "ended (every branch of a transaction has)";
const ADOPT: &str = "adopt, adoption";
/// Folder in which nothing but a transaction ends.
const CORE: &[&str] = &["coordinator/core"];
const COORDINATOR: &[&str] = &["coordinator"];
/// Places that speak of the chores of `cargo xtask`.
const CHORES: &[&str] = &["xtask", "Cargo.toml", "CONTRIBUTING.md", "ARCHITECTURE.md"];

pub(super) const LIST: &[Banned] = &[
    everywhere(Word(&["settle"]), COMPLETE),
    everywhere(Word(&["settles"]), COMPLETE),
    everywhere(Word(&["settled"]), COMPLETE),
    everywhere(Word(&["settling"]), COMPLETE),
    everywhere(Word(&["unsettled"]), COMPLETE),
    everywhere(Name(&["finish", "operation"]), PHASE_TWO),
    everywhere(Name(&["finish", "answer"]), PHASE_TWO),
    everywhere(Name(&["finish", "answered"]), PHASE_TWO),
    within(CORE, Code("Finish"), PHASE_TWO),
    within(CORE, Name(&["finish", "call"]), PHASE_TWO),
    within(COORDINATOR, Name(&["finish", "backoff"]), PHASE_TWO),
    within(COORDINATOR, Name(&["finish", "attempts"]), PHASE_TWO),
    everywhere(Code("Until::Finished"), ENDED),
    everywhere(Name(&["wait", "for", "finished"]), ENDED),
    within(CORE, Name(&["finished"]), ENDED),
    everywhere(Code("Written::Taken"), "Written::GidHeld"),
    everywhere(Word(&["takeover"]), ADOPT),
    everywhere(Word(&["take", "over"]), ADOPT),
    everywhere(Word(&["takes", "over"]), ADOPT),
    everywhere(Word(&["taken", "over"]), ADOPT),
    everywhere(Word(&["taking", "over"]), ADOPT),
    everywhere(Word(&["took", "over"]), ADOPT),
    everywhere(Prose(&["taken", "back"]), "rolled back, undone"),
    everywhere(Prose(&["takes", "back"]), "rolls back, undoes"),
    everywhere(Code("RESOLUTION_UNKNOWN"), "RESOLUTION_HAZARD"),
    everywhere(Code("Resolution::Unknown"), "Resolution::Hazard"),
    everywhere(
        Code("branch: BranchNumber"),
        "`number` or `branch_number`: a `branch` is a `Branch`",
    ),
    everywhere(Name(&["bear"]), "create"),
    everywhere(Word(&["born"]), "created"),
    everywhere(Word(&["census"]), "incarnations"),
    everywhere(Code("Living"), "LiveIncarnation"),
    within(COORDINATOR, Word(&["chore"]), "maintenance"),
    except(CHORES, Word(&["chores"]), "maintenance"),
    everywhere(Prose(&["died", "of"]), "plain words: failed with"),
    everywhere(Prose(&["dear"]), "plain words: expensive"),
];
