//! A database whose last commits are gone: a standby was promoted that had not received them yet, or a backup was
//! restored. Branches of which a row is left are in doubt, or a hazard, and so are told. Of a branch that had
//! ended nothing is left here, and the coordinator sends nothing for it any more: only who compares finds it.
//!
//! 1. Each sweep reads the history of the server, and notes it beside the barrier.
//! 2. Another one than this process has seen, or than was noted, raises the alarm `database_promoted`. So does one
//!    that went back: a snapshot of a volume that is put back, or a dump that is read again on the same server, has
//!    the same history, and less of it than this process has seen.
//! 3. One coordinator of each group is asked for the transactions that had not ended long before, and each branch
//!    of this participant whose effect must be here, and that has no row, raises the alarm `branch_lost`.
//! 4. When every group that has rows here has been asked the new history is noted. Until then a process that is
//!    started again tells all of it again. Coordinators that did not answer are asked for a day.
//!
//! Each process of a participant does so by itself: one that was still at the former server knows best.

mod losses;
mod seen;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tonic::{Code, Status};

use self::losses::{NotCompared, tell_compared};
use self::seen::Known;
pub(super) use self::seen::Seen;
use super::pass::Pass;
use crate::causes::status_in_full;
use crate::doubt::{GroupRows, Histories, History};
use crate::resource::{Fault, Resource};

/// Time before the end of what is here from which on transactions are compared that have ended since, by their
/// beginning. Those that have not ended are compared whatever their age.
const LOOK_BACK: Duration = Duration::from_secs(60 * 60);

/// Pause before a coordinator that has not answered is asked again.
const AGAIN: Duration = Duration::from_secs(60);

/// Time for which coordinators that do not answer are asked again.
const ASKED_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Pause before it is told again that histories cannot be read, or that the database is on a server where it was
/// before.
const TELL_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Change that is told, and that some coordinator is still to be asked about.
#[derive(Clone, Debug)]
struct Told {
    of: History,
    at: Instant,
    /// Time up to which nothing is missing.
    kept_until: SystemTime,
    compared: BTreeSet<String>,
    again_at: Instant,
    /// Every group that has rows here was asked, and the history is noted.
    is_noted: bool,
}

/// Coordinators that have told what is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// One of each group that has rows here.
    Enough,
    NotEnough,
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
            let seen = self.seen.histories.get(&name).copied();
            let is_back = seen.is_some_and(|seen| seen.is_ahead_of(&read));
            let is_open = self.seen.told.get(&name).is_some_and(|told| told.of == present);
            let known = seen.map(|seen| seen.history).or(noted);
            if let Some(known) = known.filter(|known| *known != present || is_back || is_open)
                && self.tell_lost_commits(&name, (known, is_back), &read).await? == Heard::NotEnough
            {
                continue;
            }
            if noted != Some(present) || !is_fresh {
                match service.queried(resource.note_history(&name, present)).await {
                    Ok(()) => {}
                    Err(fault @ Fault::Definite { .. }) => self.tell_blind(&fault),
                    Err(fault) => return Err(fault),
                }
            }
            self.seen.histories.insert(name, Known::of(&read));
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
             unanimo_barrier_timeline, and on PostgreSQL EXECUTE on pg_control_system(), pg_current_wal_lsn(), \
             pg_current_wal_flush_lsn() and pg_walfile_name()"
        );
    }

    /// Tells that the history is another one, or that it went back, and what is lost.
    async fn tell_lost_commits(
        &mut self,
        name: &str,
        (known, is_back): (History, bool),
        read: &Histories,
    ) -> Result<Heard, Fault> {
        let to = read.present;
        let mut told = match self.seen.told.get(name) {
            // One that goes back again is told again.
            Some(told) if told.of == to && !(is_back && told.is_noted) => told.clone(),
            _ => {
                let kept_until = kept_until(known, read, SystemTime::now());
                if self.seen.is_to_be_raised(name, to, is_back, Instant::now()) {
                    tell_promoted(name, known, to, kept_until);
                } else {
                    tell_alternating(name, known, to, kept_until);
                }
                let (at, compared) = (Instant::now(), BTreeSet::new());
                Told { of: to, at, kept_until, compared, again_at: at, is_noted: false }
            }
        };
        // Before anything is asked: a driver may panic.
        self.seen.told.insert(name.to_owned(), told.clone());
        let mut is_all = Ok(false);
        if Instant::now() >= told.again_at {
            is_all = self.ask_for_losses(name, &mut told).await;
        }
        let heard = if told.is_noted { Heard::Enough } else { Heard::NotEnough };
        if matches!(is_all, Ok(true)) {
            self.seen.told.remove(name);
        } else {
            self.seen.told.insert(name.to_owned(), told);
        }
        is_all.map(|_| heard)
    }

    /// Asks one coordinator of each group that was not compared yet. `true` once nobody is to be asked any more.
    async fn ask_for_losses(&mut self, name: &str, told: &mut Told) -> Result<bool, Fault> {
        let (groups, mut silent) = self.inquirer.groups().await;
        for (cluster_id, group) in groups {
            if told.compared.contains(&cluster_id) {
                continue;
            }
            let coordinator = group.coordinator.clone();
            match self.compare(name, &cluster_id, group, told.kept_until).await {
                Ok(result) => tell_compared(name, &cluster_id, &result),
                Err(NotCompared::Coordinator(status)) => {
                    let is_final = is_final(status.code());
                    tell_not_compared(name, &coordinator, &status, is_final);
                    if !is_final {
                        silent.push(coordinator);
                        continue;
                    }
                }
                Err(NotCompared::Database(fault)) => return Err(fault),
            }
            told.compared.insert(cluster_id);
        }
        let service = self.service.clone();
        let here = service.queried(service.inner.resource.group_rows(name)).await?;
        let is_compared = |rows: &GroupRows| told.compared.contains(&rows.cluster_id);
        let has_each = !told.compared.is_empty() && here.iter().all(is_compared);
        let is_over = silent.is_empty() || told.at.elapsed() >= ASKED_FOR;
        if !silent.is_empty() {
            let silent = silent.join(", ");
            tell_silent(name, &silent, is_over || (has_each && !told.is_noted));
        }
        told.again_at = Instant::now() + AGAIN;
        told.is_noted |= has_each || is_over;
        Ok(is_over)
    }
}

