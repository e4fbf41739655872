//! Post: writes the mail to the traveller into its outbox, in the same local transaction as its vote.
//!
//! The sender of the outbox's mails gives each of them a key made of `tx_id` and `branch_id`, so that one
//! is not sent twice.

use serde::Deserialize;
use sqlx::SqliteConnection;
use unanimo_sdk::{Call, Json, Participant, PrepareError, Sqlite, Uncompensated, refuse};

use super::airline::Seat;
use super::bank::{Receipt, money};
use super::cars::Car;
use super::hotel::Room;
use crate::sagas::logbook;

pub(super) const TABLES: &str = "
CREATE TABLE outbox (key text PRIMARY KEY, traveller text NOT NULL, text text NOT NULL);
CREATE TABLE blocked (traveller text PRIMARY KEY);";

pub(super) fn post(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database).uncompensated("send-mail", SendMail)
}

/// Payload of `send-mail`.
#[derive(Debug, Deserialize)]
pub(super) struct Recipient {
    traveller: String,
}

struct SendMail;

impl Uncompensated<Sqlite> for SendMail {
    type Payload = Json<Recipient>;
    type Output = ();

    async fn run(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Recipient>>,
    ) -> Result<(), PrepareError> {
        let Recipient { traveller } = &*call.payload;
        let Json(seat) = call.input::<Json<Seat>>("seat")?;
        let Json(room) = call.input::<Json<Room>>("room")?;
        let Json(car) = call.input::<Json<Car>>("car")?;
        let Json(receipt) = call.input::<Json<Receipt>>("receipt")?;

        let is_blocked = "SELECT EXISTS (SELECT 1 FROM blocked WHERE traveller = $1)";
        if sqlx::query_scalar(is_blocked).bind(traveller).fetch_one(&mut *db).await? {
            return refuse("BLOCKED", format!("mails to {traveller} come back"));
        }
        let key = format!("{}/{}", call.branch.tx_id, call.branch.branch_id);
        let text = format!(
            "Seat {}, room {}, car {}: {} paid.",
            seat.number,
            room.room,
            car.plate,
            money(receipt.cents)
        );
        let write = "INSERT INTO outbox (key, traveller, text) VALUES ($1, $2, $3)";
        sqlx::query(write).bind(key).bind(traveller).bind(text).execute(&mut *db).await?;
        logbook::done(db, call, format!("wrote a mail to {traveller}")).await?;
        Ok(())
    }
}
