//! Bank by two-phase commit: plain work in a local transaction that PostgreSQL keeps prepared.

use unanimo_sdk::{Json, Participant, Postgres, refuse};

use crate::accounts::{self, Posting};

/// Makes the participant, with the actions `debit` and `credit`.
#[must_use]
pub fn bank(name: &str, database: Postgres) -> Participant<Postgres> {
    Participant::new(name, database)
        .two_phase_fn("debit", async |db, Json(debit): Json<Posting>| {
            debit.check()?;
            let take = "UPDATE account SET cents = cents - $2 WHERE id = $1 AND cents >= $2";
            match debit.post(db, take).await? {
                1 => Ok(()),
                _ if accounts::exists(db, &debit.account).await? => {
                    refuse("INSUFFICIENT_FUNDS", format!("{} has too little", debit.account))
                }
                _ => debit.no_account(),
            }
        })
        .two_phase_fn("credit", async |db, Json(credit): Json<Posting>| {
            credit.check()?;
            match credit.post(db, "UPDATE account SET cents = cents + $2 WHERE id = $1").await? {
                1 => Ok(()),
                _ => credit.no_account(),
            }
        })
}