/// Returns the time up to which nothing is missing, as far as it is known.
fn kept_until(known: History, read: &Histories, now: SystemTime) -> SystemTime {
    if known == read.present {
        // It went back to the time of the note that is here.
        return read.noted_at.unwrap_or(now - LOOK_BACK).min(now);
    }
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

/// Servers that take writes in turn, such as two of which a proxy takes now the one and now the other, would raise the
/// alarm at each turn. What is lost is compared each time all the same.
fn tell_alternating(participant: &str, known: History, to: History, kept_until: SystemTime) {
    let kept_until = prost_types::Timestamp::from(kept_until);
    tracing::warn!(
        participant,
        from_timeline = known.timeline,
        to_timeline = to.timeline,
        from_system = known.system,
        to_system = to.system,
        %kept_until,
        "this participant's database is back on a server that was told within the hour: several servers take its \
         writes in turn. What was committed after `kept_until` may be missing, and raises `branch_lost`; for a list of \
         all: unanimo tx list --participant {participant} --since {kept_until}"
    );
}

fn tell_silent(participant: &str, silent: &str, is_alarm: bool) {
    if is_alarm {
        tracing::error!(
            alarm = "losses_not_known",
            participant,
            silent,
            "coordinators did not say which branches this database should have. If one of them is of a group that \
             no other one has spoken for: compare by hand, with `unanimo tx list --participant`. They are asked \
             again for a day"
        );
    } else {
        tracing::warn!(
            participant,
            silent,
            "not every coordinator has said which branches are lost; they are asked again"
        );
    }
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
            let (written, is_fresh) = (0, false);
            let read =
                Histories { present: new, noted, is_fresh, noted_at, written, replayed_until };
            assert_eq!(kept_until(old, &read, now), expected, "{read:?}");
        }
    }

    #[test]
    fn what_a_history_that_went_back_lacks_is_counted_from_the_note_that_is_left() {
        let at = |s: u64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        let history = History { system: 7, timeline: 1 };
        let back = Histories {
            present: history,
            noted: Some(history),
            is_fresh: false,
            noted_at: at(900),
            written: 900,
            // By a promotion long before.
            replayed_until: at(9_999),
        };
        assert_eq!(Some(kept_until(history, &back, SystemTime::now())), at(900));
    }
}
