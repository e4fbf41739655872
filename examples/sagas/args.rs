//! Command line of the program `saga`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use super::{Example, order, pipeline, trip};

/// Runs an example of a saga, and shows what happened
///
/// Starts a coordinator in a process of its own, and the participants, each with an SQLite file of its own.
/// Without an option nothing fails and the saga is committed.
///
/// Exit codes: 0 nothing is half done, whether the saga is committed or aborted; 1 something is, or the run failed; 6 a
/// participant has ended otherwise than was decided; 7 nothing is half done, and an option's step was not reached, so that
/// nothing came of the option.
#[derive(Clone, Debug, Parser)]
#[command(name = "saga")]
pub struct Args {
    /// The example
    pub example: Name,
    /// The participant of this step refuses it
    #[arg(long, value_name = "STEP")]
    pub fail: Option<String>,
    /// The participant of this step does the work, and its answers are lost: each of them before the
    /// pivot, the first two of the pivot or a step after it
    #[arg(long, value_name = "STEP", conflicts_with = "fail")]
    pub hang: Option<String>,
    /// The coordinator is killed with -9 while this step is at work, and started again once it is done
    #[arg(long, value_name = "STEP")]
    pub kill_coordinator_at: Option<String>,
    /// Name of the transaction [default: the example's name]
    #[arg(long, value_name = "NAME")]
    pub gid: Option<String>,
    /// Folder for the databases, which is new or empty, and is kept [default: a temporary one]
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    /// Database of the coordinator, as `unanimo serve` takes it [default: an SQLite file in the folder]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// New file for the history of the transaction, for `unanimo replay`
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
}

/// Name of an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// A flight, a hotel and a car, or nothing; the payment is the pivot
    Trip,
    /// An order, its payment by two banks, and a parcel that takes a while
    Order,
    /// Ten steps, each made of what the steps before it have made
    Pipeline,
}

impl Name {
    /// Returns the example of this name.
    #[must_use]
    pub fn example(self) -> &'static Example {
        match self {
            Self::Trip => &trip::EXAMPLE,
            Self::Order => &order::EXAMPLE,
            Self::Pipeline => &pipeline::EXAMPLE,
        }
    }
}

impl Args {
    /// Returns each option that makes a fault, with the name of the step.
    pub(super) fn faults(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let options = [
            ("--fail", &self.fail),
            ("--hang", &self.hang),
            ("--kill-coordinator-at", &self.kill_coordinator_at),
        ];
        options.into_iter().filter_map(|(option, step)| Some((option, step.as_deref()?)))
    }

    /// Checks the names of steps, and that the file for the history is a new one.
    ///
    /// # Errors
    /// The option, and the step that does not exist or the file that does.
    pub fn check(&self) -> anyhow::Result<()> {
        let example = self.example.example();
        if let Some(file) = self.history.as_ref().filter(|file| file.exists()) {
            anyhow::bail!(
                "use --history {}: the file exists, and is not overwritten",
                file.display()
            );
        }
        for (option, step) in self.faults() {
            if example.step(step).is_none() {
                let children = example.children.iter().map(|(child, _)| *child);
                let names: Vec<_> =
                    example.steps.iter().map(|step| step.id).chain(children).collect();
                let names = names.join(", ");
                anyhow::bail!("use {option} {step}: the step must be one of {names}");
            }
        }
        Ok(())
    }
}
