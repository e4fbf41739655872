//! The servers of a database, and the one of them that sessions are opened with.
//!
//! One of several takes writes at a time. A server that was one of them, and comes back after a standby was promoted in
//! its place, takes writes as well, and looks sound: it is known by its timeline alone. Whoever has written on the promoted
//! one knows that timeline. Whoever does not know what has become of the servers asks all of them: before the first session,
//! and where none could be had. Later ones begin with the server that took writes last.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::address::Server;
use super::super::no_answer;
use super::error::is_other;
use super::{Connector, Session, SessionError, Shown};

/// Longest silence of one server after which the next one is tried beside it, or the others are taken for all.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);

/// Reason for which a server is not chosen.
const BEHIND: &str = "is on an earlier timeline than another host of the URL, so a standby was promoted in its place";

/// Knowledge of the servers.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// The server that took writes last: it is tried first.
    preferred: AtomicUsize,
    /// A session was opened, and none was asked for in vain since.
    is_made: AtomicBool,
}

/// Answer of one server.
#[derive(Debug)]
struct Answer {
    /// Nothing if it was not asked for, or did not say.
    shown: Option<Shown>,
    session: Result<Session, SessionError>,
}

/// Answers of the servers, in the order in which they are preferred.
type Answers = Vec<Option<Answer>>;

impl Connector {
    /// Opens a session on the server that takes writes.
    pub(in crate::store::postgres) async fn open(
        &self,
        patience: Duration,
    ) -> Result<Session, SessionError> {
        let (count, choice) = (self.servers.len(), &self.choice);
        let first = choice.preferred.load(Ordering::Relaxed);
        let asks_all = count > 1 && !choice.is_made.load(Ordering::Relaxed);
        let opened = match asks_all {
            true => self.ask_all(first, patience).await,
            false => self.race(first, patience).await,
        };
        let errors = match opened {
            Ok((index, mut session)) => {
                choice.preferred.store(index, Ordering::Relaxed);
                choice.is_made.store(true, Ordering::Relaxed);
                self.abandoned.end(&mut session.connection).await?;
                return Ok(session);
            }
            Err(errors) => errors,
        };
        choice.is_made.store(false, Ordering::Relaxed);
        Err(self.none_of(first, errors))
    }

    /// Makes one error of those of all servers.
    fn none_of(&self, first: usize, mut errors: Vec<SessionError>) -> SessionError {
        let count = self.servers.len();
        if count == 1 {
            return errors.swap_remove(0);
        }
        // Not if one of them does not answer: that may be ours. Before there is one that is ours, each is
        // told of.
        let is_unfit = |error: &SessionError| {
            is_other(error) || matches!(error, SessionError::NotWritable { .. })
        };
        if self.opened.is_some()
            && errors.iter().all(is_unfit)
            && let Some(other) = errors.iter().position(is_other)
        {
            return errors.swap_remove(other);
        }
        let name = |(index, error)| match error {
            SessionError::Driver(error) => {
                let server: &Server = &self.servers[(first + index) % count];
                format!("{}: {error}", server.name)
            }
            error => error.to_string(),
        };
        SessionError::NoServer(errors.into_iter().enumerate().map(name).collect())
    }

    /// Returns the longest silence of one server.
    fn silence(&self, patience: Duration) -> Duration {
        let parts = u32::try_from(self.servers.len() + 1).unwrap_or(u32::MAX);
        SILENCE_MAX.min(patience / parts)
    }

    /// Tries the servers one after the other, beginning with this one: the next one as soon as one has failed, or
    /// has said nothing for a moment. Returns the first that is good, or the error of each.
    async fn race(
        &self,
        first: usize,
        patience: Duration,
    ) -> Result<(usize, Session), Vec<SessionError>> {
        let (count, until) = (self.servers.len(), Instant::now() + patience);
        let silence = self.silence(patience);
        let mut errors: Vec<Option<SessionError>> = (0..count).map(|_| None).collect();
        let (mut attempts, mut begun, mut next_at) = (JoinSet::new(), 0, Instant::now());
        while begun < count || !attempts.is_empty() {
            if begun < count && (attempts.is_empty() || Instant::now() >= next_at) {
                let (this, place) = (self.clone(), begun);
                let index = (first + place) % count;
                attempts.spawn(async move { (place, this.open_one(index, until).await) });
                (begun, next_at) = (begun + 1, Instant::now() + silence);
                continue;
            }
            let ended = tokio::select! {
                Some(ended) = attempts.join_next() => ended,
                () = tokio::time::sleep_until(next_at), if begun < count => continue,
            };
            match ended {
                // The others close their connections with their tasks.
                Ok((place, Ok(session))) => return Ok(((first + place) % count, session)),
                Ok((place, Err(error))) => errors[place] = Some(error),
                Err(_) => {}
            }
            next_at = Instant::now();
        }
        Err(errors.into_iter().map(|error| error.unwrap_or_else(lost)).collect())
    }

    /// Asks all servers at once, and chooses among those that have answered in a moment. Where none of them will do, it
    /// waits for the others.
    async fn ask_all(
        &self,
        first: usize,
        patience: Duration,
    ) -> Result<(usize, Session), Vec<SessionError>> {
        let (count, started) = (self.servers.len(), Instant::now());
        let (until, silent_at) = (started + patience, started + self.silence(patience));
        let mut attempts = JoinSet::new();
        for place in 0..count {
            let (this, index) = (self.clone(), (first + place) % count);
            attempts.spawn(async move { (place, this.ask(index, until).await) });
        }
        let mut answers: Answers = (0..count).map(|_| None).collect();
        loop {
            let is_over = attempts.is_empty();
            if is_over || Instant::now() >= silent_at {
                if let Some((place, session)) = self.choose(&mut answers) {
                    return Ok(((first + place) % count, session));
                }
                if is_over {
                    break;
                }
            }
            tokio::select! {
                Some(ended) = attempts.join_next() => if let Ok((place, answer)) = ended {
                    answers[place] = Some(answer);
                },
                () = tokio::time::sleep_until(silent_at), if Instant::now() < silent_at => {}
            }
        }
        let error = |answer: Option<Answer>| match answer {
            Some(Answer { session: Err(error), .. }) => error,
            _ => lost(),
        };
        Err(answers.into_iter().map(error).collect())
    }

