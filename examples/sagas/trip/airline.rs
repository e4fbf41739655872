//! Airline: holds a seat until the trip is decided, and prints the ticket.

use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use unanimo_sdk::{
    Call, Json, Participant, PhaseTwoError, PrepareError, Sqlite, Tcc, Uncompensated, refuse,
};

use super::bank::Receipt;
use crate::sagas::logbook;
use crate::sagas::rows::one_row;

pub(super) const TABLES: &str = "
CREATE TABLE seat (number text PRIMARY KEY, cents integer NOT NULL, traveller text,
                   state text NOT NULL CHECK (state IN ('free', 'held', 'sold')));
INSERT INTO seat (number, cents, state) VALUES ('12A', 9000, 'free'), ('12B', 9000, 'free');
CREATE TABLE ticket (id integer PRIMARY KEY, seat text NOT NULL UNIQUE, payment integer NOT NULL);
CREATE TABLE printer (sheets integer NOT NULL CHECK (sheets >= 0));
INSERT INTO printer VALUES (10);";

pub(super) fn airline(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database).tcc("hold-seat", HoldSeat).uncompensated("print-ticket", Print)
}

/// Payload of `hold-seat`.
#[derive(Debug, Deserialize)]
pub(super) struct Traveller {
    traveller: String,
}

/// Output of `hold-seat`: later steps read it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seat {
    pub(super) number: String,
    pub(super) cents: i64,
}

struct HoldSeat;

impl Tcc<Sqlite> for HoldSeat {
    type Payload = Json<Traveller>;
    type Output = Json<Seat>;

    async fn try_(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Traveller>>,
    ) -> Result<Json<Seat>, PrepareError> {
        let hold = "UPDATE seat SET state = 'held', traveller = $1
                    WHERE number = (SELECT min(number) FROM seat WHERE state = 'free')
                    RETURNING number, cents";
        let hold = sqlx::query_as(hold).bind(&call.payload.traveller);
        let Some((number, cents)) = hold.fetch_optional(&mut *db).await? else {
            return refuse("NO_SEAT", "every seat is taken");
        };
        logbook::done(db, call, format!("held seat {number}")).await?;
        Ok(Json(Seat { number, cents }))
    }

    async fn confirm(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Traveller>>,
        Json(seat): Json<Seat>,
    ) -> Result<(), PhaseTwoError> {
        let sell = "UPDATE seat SET state = 'sold'
                    WHERE number = $1 AND state = 'held' AND traveller = $2";
        let sold = sqlx::query(sell).bind(&seat.number).bind(&call.payload.traveller);
        one_row(sold.execute(&mut *db).await?.rows_affected(), held(&seat))?;
        logbook::confirmed(db, call, format!("sold seat {}", seat.number)).await?;
        Ok(())
    }

    async fn cancel(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Traveller>>,
        Json(seat): Json<Seat>,
    ) -> Result<(), PhaseTwoError> {
        let free = "UPDATE seat SET state = 'free', traveller = NULL
                    WHERE number = $1 AND state = 'held' AND traveller = $2";
        let freed = sqlx::query(free).bind(&seat.number).bind(&call.payload.traveller);
        one_row(freed.execute(&mut *db).await?.rows_affected(), held(&seat))?;
        logbook::undone(db, call, format!("set seat {} free", seat.number)).await?;
        Ok(())
    }
}

/// Names what was held, for an error.
fn held(seat: &Seat) -> String {
    format!("seat {}, held for this traveller", seat.number)
}

/// Comes after the pivot: it may still refuse, but that is no vote, and the call comes again.
struct Print;

impl Uncompensated<Sqlite> for Print {
    type Payload = ();
    type Output = ();

    async fn run(&self, db: &mut SqliteConnection, call: &Call<()>) -> Result<(), PrepareError> {
        let Json(seat) = call.input::<Json<Seat>>("seat")?;
        let Json(receipt) = call.input::<Json<Receipt>>("receipt")?;
        let feed = "UPDATE printer SET sheets = sheets - 1 WHERE sheets > 0";
        if sqlx::query(feed).execute(&mut *db).await?.rows_affected() == 0 {
            return refuse("NO_PAPER", "the printer of tickets has no paper");
        }
        let print = "INSERT INTO ticket (seat, payment) VALUES ($1, $2)";
        sqlx::query(print).bind(&seat.number).bind(receipt.payment).execute(&mut *db).await?;
        logbook::done(db, call, format!("printed the ticket for seat {}", seat.number)).await?;
        Ok(())
    }
}
