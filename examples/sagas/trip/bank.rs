//! Bank: takes the money for the whole trip. This is the pivot, so there is no compensation.

use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use unanimo_sdk::{Call, Json, Participant, PrepareError, Sqlite, Uncompensated, refuse};

use super::airline::Seat;
use super::cars::Car;
use super::hotel::Room;
use crate::sagas::logbook;

pub(super) const TABLES: &str = "
CREATE TABLE account (id text PRIMARY KEY, cents integer NOT NULL CHECK (cents >= 0),
                      is_blocked integer NOT NULL DEFAULT false);
INSERT INTO account (id, cents) VALUES ('account-1', 100000);
CREATE TABLE payment (id integer PRIMARY KEY AUTOINCREMENT, account text NOT NULL,
                      cents integer NOT NULL);";

pub(super) fn bank(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database).uncompensated("pay", Pay)
}

/// Payload of `pay`.
#[derive(Debug, Deserialize)]
pub(super) struct Payer {
    account: String,
}

/// Output of `pay`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Receipt {
    pub(super) payment: i64,
    pub(super) cents: i64,
}

struct Pay;

impl Uncompensated<Sqlite> for Pay {
    type Payload = Json<Payer>;
    type Output = Json<Receipt>;

    async fn run(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Payer>>,
    ) -> Result<Json<Receipt>, PrepareError> {
        let Payer { account } = &*call.payload;
        let Json(seat) = call.input::<Json<Seat>>("seat")?;
        let Json(room) = call.input::<Json<Room>>("room")?;
        let Json(car) = call.input::<Json<Car>>("car")?;
        let cents = seat.cents + room.cents + car.cents;

        let take = "UPDATE account SET cents = cents - $2
                    WHERE id = $1 AND cents >= $2 AND NOT is_blocked";
        let take = sqlx::query(take).bind(account).bind(cents);
        if take.execute(&mut *db).await?.rows_affected() == 0 {
            return refuse("DECLINED", format!("{account} is blocked, or has too little"));
        }
        let pay = "INSERT INTO payment (account, cents) VALUES ($1, $2) RETURNING id";
        let pay = sqlx::query_scalar(pay).bind(account).bind(cents);
        let payment = pay.fetch_one(&mut *db).await?;
        logbook::done(db, call, format!("took {} from {account}", money(cents))).await?;
        Ok(Json(Receipt { payment, cents }))
    }
}

/// Returns an amount as people write it.
pub(super) fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}
