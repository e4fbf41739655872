//! Calls that a participant must not take, and answers that it must not send.

use unanimo_proto::v1::{BranchContext, HeuristicKind, Payload, Refusal};
use uuid::Uuid;

use super::conditions::expect_prepared;
use super::{expect_done, votes};
use crate::session::{Branch, Operation, Session, Stop};
use crate::{End, Mode, Vote};

/// Most bytes of an output.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Most bytes of an output's media type.
const MEDIA_TYPE_BYTES_MAX: usize = 128;

/// Most bytes of a refusal's reason.
const REASON_BYTES_MAX: usize = 64;

/// Most characters of a status that are shown.
pub(super) const SHOWN_MAX: usize = 60;

/// Most bytes of a refusal's message.
const MESSAGE_BYTES_MAX: usize = 1024;

pub(super) async fn wrong_participant(session: Session) -> Result<(), Stop> {
    let mut branch = session.branch();
    branch.context.participant = "unanimo-check.nobody".to_owned();
    session.prepare_in_vain("Prepare under another participant's name", &branch).await?;
    // That one's database is another one, too: nothing is known of it here.
    for database_id in [String::new(), Uuid::now_v7().to_string()] {
        branch.context.database_id = database_id;
        session.cancel_in_vain("Cancel under another participant's name", &branch).await?;
        if session.options().mode != Mode::Saga {
            session.commit_in_vain("Commit under another participant's name", &branch).await?;
        }
    }
    Ok(())
}

/// The branch that has voted yes is here, and is told to end as if it were in another database of the name.
pub(super) async fn other_database(session: Session) -> Result<(), Stop> {
    let branch = session.prepared().await?;
    let Some(own) = session.database_id() else {
        let text = "its votes carry no database_id: two databases of its name are not told apart";
        return Err(Stop::Skipped(text.to_owned()));
    };
    let with = |branch: Branch, id: &str, place: &str| {
        let (database_id, database_place) = (id.to_owned(), place.to_owned());
        let context = BranchContext { database_id, database_place, ..branch.context };
        Branch { context, ..branch }
    };
    let other_id = Uuid::now_v7().to_string();
    // A coordinator names a place, too, if one was registered: it is another one then.
    for place in ["", "unanimo-check.elsewhere"] {
        let first = with(session.branch(), &other_id, place);
        session.prepare_in_vain("Prepare for another database", &first).await?;
        let other = with(branch.clone(), &other_id, place);
        session.cancel_in_vain("Cancel for another database", &other).await?;
        if session.options().mode == Mode::Saga {
            continue;
        }
        let end = session.commit(&other).await;
        let is_hazard = |end: &End| end.heuristic() == Some(HeuristicKind::Hazard);
        if !end.as_ref().is_ok_and(is_hazard) {
            // It may have done nothing here, where the branch is prepared still.
            session.cancel(&with(branch, &own, "")).await?;
            let answered = end?;
            let text = format!(
                "Commit for another database was answered {answered}, expected HEURISTIC_HAZARD"
            );
            return Err(Stop::Failed(text));
        }
    }
    let end = session.cancel(&with(branch, &own, "")).await?;
    expect_done(&end, "Cancel with its own database_id, behind those for another one,")
}

/// A participant that tells coordinators where its database is also looks at where a call's is, in each operation. One that looks at no
/// place answers this Prepare, and tells none.
pub(super) async fn other_place(session: Session) -> Result<(), Stop> {
    // It must be able to say yes.
    let able = session.prepared().await?;
    let end = session.cancel(&able).await?;
    expect_done(&end, "Cancel of a prepared branch")?;
    let branch = session.branch();
    if let Some(answer) = session.elsewhere(Operation::Prepare, &branch).await? {
        return Err(match session.elsewhere(Operation::Cancel, &branch).await? {
            Some(_) => Stop::Skipped(
                "it looks at no place: it must not register with a database_place".to_owned(),
            ),
            None => Stop::Failed(format!(
                "Prepare for another place of the database was answered {answer}, and its Cancel with an error \
                 status"
            )),
        });
    }
    let vote = session.prepare(&branch).await?;
    expect_prepared(&vote, "a Prepare behind one for another place of the database")?;
    for operation in [Operation::Commit, Operation::Cancel] {
        let is_sent = operation != Operation::Commit || session.options().mode != Mode::Saga;
        if is_sent && let Some(answer) = session.elsewhere(operation, &branch).await? {
            let text = format!(
                "{operation:?} for another place of the database was answered {answer}, expected an error status"
            );
            return Err(Stop::Failed(text));
        }
    }
    let again = session.prepare(&branch).await?;
    expect_prepared(&again, "a Prepare, sent again behind ends for another place,")?;
    let end = session.cancel(&branch).await?;
    expect_done(&end, "Cancel behind those for another place of the database")
}