    /// Chooses the server on the latest timeline among those that take writes, and of several on one the first. Nothing if
    /// another one shows a later timeline than it has: then a standby was promoted in its place.
    fn choose(&self, answers: &mut Answers) -> Option<(usize, Session)> {
        while let Some(best) = latest(answers) {
            let chosen = shown(answers, best);
            let others = others(answers, best);
            let of_database = (0..answers.len()).map(|place| shown(answers, place));
            let of_database = of_database.filter(|shown| shown.may_be_of(&chosen));
            let latest = of_database.map(|shown| shown.timeline).max().unwrap_or(0);
            let Some(Answer { session: Ok(mut session), .. }) = answers[best].take() else { break };
            let compared = match &self.opened {
                _ if chosen.timeline != 0 && latest > chosen.timeline => {
                    Err(session.not_writable(BEHIND))
                }
                None => self.progress.begin(&mut session, &chosen),
                // It was compared when it was opened. Another one may have been found to be later since.
                Some(_) if !self.progress.is_current(&session) => Err(session.not_writable(BEHIND)),
                Some(_) => Ok(()),
            };
            match compared {
                Ok(()) => {
                    if !others.is_empty() {
                        tell_several(&session, &chosen, &others);
                    }
                    return Some((best, session));
                }
                Err(error) => {
                    answers[best] = Some(Answer { shown: Some(chosen), session: Err(error) });
                }
            }
        }
        None
    }

    /// Asks one server what it is, and opens a session there, until this time.
    async fn ask(&self, index: usize, until: Instant) -> Answer {
        let server = &self.servers[index];
        let mut shown = None;
        let opening = async {
            let mut connection = PgConnection::connect_with(&server.options).await?;
            shown = Some(Shown::of(&mut connection).await?);
            let opening = Session::on(connection, server, &self.settings, &self.abandoned);
            let mut session = opening.await?;
            self.compare_place(&mut session).await?;
            Ok(session)
        };
        let session = self.in_time(until, opening).await;
        Answer { shown, session }
    }

    /// Opens a session on one server, until this time.
    async fn open_one(&self, index: usize, until: Instant) -> Result<Session, SessionError> {
        let server = &self.servers[index];
        let opening = async {
            let mut connection = PgConnection::connect_with(&server.options).await?;
            let shown = match &self.opened {
                None => Some(Shown::of(&mut connection).await?),
                Some(_) => None,
            };
            let opening = Session::on(connection, server, &self.settings, &self.abandoned);
            let mut session = opening.await?;
            if let Some(shown) = shown {
                self.progress.begin(&mut session, &shown)?;
            }
            self.compare_place(&mut session).await?;
            Ok(session)
        };
        self.in_time(until, opening).await
    }

    async fn in_time(
        &self,
        until: Instant,
        opening: impl Future<Output = Result<Session, SessionError>>,
    ) -> Result<Session, SessionError> {
        let limit = self.connect_timeout.map(|limit| Instant::now() + limit);
        let until = limit.map_or(until, |limit| limit.min(until));
        let opened = tokio::time::timeout_at(until, opening).await;
        opened.unwrap_or_else(|_| Err(no_answer().into()))
    }
}

/// Returns what the server at a place has shown of itself.
fn shown(answers: &Answers, place: usize) -> Shown {
    let shown = answers[place].as_ref().and_then(|answer| answer.shown.clone());
    shown.unwrap_or_default()
}

/// Returns the session at a place, if the server there takes writes.
fn session(answers: &Answers, place: usize) -> Option<&Session> {
    answers[place].as_ref()?.session.as_ref().ok()
}

/// Returns the place of the server that takes writes on the latest timeline, among those of the database of the first one.
fn latest(answers: &Answers) -> Option<usize> {
    let mut writable = (0..answers.len()).filter(|place| session(answers, *place).is_some());
    let first = writable.next()?;
    let of_first = shown(answers, first);
    let others = writable.filter(|place| shown(answers, *place).may_be_of(&of_first));
    // Of several the first.
    Some(others.fold(first, |best, place| {
        match shown(answers, place).timeline > shown(answers, best).timeline {
            true => place,
            false => best,
        }
    }))
}

/// Names the other servers of the database that take writes.
fn others(answers: &Answers, chosen: usize) -> Vec<String> {
    let of_chosen = shown(answers, chosen);
    let others = (0..answers.len()).filter(|place| *place != chosen);
    let others = others.filter(|place| shown(answers, *place).is_another_of(&of_chosen));
    others.filter_map(|place| Some(session(answers, place)?.server().to_owned())).collect()
}

/// Makes the error of an attempt that has ended without a word.
fn lost() -> SessionError {
    SessionError::Driver(sqlx::Error::WorkerCrashed)
}

/// Tells that several servers take writes, of which one may.
fn tell_several(session: &Session, chosen: &Shown, others: &[String]) {
    tracing::error!(
        server = session.server(),
        timeline = chosen.timeline,
        others = others.join(", "),
        "several servers of the database take writes, and the one on the latest timeline is used: stop the others, or make \
         standbys of them, because what somebody writes there is lost"
    );
}
