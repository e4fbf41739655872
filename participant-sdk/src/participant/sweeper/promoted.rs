//! A database whose last commits are gone: a standby was promoted that had not received them yet, or a backup was
//! restored. Branches of which a row is left are in doubt, or a hazard, and so are told. Of a branch that had
//! ended nothing is left here, and the coordinator sends nothing for it any more: only who compares finds it.
//!
//! 1. Each sweep reads the history of the server, and notes it beside the barrier.
//! 2. Another one than this process has seen, or than was noted, raises the alarm `database_promoted`.
//! 3. One coordinator of each group is asked for the transactions that had not ended long before, and each branch
//!    of this participant whose effect must be here, and that has no row, raises the alarm `branch_lost`.
//! 4. When every group has been asked the new history is noted. Until then a process that is started again tells
//!    all of it again.
//!
//! Each process of a participant does so by itself: one that was still at the former server knows best.

mod losses;

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::{Code, Status};

use self::losses::{NotCompared, tell_compared};
use super::pass::Pass;
use crate::causes::status_in_full;
use crate::doubt::{Histories, History};
use crate::resource::{Fault, Resource};

/// Time before the end of what is here from which on transactions are compared that have ended since, by their
/// beginning. Those that have not ended are compared whatever their age.
const LOOK_BACK: Duration = Duration::from_secs(60 * 60);

/// Pause before a coordinator that has not answered is asked again.
const AGAIN: Duration = Duration::from_secs(60);

/// Pause before it is told again that histories cannot be read.
const TELL_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Histories that the sweeper has seen, by the participant's name.
#[derive(Debug, Default)]
pub(super) struct Seen {
    histories: HashMap<String, History>,
    /// Changes that are told, and not compared with every group yet.
    told: HashMap<String, Told>,
    /// Time at which it was said that nothing can be seen.
    blind_at: Option<Instant>,
}

#[derive(Debug)]
struct Told {
    of: History,
    compared: BTreeSet<String>,
    again_at: Instant,
}

impl<R: Resource> Pass<R> {
    /// Compares the server's history with the one before, and tells what is lost where it is another one.
    pub(super) async fn check_history(&mut self) -> Result<(), Fault> {
        for name in self.names.clone() {
            let service = self.service.clone();
            let resource = &service.inner.resource;
            let read = match service.queried(resource.histories(&name)).await {
                Ok(Some(histories)) => histories,
                Ok(None) => return Ok(()),
                Err(fault @ Fault::Definite { .. }) => {
                    self.tell_blind(&fault);
                    return Ok(());
                }
                Err(fault) => return Err(fault),
            };
            let Histories { present, noted, is_fresh, .. } = read;
            let known = self.seen.histories.get(&name).copied().or(noted);
            if let Some(known) = known.filter(|known| *known != present)
                && !self.is_told(&name, known, &read).await?
            {
                continue;
            }
            self.seen.told.remove(&name);
            if noted != Some(present) || !is_fresh {
                match service.queried(resource.note_history(&name, present)).await {
                    Ok(()) => {}
                    Err(fault @ Fault::Definite { .. }) => self.tell_blind(&fault),
                    Err(fault) => return Err(fault),
                }
            }
            self.seen.histories.insert(name, present);
        }
        Ok(())
    }

    fn tell_blind(&mut self, fault: &Fault) {
        if self.seen.blind_at.is_some_and(|at| at.elapsed() < TELL_PAUSE) {
            return;
        }
        self.seen.blind_at = Some(Instant::now());
        tracing::warn!(
            participant = self.service.participant(),
            error = %fault,
            "the promotion of a standby of this database will not be noticed: allow SELECT, INSERT and UPDATE on \
             unanimo_barrier_timeline, and EXECUTE on pg_control_system(), pg_current_wal_lsn() and pg_walfile_name()"
        );
    }

