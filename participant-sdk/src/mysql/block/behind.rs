//! Statements of ours behind a handler: they tell whether its transaction is the one that it was given.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, MySql as Db, MySqlConnection};

use super::{FIND_PROOF, MySqlBlock};
use crate::barrier::{self, Behind, State};
use crate::mysql::ends::Ends;
use crate::mysql::error::{self, fault};
use crate::resource::{Fault, Local};

/// Attempts to go back to a savepoint.
const ATTEMPTS_MAX: usize = 10;

const GONE: &str = "it ended the local transaction that it was given, or went on after a deadlock";

impl MySqlBlock {
    /// Tells whether the savepoint of the transaction's beginning is gone. `None` tells that a statement which the handler has
    /// given up is in the way.
    pub(super) async fn proof_is_gone(&mut self) -> Option<bool> {
        let statement = format!("ROLLBACK TO SAVEPOINT {}", self.proof);
        let there = match self.undone(FIND_PROOF, &statement).await {
            Behind::Nothing(there) => there,
            Behind::GivenUp(there) => {
                self.is_given_up = true;
                there?
            }
            Behind::Elsewhere => return None,
        };
        Some(there.is_err_and(|fault| error::says_gone(&fault)))
    }

    /// Goes back to a savepoint.
    pub(super) async fn undone(
        &mut self,
        doing: &'static str,
        undo: &str,
    ) -> Behind<Result<(), Fault>> {
        self.guard.behind(undo, undone(&mut self.transaction, doing, undo)).await
    }

    /// Returns the fault of a handler that has left a statement at work, by the answer to one of ours behind it.
    pub(super) async fn given_up<T>(&mut self, behind: Behind<Result<T, Fault>>) -> Fault {
        self.is_given_up = true;
        match behind {
            Behind::Nothing(_) | Behind::GivenUp(Some(Ok(_))) => barrier::gave_up(),
            Behind::GivenUp(Some(Err(fault))) if error::says_gone(&fault) => self.gone().await,
            Behind::GivenUp(Some(Err(_))) => match self.proof_is_gone().await {
                Some(true) => self.gone().await,
                Some(false) => barrier::gave_up(),
                None => barrier::gave_up_unseen(),
            },
            Behind::GivenUp(None) | Behind::Elsewhere => barrier::gave_up_unseen(),
        }
    }

    /// Returns the fault of a handler whose transaction is gone. What has committed it, also implicitly, has committed
    /// the branch's row with it.
    pub(super) async fn gone(&mut self) -> Fault {
        match gone(&mut self.transaction, self.ends).await {
            Fault::Wrong(_) if self.is_committed().await => barrier::lost(),
            fault => fault,
        }
    }

    async fn is_committed(&mut self) -> bool {
        let Some((tx_id, branch_id)) = &self.key else { return false };
        // LOCK TABLES, which has committed, too, would keep the row from us.
        let _ = sqlx::raw_sql("UNLOCK TABLES").execute(&mut *self.transaction).await;
        let state = sqlx::query_scalar(AssertSqlSafe(Arc::clone(&self.statements.state)));
        let state = state.bind(tx_id).bind(branch_id).fetch_optional(&mut *self.transaction).await;
        let state: Option<String> = state.ok().flatten();
        state.as_deref() == Some(State::Running.as_str())
    }
}

/// Goes back to a savepoint. The first answers may be errors of statements before, whose futures the handler has dropped.
async fn undone(transaction: &mut Local<Db>, doing: &'static str, undo: &str) -> Result<(), Fault> {
    let mut attempt = 1;
    loop {
        let undone = sqlx::raw_sql(AssertSqlSafe(undo)).execute(&mut **transaction).await;
        match undone.map(drop).map_err(fault(doing)) {
            Err(fault) if attempt < ATTEMPTS_MAX && error::says_nothing_of_it(&fault) => {
                attempt += 1;
            }
            done => return done,
        }
    }
}

/// Returns the fault of a handler whose transaction is gone: the server may have ended it, as after a deadlock, and
/// then nothing is kept. A server that does not say so is not taken for one that has said it.
pub(in crate::mysql) async fn gone(
    connection: &mut MySqlConnection,
    before: Option<Ends>,
) -> Fault {
    let Some(before) = before else { return Fault::Wrong(GONE) };
    let mut may_have_kept = before.may_have_kept(connection).await;
    // The question may have been ended in place of a statement before.
    if may_have_kept.is_err() {
        may_have_kept = before.may_have_kept(connection).await;
    }
    if may_have_kept.unwrap_or(true) { barrier::lost() } else { Fault::Wrong(GONE) }
}