pub(super) async fn malformed(session: Session) -> Result<(), Stop> {
    let good = session.branch();
    let with = |change: fn(&mut BranchContext)| {
        let mut branch = session.branch();
        change(&mut branch.context);
        branch
    };
    for (what, branch) in [
        // One without a context is a message's default.
        ("no context", Branch { context: BranchContext::default(), ..good }),
        ("an empty tx_id", with(|context| context.tx_id.clear())),
        ("a tx_id that is no UUID", with(|context| context.tx_id = "4711".to_owned())),
        ("an empty branch_id", with(|context| context.branch_id.clear())),
        ("a branch_id that begins with a dot", with(|context| context.branch_id.insert(0, '.'))),
        ("a branch_id with a slash", with(|context| context.branch_id = "a/b'c".to_owned())),
        ("branch_number 0", with(|context| context.branch_number = 0)),
        ("no mode", with(|context| context.mode = Mode::Unspecified.into())),
    ] {
        session.prepare_in_vain(&format!("Prepare with {what}"), &branch).await?;
    }
    Ok(())
}

pub(super) async fn limits(session: Session) -> Result<(), Stop> {
    let mut unknown = session.branch();
    unknown.action = votes::NO_ACTION.to_owned();
    check_vote(&session, session.prepare(&session.branch()).await?)?;
    // Another guarantee is about the vote of an unknown action that does not come.
    match session.prepare(&unknown).await {
        Ok(vote) => check_vote(&session, vote),
        Err(_) => Ok(()),
    }
}

fn check_vote(session: &Session, vote: Vote) -> Result<(), Stop> {
    match vote {
        Vote::Prepared(output) => check_output(&output, session.options().mode),
        Vote::Refused(refusal) => check_refusal(&refusal),
        Vote::ReadOnly => Ok(()),
    }
}

fn check_output(output: &Payload, mode: Mode) -> Result<(), Stop> {
    let bytes = output.data.len();
    let printable = output.media_type.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let trimmed = output.media_type.trim_matches(' ').len() == output.media_type.len();
    if output.media_type.len() > MEDIA_TYPE_BYTES_MAX || !printable || !trimmed {
        return Err(Stop::Failed(format!(
            "Prepare was answered with an output of media type {:?}, which is not at most \
             {MEDIA_TYPE_BYTES_MAX} bytes of printable ASCII without space at either end",
            output.media_type
        )));
    }
    if mode == Mode::TwoPhaseCommit && bytes > 0 {
        return Err(Stop::Failed(format!(
            "Prepare was answered with an output of {bytes} bytes; in two-phase commit it could not \
             be told again and must be empty"
        )));
    }
    if bytes > OUTPUT_BYTES_MAX {
        return Err(Stop::Failed(format!(
            "Prepare was answered with an output of {bytes} bytes, at most {OUTPUT_BYTES_MAX} are kept"
        )));
    }
    Ok(())
}

fn check_refusal(refusal: &Refusal) -> Result<(), Stop> {
    let Refusal { reason, message } = refusal;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    if !(1..=REASON_BYTES_MAX).contains(&reason.len()) || !reason.bytes().all(allowed) {
        return Err(Stop::Failed(format!(
            "Prepare was refused with reason {reason:?}, which is not 1 to {REASON_BYTES_MAX} bytes \
             of A-Z a-z 0-9 _ . : -"
        )));
    }
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(Stop::Failed(format!(
            "Prepare was refused with a message of {} bytes, at most {MESSAGE_BYTES_MAX} are kept",
            message.len()
        )));
    }
    Ok(())
}
