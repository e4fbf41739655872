//! Car rental: rents a car at once, and takes it back if the trip is given up.

use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use unanimo_sdk::{Call, Json, Participant, PhaseTwoError, PrepareError, Saga, Sqlite, refuse};

use crate::sagas::logbook;
use crate::sagas::rows::one_row;

pub(super) const TABLES: &str = "
CREATE TABLE car (plate text PRIMARY KEY, traveller text);
INSERT INTO car (plate) VALUES ('U 2'), ('U 3');";

/// Price of a day in cents.
const DAY: i64 = 4_500;

pub(super) fn cars(name: &str, database: Sqlite) -> Participant<Sqlite> {
    Participant::new(name, database).saga("rent-car", RentCar)
}

/// Payload of `rent-car`.
#[derive(Debug, Deserialize)]
pub(super) struct Rental {
    traveller: String,
    days: i64,
}

/// Output of `rent-car`: later steps and the compensation read it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Car {
    pub(super) plate: String,
    pub(super) cents: i64,
}

struct RentCar;

impl Saga<Sqlite> for RentCar {
    type Payload = Json<Rental>;
    type Output = Json<Car>;

    async fn run(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Rental>>,
    ) -> Result<Json<Car>, PrepareError> {
        let Rental { traveller, days } = &*call.payload;
        if !(1..=30).contains(days) {
            return refuse("BAD_RENTAL", "days must be 1 to 30");
        }
        let rent = "UPDATE car SET traveller = $1
                    WHERE plate = (SELECT min(plate) FROM car WHERE traveller IS NULL)
                    RETURNING plate";
        let rent = sqlx::query_scalar(rent).bind(traveller);
        let Some(plate) = rent.fetch_optional(&mut *db).await? else {
            return refuse("NO_CAR", "every car is out");
        };
        logbook::done(db, call, format!("rented car {plate}")).await?;
        Ok(Json(Car { plate, cents: DAY * days }))
    }

    async fn compensate(
        &self,
        db: &mut SqliteConnection,
        call: &Call<Json<Rental>>,
        Json(Car { plate, .. }): Json<Car>,
    ) -> Result<(), PhaseTwoError> {
        let take_back = "UPDATE car SET traveller = NULL WHERE plate = $1 AND traveller = $2";
        let back = sqlx::query(take_back).bind(&plate).bind(&call.payload.traveller);
        let back = back.execute(&mut *db).await?.rows_affected();
        one_row(back, format_args!("car {plate}, out with this traveller"))?;
        logbook::undone(db, call, format!("took car {plate} back")).await?;
        Ok(())
    }
}
