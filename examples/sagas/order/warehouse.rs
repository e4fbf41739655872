//! Warehouse: reserves pieces until the order is decided.

use sqlx::SqliteConnection;
use unanimo_sdk::{Call, Json, Participant, PhaseTwoError, PrepareError, Sqlite, Tcc, refuse};

use super::shop::Goods;
use crate::sagas::logbook;
use crate::sagas::rows::one_row;

pub(super) const TABLES: &str = "
CREATE TABLE stock (item text PRIMARY KEY, free integer NOT NULL CHECK (free >= 0),
                    reserved integer NOT NULL DEFAULT 0 CHECK (reserved >= 0),
                    sold integer NOT NULL DEFAULT 0);
INSERT INTO stock (item, free) VALUES ('lamp', 20), ('table', 5);";

pub(super) fn warehouse(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database).tcc("reserve", Reserve)
}

struct Reserve;

impl Tcc<Sqlite> for Reserve {
    type Payload = Json<Goods>;
    type Output = ();

    async fn try_(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Goods>>,
    ) -> Result<(), PrepareError> {
        let Goods { item, pieces } = &*call.payload;
        if *pieces < 1 {
            return refuse("BAD_ORDER", "pieces must be at least 1");
        }
        let reserve = "UPDATE stock SET free = free - $2, reserved = reserved + $2
                       WHERE item = $1 AND free >= $2";
        if change(db, reserve, call).await? == 0 {
            return refuse("SOLD_OUT", format!("there are not {pieces} of {item}"));
        }
        logbook::done(db, call, format!("reserved {pieces} x {item}")).await?;
        Ok(())
    }

    async fn confirm(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Goods>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        let sell = "UPDATE stock SET reserved = reserved - $2, sold = sold + $2
                    WHERE item = $1 AND reserved >= $2";
        one_row(change(db, sell, call).await?, reserved(call))?;
        logbook::confirmed(db, call, "took them out of the stock").await?;
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Goods>>,
        (): (),
    ) -> Result<(), PhaseTwoError> {
        let back = "UPDATE stock SET reserved = reserved - $2, free = free + $2
                    WHERE item = $1 AND reserved >= $2";
        one_row(change(db, back, call).await?, reserved(call))?;
        logbook::undone(db, call, "put them back").await?;
        Ok(())
    }
}

async fn change(
    db: &mut SqliteConnection,
    statement: &'static str,
    call: &Call<Json<Goods>>,
) -> sqlx::Result<u64> {
    let Goods { item, pieces } = &*call.payload;
    Ok(sqlx::query(statement).bind(item).bind(pieces).execute(db).await?.rows_affected())
}

/// Names the reservation, for an error.
fn reserved(call: &Call<Json<Goods>>) -> String {
    let Goods { item, pieces } = &*call.payload;
    format!("{pieces} x {item}, reserved")
}
