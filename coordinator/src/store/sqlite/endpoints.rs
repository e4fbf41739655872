//! Participants' endpoints on SQLite.

use async_trait::async_trait;
use unanimo_core::{Incarnation, ParticipantName, Timestamp};

use super::super::{Endpoints, Error, Registration, rows};
use super::Sqlite;

#[async_trait]
impl Endpoints for Sqlite {
    async fn register(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        instance: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        let (name, endpoint) = (name.clone(), endpoint.to_owned());
        let instance = instance.to_owned();
        self.write("register a participant", Some(me), move |connection| {
            Box::pin(async move {
                sqlx::query("INSERT INTO participants (name) VALUES ($1) ON CONFLICT DO NOTHING")
                    .bind(name.as_str())
                    .execute(&mut *connection)
                    .await?;
                sqlx::query(
                    "INSERT INTO endpoints (name, endpoint, last_seen_ms, instance_id)
                     VALUES ($1, $2, $3, $4)
                     ON CONFLICT (name, endpoint, instance_id) DO UPDATE
                     SET last_seen_ms = excluded.last_seen_ms",
                )
                .bind(name.as_str())
                .bind(endpoint)
                .bind(rows::ms_to_column(now))
                .bind(instance)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await
    }

    async fn keep_database(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        instance: &str,
        (database_id, place): (&str, &str),
    ) -> Result<(), Error> {
        let (name, endpoint) = (name.clone(), endpoint.to_owned());
        let (instance, database_id) = (instance.to_owned(), database_id.to_owned());
        let place = place.to_owned();
        self.write("keep a participant's database", Some(me), move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "UPDATE endpoints SET database_id = $4, database_place = $5
                     WHERE name = $1 AND endpoint = $2 AND instance_id = $3",
                )
                .bind(name.as_str())
                .bind(endpoint)
                .bind(instance)
                .bind(database_id)
                .bind(place)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await
    }

    async fn deregister(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        instance: &str,
    ) -> Result<bool, Error> {
        let (name, endpoint) = (name.clone(), endpoint.to_owned());
        let instance = instance.to_owned();
        self.write("deregister a participant", Some(me), move |connection| {
            Box::pin(async move {
                sqlx::query(
                    "DELETE FROM endpoints
                     WHERE name = $1 AND endpoint = $2 AND instance_id IN ('', $3)",
                )
                .bind(name.as_str())
                .bind(&endpoint)
                .bind(instance)
                .execute(&mut *connection)
                .await?;
                // What is left of it is another instance's.
                let stays: Option<(i64,)> =
                    sqlx::query_as("SELECT 1 FROM endpoints WHERE name = $1 AND endpoint = $2")
                        .bind(name.as_str())
                        .bind(&endpoint)
                        .fetch_optional(connection)
                        .await?;
                Ok(stays.is_none())
            })
        })
        .await
    }

    async fn forget(&self, me: Incarnation, name: &ParticipantName) -> Result<(), Error> {
        let name = name.clone();
        self.write("forget a participant", Some(me), move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM endpoints WHERE name = $1")
                    .bind(name.as_str())
                    .execute(&mut *connection)
                    .await?;
                sqlx::query("DELETE FROM participants WHERE name = $1")
                    .bind(name.as_str())
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Registration>, Error> {
        let query = sqlx::query(rows::SELECT_REGISTRATIONS);
        Ok(rows::registrations(&self.look("read the participants", query).await?))
    }
}
