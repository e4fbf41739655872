//! Carrier: packs the parcel once the packer is free, which takes a while.
//!
//! The handler does not wait for it: it answers "still working, ask again", and has written nothing by
//! then. So a saga that is given up meanwhile leaves nothing behind.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use unanimo_sdk::{Call, Json, Participant, PhaseTwoError, PrepareError, Saga, Sqlite, refuse};

use super::shop::Order;
use crate::sagas::logbook;
use crate::sagas::rows::one_row;

/// The packer is busy for a second after the start.
pub(super) const TABLES: &str = "
CREATE TABLE packer (free_from_ms integer NOT NULL, is_ill integer NOT NULL DEFAULT false);
INSERT INTO packer (free_from_ms) VALUES (unixepoch('subsec') * 1000 + 1000);
CREATE TABLE parcel (id integer PRIMARY KEY AUTOINCREMENT, order_id integer NOT NULL,
                     state text NOT NULL CHECK (state IN ('packed', 'unpacked')));";

/// Longest pause before the next question.
const ASK_AGAIN_MAX: Duration = Duration::from_millis(300);

pub(super) fn carrier(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database).saga("pack-parcel", PackParcel)
}

/// Output of `pack-parcel`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Parcel {
    id: i64,
}

struct PackParcel;

impl Saga<Sqlite> for PackParcel {
    type Payload = ();
    type Output = Json<Parcel>;

    async fn run(
        &self,
        db: &mut SqliteConnection,
        call: &Call<()>,
    ) -> Result<Json<Parcel>, PrepareError> {
        let Json(order) = call.input::<Json<Order>>("order")?;
        let packer = "SELECT CAST(free_from_ms - unixepoch('subsec') * 1000 AS integer), is_ill
                      FROM packer";
        let (wait_ms, is_ill): (i64, bool) = sqlx::query_as(packer).fetch_one(&mut *db).await?;
        if is_ill {
            return refuse("NO_PACKER", "the packer is ill");
        }
        if let Ok(wait_ms @ 1..) = u64::try_from(wait_ms) {
            let wait = Duration::from_millis(wait_ms).min(ASK_AGAIN_MAX);
            return Err(PrepareError::Working(wait));
        }
        let pack = "INSERT INTO parcel (order_id, state) VALUES ($1, 'packed') RETURNING id";
        let id = sqlx::query_scalar(pack).bind(order.id).fetch_one(&mut *db).await?;
        logbook::done(db, call, format!("packed parcel {id} of order {}", order.id)).await?;
        Ok(Json(Parcel { id }))
    }

    async fn compensate(
        &self,
        db: &mut SqliteConnection,
        call: &Call<()>,
        Json(Parcel { id }): Json<Parcel>,
    ) -> Result<(), PhaseTwoError> {
        let unpack = "UPDATE parcel SET state = 'unpacked' WHERE id = $1 AND state = 'packed'";
        let unpacked = sqlx::query(unpack).bind(id).execute(&mut *db).await?;
        one_row(unpacked.rows_affected(), format_args!("packed parcel {id}"))?;
        logbook::undone(db, call, format!("unpacked parcel {id}")).await?;
        Ok(())
    }
}
