//! Replies that are no answers: their pauses and their sizes.

use std::time::Duration;

use super::{later, manners};
use crate::session::{Branch, Session, Stop};

/// Most bytes of an error status as it travels.
const STATUS_BYTES_MAX: usize = 1024;

/// Length of a text that a status must not repeat as a whole.
const LONG: usize = 4000;

/// Attempts whose pauses are compared. A pause that doubles is eight times as long.
const ATTEMPTS: [u32; 2] = [1, 4];

/// Time in which the slow work begins.
const BEGINS_WITHIN: Duration = Duration::from_millis(100);

pub(super) async fn status_size(session: Session) -> Result<(), Stop> {
    let long = |text: &str| text.repeat(LONG / text.len());
    for text in [long("nobody."), long("öäü")] {
        let with = |change: fn(&mut Branch, String)| {
            let mut branch = session.branch();
            change(&mut branch, text.clone());
            branch
        };
        for branch in [
            with(|branch, text| branch.context.participant = text),
            with(|branch, text| branch.context.tx_id = text),
            with(|branch, text| branch.context.branch_id = text + "/"),
        ] {
            session.arrives(&branch, false).await?;
        }
        let unknown = with(|branch, text| branch.phase_two_requires = vec![text]);
        session.arrives(&unknown, true).await?;
    }
    match session.largest_status() {
        Some((bytes, text)) if bytes > STATUS_BYTES_MAX => Err(Stop::Failed(format!(
            "an error status has {bytes} bytes, at most {STATUS_BYTES_MAX} are allowed: {}…",
            text.chars().take(manners::SHOWN_MAX).collect::<String>()
        ))),
        _ => Ok(()),
    }
}

pub(super) async fn working_grows(session: Session) -> Result<(), Stop> {
    let mut why = "no two calls of one branch, three attempts apart, were answered WORKING: give a slow payload \
                   (--slow-payload), whose work takes some seconds"
        .to_owned();
    if let Some(payload) = session.options().slow_payload.clone() {
        let slow = Branch { payload, ..session.branch() };
        let leave = session.options().patience;
        let first = {
            let (session, slow) = (session.clone(), slow.clone());
            tokio::spawn(async move { session.prepare_and_leave(&slow, leave).await })
        };
        later(BEGINS_WITHIN).await;
        let asked = session
            .at_once(ATTEMPTS.len(), |session, number| {
                let slow = slow.clone();
                async move { session.prepare_at(&slow, ATTEMPTS[number]).await }
            })
            .await;
        first.abort();
        if let Some(vote) = asked?.into_iter().flatten().next() {
            why = format!(
                "Prepare with the slow payload was answered {vote} before another call had to wait"
            );
        }
    }
    grown(&session.pauses(), why)
}

/// Compares pauses of attempts that lie apart. One that is not given is the coordinator's own, which grows.
fn grown(pauses: &[(u32, Duration)], why: String) -> Result<(), Stop> {
    let given = || pauses.iter().filter(|(_, pause)| !pause.is_zero());
    let mut are_compared = !pauses.is_empty() && given().count() == 0;
    for (early, first) in given() {
        for (late, last) in given() {
            if late.saturating_sub(*early) < ATTEMPTS[1] - ATTEMPTS[0] {
                continue;
            }
            are_compared = true;
            // From here on a pause may stay as it is.
            if last <= first && *first < LONGEST {
                return Err(Stop::Failed(format!(
                    "WORKING carried retry_after {first:?} at attempt {early} and {last:?} at attempt {late}"
                )));
            }
        }
    }
    if are_compared { Ok(()) } else { Err(Stop::Skipped(why)) }
}

/// Pause that need not grow any more.
const LONGEST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_that_lie_apart_are_compared() {
        let ms = |of: &[(u32, u64)]| -> Vec<_> {
            of.iter().map(|(attempt, ms)| (*attempt, Duration::from_millis(*ms))).collect()
        };
        for (pauses, is_grown) in [
            (ms(&[(1, 200), (4, 1600)]), Some(true)),
            (ms(&[(1, 200), (4, 200)]), Some(false)),
            (ms(&[(4, 190), (1, 200)]), Some(false)),
            (ms(&[(1, 30_000), (9, 30_000)]), Some(true)),
            (ms(&[(1, 0), (2, 0)]), Some(true)),
            (ms(&[(1, 200), (2, 200)]), None),
            (ms(&[]), None),
        ] {
            let found = match grown(&pauses, String::new()) {
                Ok(()) => Some(true),
                Err(Stop::Failed(_)) => Some(false),
                Err(Stop::Skipped(_)) => None,
            };
            assert_eq!(found, is_grown, "{pauses:?}");
        }
    }
}
