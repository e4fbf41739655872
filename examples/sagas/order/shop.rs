//! Shop: opens the order at once, and closes it as cancelled if the saga is given up.

use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use unanimo_sdk::{Call, Json, Participant, PhaseTwoError, PrepareError, Saga, Sqlite, refuse};

use crate::sagas::logbook;
use crate::sagas::rows::one_row;

pub(super) const TABLES: &str = "
CREATE TABLE shop (is_open integer NOT NULL);
INSERT INTO shop VALUES (true);
CREATE TABLE orders (id integer PRIMARY KEY AUTOINCREMENT, item text NOT NULL,
                     pieces integer NOT NULL,
                     state text NOT NULL CHECK (state IN ('open', 'cancelled')));";

pub(super) fn shop(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database).saga("open-order", OpenOrder)
}

/// Payload of `open-order`, and of the warehouse's `reserve`.
#[derive(Debug, Deserialize)]
pub(super) struct Goods {
    pub(super) item: String,
    pub(super) pieces: i64,
}

/// Output of `open-order`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) id: i64,
}

struct OpenOrder;

impl Saga<Sqlite> for OpenOrder {
    type Payload = Json<Goods>;
    type Output = Json<Order>;

    async fn run(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Goods>>,
    ) -> Result<Json<Order>, PrepareError> {
        let Goods { item, pieces } = &*call.payload;
        let open = "INSERT INTO orders (item, pieces, state)
                    SELECT $1, $2, 'open' FROM shop WHERE is_open RETURNING id";
        let open = sqlx::query_scalar(open).bind(item).bind(pieces);
        let Some(id) = open.fetch_optional(&mut *db).await? else {
            return refuse("CLOSED", "the shop takes no orders");
        };
        logbook::done(db, call, format!("opened order {id}: {pieces} x {item}")).await?;
        Ok(Json(Order { id }))
    }

    async fn compensate(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Goods>>,
        Json(Order { id }): Json<Order>,
    ) -> Result<(), PhaseTwoError> {
        let cancel = "UPDATE orders SET state = 'cancelled' WHERE id = $1 AND state = 'open'";
        let cancelled = sqlx::query(cancel).bind(id).execute(&mut *db).await?;
        one_row(cancelled.rows_affected(), format_args!("open order {id}"))?;
        logbook::undone(db, call, format!("cancelled order {id}")).await?;
        Ok(())
    }
}
