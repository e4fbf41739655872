//! Hotel: books a room at once, and cancels the booking if the trip is given up.

use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use unanimo_sdk::{Call, Json, Participant, PhaseTwoError, PrepareError, Saga, Sqlite, refuse};

use crate::sagas::logbook;
use crate::sagas::rows::one_row;

pub(super) const TABLES: &str = "
CREATE TABLE room (number integer PRIMARY KEY, is_free integer NOT NULL);
INSERT INTO room VALUES (101, true), (102, true);
CREATE TABLE booking (id integer PRIMARY KEY AUTOINCREMENT, room integer NOT NULL,
                      traveller text NOT NULL,
                      state text NOT NULL CHECK (state IN ('booked', 'cancelled')));";

/// Price of a night in cents.
const NIGHT: i64 = 8_000;

pub(super) fn hotel(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database).saga("book-room", BookRoom)
}

/// Payload of `book-room`.
#[derive(Debug, Deserialize)]
pub(super) struct Stay {
    traveller: String,
    nights: i64,
}

/// Output of `book-room`: later steps and the compensation read it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Room {
    booking: i64,
    pub(super) room: i64,
    pub(super) cents: i64,
}

struct BookRoom;

impl Saga<Sqlite> for BookRoom {
    type Payload = Json<Stay>;
    type Output = Json<Room>;

    async fn run(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Stay>>,
    ) -> Result<Json<Room>, PrepareError> {
        let Stay { traveller, nights } = &*call.payload;
        if !(1..=30).contains(nights) {
            return refuse("BAD_STAY", "nights must be 1 to 30");
        }
        let take = "UPDATE room SET is_free = false
                    WHERE number = (SELECT min(number) FROM room WHERE is_free)
                    RETURNING number";
        let Some(room) = sqlx::query_scalar(take).fetch_optional(&mut *db).await? else {
            return refuse("NO_ROOM", "every room is taken");
        };
        let book = "INSERT INTO booking (room, traveller, state) VALUES ($1, $2, 'booked')
                    RETURNING id";
        let book = sqlx::query_scalar(book).bind(room).bind(traveller);
        let booking = book.fetch_one(&mut *db).await?;
        logbook::done(db, call, format!("booked room {room}")).await?;
        Ok(Json(Room { booking, room, cents: NIGHT * nights }))
    }

    async fn compensate(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Stay>>,
        Json(Room { booking, room, .. }): Json<Room>,
    ) -> Result<(), PhaseTwoError> {
        let cancel = "UPDATE booking SET state = 'cancelled' WHERE id = $1 AND state = 'booked'";
        let cancelled = sqlx::query(cancel).bind(booking).execute(&mut *db).await?;
        one_row(cancelled.rows_affected(), format_args!("booking {booking}, booked"))?;
        let free = "UPDATE room SET is_free = true WHERE number = $1 AND NOT is_free";
        let freed = sqlx::query(free).bind(room).execute(&mut *db).await?;
        one_row(freed.rows_affected(), format_args!("room {room}, taken"))?;
        logbook::undone(db, call, format!("cancelled the booking of room {room}")).await?;
        Ok(())
    }
}
