//! Findings.

use std::fmt;

use unanimo_conformance::{Checked, Verdict};

/// Findings, in words.
#[derive(Clone, Debug)]
pub struct Report {
    /// The action.
    pub action: String,
    /// Results of the checks of the handlers' effects.
    pub handler: Vec<Checked>,
    /// Results of the checks of the participant's answers; nothing if the handlers do not get through once.
    pub protocol: Option<unanimo_conformance::Report>,
    /// Worth knowing, and no fault.
    pub notes: Vec<String>,
}

impl Report {
    /// Tells whether every guarantee holds that could be checked, and the payload was accepted.
    #[must_use]
    pub fn passed(&self) -> bool {
        let failed = |checked: &Checked| matches!(checked.verdict, Verdict::Failed(_));
        !self.handler.iter().any(failed)
            && self.protocol.as_ref().is_some_and(unanimo_conformance::Report::passed)
    }

    /// Name and words of what does not hold.
    #[must_use]
    pub fn failed(&self) -> Vec<(&'static str, &str)> {
        let protocol = self.protocol.iter().flat_map(|report| &report.checked);
        let failed =
            self.handler.iter().chain(protocol).filter_map(|checked| match &checked.verdict {
                Verdict::Failed(seen) => Some((checked.guarantee, seen.as_str())),
                Verdict::Passed | Verdict::Skipped(_) => None,
            });
        failed.collect()
    }

    /// Prints everything to standard error, which tests show where they fail.
    ///
    /// # Panics
    /// A guarantee is broken, or the action refuses the payload.
    #[track_caller]
    pub fn assert_passed(&self) {
        eprintln!("{self}");
        let broken: Vec<_> = self.failed().into_iter().map(|(name, _)| name).collect();
        assert!(self.passed(), "action {} breaks {broken:?}:\n{self}", self.action);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "handlers of action {}:", self.action)?;
        for checked in &self.handler {
            writeln!(f, "{checked}")?;
        }
        for note in &self.notes {
            writeln!(f, "note     {note}")?;
        }
        if let Some(protocol) = &self.protocol {
            write!(f, "answers of participant {}:\n{protocol}", protocol.participant)?;
        }
        Ok(())
    }
}
