//! Bank by try, confirm, cancel: a debit holds the money first, a credit announces it.

use unanimo_sdk::{Json, Participant, Postgres, refuse};

use crate::accounts::{self, Posting};

/// Makes the participant, with the actions `debit` and `credit`.
#[must_use]
pub fn bank(name: &str, database: Postgres) -> Participant<Postgres> {
    Participant::new(name, database)
        .tcc_fn("debit", async |db, Json(debit): Json<Posting>| {
            debit.check()?;
            let hold = "UPDATE account SET cents = cents - $2, held = held + $2
                        WHERE id = $1 AND cents >= $2";
            match debit.post(db, hold).await? {
                1 => Ok(()),
                _ if accounts::exists(db, &debit.account).await? => {
                    refuse("INSUFFICIENT_FUNDS", format!("{} has too little", debit.account))
                }
                _ => debit.no_account(),
            }
        })
        .confirm(async |db, Json(debit)| {
            let pay = "UPDATE account SET held = held - $2 WHERE id = $1 AND held >= $2";
            debit.finish(db, pay).await
        })
        .cancel(async |db, Json(debit)| {
            let release = "UPDATE account SET cents = cents + $2, held = held - $2
                           WHERE id = $1 AND held >= $2";
            debit.finish(db, release).await
        })
        .tcc_fn("credit", async |db, Json(credit): Json<Posting>| {
            credit.check()?;
            let announce = "UPDATE account SET incoming = incoming + $2 WHERE id = $1";
            match credit.post(db, announce).await? {
                1 => Ok(()),
                _ => credit.no_account(),
            }
        })
        .confirm(async |db, Json(credit)| {
            let arrive = "UPDATE account SET cents = cents + $2, incoming = incoming - $2
                          WHERE id = $1 AND incoming >= $2";
            credit.finish(db, arrive).await
        })
        .cancel(async |db, Json(credit)| {
            let withdraw =
                "UPDATE account SET incoming = incoming - $2 WHERE id = $1 AND incoming >= $2";
            credit.finish(db, withdraw).await
        })
}
