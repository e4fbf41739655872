//! Traces of a run: what it may have left at the participant, and what it has seen on its way.

use std::time::{Duration, Instant};

use tonic::Status;
use unanimo_proto::v1::CommitResponse;

use super::{Branch, End, PAUSE, Session, Stop, cancel, is_passing, prepare};
use crate::Vote;
use crate::answer::{self, Reply};

#[derive(Default)]
pub(super) struct Traces {
    /// Branches that a Prepare was sent for since they were told to end. Refused ones too: a twin of
    /// that Prepare may have been answered with yes.
    pub(super) open: Vec<Branch>,
    pub(super) committed: Vec<(String, String)>,
    pub(super) left_behind: Vec<String>,
    /// Id of the participant's database, as its votes carry it.
    pub(super) database_id: Option<String>,
    /// Something was answered, so that a participant is there.
    pub(super) has_answered: bool,
    /// Another kind of server listens at the endpoint.
    pub(super) no_participant: bool,
    /// Number of an attempt and its pause, of each WORKING.
    pauses: Vec<(u32, Duration)>,
    /// Largest status of the participant's, with its bytes as they travel.
    largest: Option<(usize, String)>,
}

impl Traces {
    /// Notes a status that the participant has sent. One that the client has made has a source.
    pub(super) fn saw(&mut self, status: Option<&Status>) {
        let Some(status) = status.filter(|status| std::error::Error::source(*status).is_none())
        else {
            return;
        };
        let bytes = bytes_on_the_wire(status);
        if self.largest.as_ref().is_none_or(|(largest, _)| bytes > *largest) {
            self.largest = Some((bytes, answer::status(status)));
        }
    }

    pub(super) fn waits(&mut self, attempt: u32, pause: Duration) {
        self.pauses.push((attempt, pause));
    }
}

impl Session {
    /// Reads the answer to a Commit, whatever it was sent for, and counts a branch that is committed by it.
    pub(super) fn committed(&self, branch: &Branch, response: CommitResponse) -> Reply<End> {
        let reply = answer::committed(response);
        if matches!(&reply, Reply::Answer(end) if end.is_commit()) {
            self.stays(branch);
        }
        reply
    }

    /// Counts a branch as committed.
    pub(super) fn stays(&self, branch: &Branch) {
        let mut traces = self.lock();
        if !traces.committed.contains(&branch.key()) {
            traces.committed.push(branch.key());
        }
    }

    /// Returns the largest error status that the participant has sent, with its bytes as they travel.
    #[must_use]
    pub fn largest_status(&self) -> Option<(usize, String)> {
        self.lock().largest.clone()
    }

    /// Returns the number of the attempt and the pause of each WORKING that was answered.
    #[must_use]
    pub fn pauses(&self) -> Vec<(u32, Duration)> {
        self.lock().pauses.clone()
    }

    /// Sends Prepare, or Cancel, until a reply arrives, and looks at nothing but its status.
    ///
    /// # Errors
    /// None arrives.
    pub async fn arrives(&self, branch: &Branch, is_cancel: bool) -> Result<(), Stop> {
        let started = Instant::now();
        loop {
            let sent = match is_cancel {
                true => {
                    let request = self.request(cancel(branch, 1));
                    self.within(self.inner.target.cancel(request)).await.map(drop)
                }
                false => {
                    let request = self.request(prepare(branch, 1));
                    self.within(self.inner.target.prepare(request)).await.map(|_| self.open(branch))
                }
            };
            let Some(status) = sent.err().filter(is_passing) else { return Ok(()) };
            if started.elapsed() > self.options().patience {
                let operation = if is_cancel { "Cancel" } else { "Prepare" };
                return Err(self.no_answer(operation, &answer::status(&status)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends Prepare once, as a later attempt. A vote is returned.
    ///
    /// # Errors
    /// It is answered with an error status, or not at all.
    pub async fn prepare_at(&self, branch: &Branch, attempt: u32) -> Result<Option<Vote>, Stop> {
        self.open(branch);
        let sent = self.within(self.inner.target.prepare(self.request(prepare(branch, attempt))));
        match sent.await.map(answer::vote) {
            Ok(Reply::Answer(vote)) => Ok(Some(vote)),
            Ok(Reply::Working(pause)) => {
                self.lock().waits(attempt, pause);
                Ok(None)
            }
            Ok(Reply::Nothing) => Err(self.no_answer("Prepare", "a reply without an answer")),
            Err(status) => Err(self.no_answer("Prepare", &answer::status(&status))),
        }
    }
}

/// Returns the bytes of a status: of its text percent-encoded, as gRPC sends it, and of its details in Base64.
fn bytes_on_the_wire(status: &Status) -> usize {
    let encoded = |byte: u8| if (b' '..=b'~').contains(&byte) && byte != b'%' { 1 } else { 3 };
    let text: usize = status.message().bytes().map(encoded).sum();
    text + status.details().len().div_ceil(3) * 4
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_status_is_as_large_as_it_travels() {
        for (text, details, bytes) in
            [("", 0, 0), ("no room", 0, 7), ("5 %", 0, 5), ("für", 0, 8), ("no", 3, 6), ("", 4, 8)]
        {
            let status = Status::with_details(Code::Internal, text, vec![0; details].into());
            assert_eq!(bytes_on_the_wire(&status), bytes, "{text} {details}");
        }
    }
}