    /// Tells that the history is another one, and what is lost. `true` once every group was asked.
    async fn is_told(
        &mut self,
        name: &str,
        known: History,
        read: &Histories,
    ) -> Result<bool, Fault> {
        let to = read.present;
        let kept_until = kept_until(read, SystemTime::now());
        let told = match self.seen.told.remove(name) {
            Some(told) if told.of == to => told,
            _ => {
                tell_promoted(name, known, to, kept_until);
                Told { of: to, compared: BTreeSet::new(), again_at: Instant::now() }
            }
        };
        let Told { of, mut compared, again_at } = told;
        if Instant::now() < again_at {
            self.seen.told.insert(name.to_owned(), Told { of, compared, again_at });
            return Ok(false);
        }
        let (groups, silent) = self.inquirer.groups().await;
        let mut is_complete = silent.is_empty();
        for (cluster_id, group) in groups {
            if compared.contains(&cluster_id) {
                continue;
            }
            let coordinator = group.coordinator.clone();
            match self.compare(name, &cluster_id, group, kept_until).await {
                Ok(result) => {
                    tell_compared(name, &cluster_id, &result);
                    compared.insert(cluster_id);
                }
                Err(NotCompared::Coordinator(status)) => {
                    let is_final = is_final(status.code());
                    tell_not_compared(name, &coordinator, &status, is_final);
                    is_complete &= is_final;
                    if is_final {
                        compared.insert(cluster_id);
                    }
                }
                Err(NotCompared::Database(fault)) => {
                    let again_at = Instant::now();
                    self.seen.told.insert(name.to_owned(), Told { of, compared, again_at });
                    return Err(fault);
                }
            }
        }
        if !is_complete {
            tracing::warn!(
                participant = name,
                silent = silent.join(", "),
                "not every coordinator has said which branches are lost; they are asked again"
            );
            let again_at = Instant::now() + AGAIN;
            self.seen.told.insert(name.to_owned(), Told { of, compared, again_at });
        }
        Ok(is_complete)
    }
}

/// Returns the time up to which nothing is missing, as far as it is known.
fn kept_until(read: &Histories, now: SystemTime) -> SystemTime {
    // Where it is noted already, another process has done so, and not at the end of the former history.
    let noted = read.noted_at.filter(|_| read.noted != Some(read.present));
    read.replayed_until.or(noted).unwrap_or(now - LOOK_BACK).min(now)
}

/// Tells whether a coordinator, or who guards it, will say the same again.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

fn tell_promoted(participant: &str, known: History, to: History, kept_until: SystemTime) {
    let kept_until = prost_types::Timestamp::from(kept_until);
    tracing::error!(
        alarm = "database_promoted",
        participant,
        from_timeline = known.timeline,
        to_timeline = to.timeline,
        from_system = known.system,
        to_system = to.system,
        %kept_until,
        "this participant's database has another history than before: a standby was promoted, or a backup was \
         restored. What was committed after `kept_until` may be missing. The coordinators are asked now which \
         branches are, and each raises `branch_lost`; for a list of all: unanimo tx list --participant \
         {participant} --since {kept_until}"
    );
}

fn tell_not_compared(participant: &str, coordinator: &str, status: &Status, is_final: bool) {
    let error = status_in_full(status);
    if is_final {
        tracing::error!(
            alarm = "losses_not_known",
            participant,
            coordinator,
            error,
            "the coordinator does not say which branches this database should have: compare by hand, with \
             `unanimo tx list --participant`"
        );
    } else {
        tracing::warn!(
            participant,
            coordinator,
            error,
            "the coordinator did not say which branches this database should have; it is asked again"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_was_replayed_or_else_what_was_noted_before() {
        let at = |s: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        let [old, new] = [1, 2].map(|timeline| History { system: 7, timeline });
        let now = at(100_000);
        for (noted, noted_at, replayed_until, expected) in [
            (Some(old), Some(10), Some(20), at(20)),
            (Some(old), Some(10), None, at(10)),
            // By another process, once it had compared.
            (Some(new), Some(90_000), Some(20), at(20)),
            (Some(new), Some(90_000), None, now - LOOK_BACK),
            (None, None, None, now - LOOK_BACK),
            // A clock that is ahead.
            (Some(old), Some(10), Some(200_000), now),
        ] {
            let (noted_at, replayed_until) = (noted_at.map(at), replayed_until.map(at));
            let read = Histories { present: new, noted, is_fresh: false, noted_at, replayed_until };
            assert_eq!(kept_until(&read, now), expected, "{read:?}");
        }
    }
}
