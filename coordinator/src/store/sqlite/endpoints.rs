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
        now: Timestamp,
    ) -> Result<(), Error> {
        let (name, endpoint) = (name.clone(), endpoint.to_owned());
        self.write("register a participant", Some(me), move |connection| {
            Box::pin(async move {
                sqlx::query("INSERT INTO participants (name) VALUES ($1) ON CONFLICT DO NOTHING")
                    .bind(name.as_str())
                    .execute(&mut *connection)
                    .await?;
                sqlx::query(
                    "INSERT INTO endpoints (name, endpoint, last_seen_ms) VALUES ($1, $2, $3)
                     ON CONFLICT (name, endpoint)
                     DO UPDATE SET last_seen_ms = excluded.last_seen_ms",
                )
                .bind(name.as_str())
                .bind(endpoint)
                .bind(rows::ms_to_column(now))
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
    ) -> Result<(), Error> {
        let (name, endpoint) = (name.clone(), endpoint.to_owned());
        self.write("deregister a participant", Some(me), move |connection| {
            Box::pin(async move {
                sqlx::query("DELETE FROM endpoints WHERE name = $1 AND endpoint = $2")
                    .bind(name.as_str())
                    .bind(endpoint)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Registration>, Error> {
        let query = sqlx::query_as(rows::SELECT_REGISTRATIONS);
        let rows: Vec<rows::RegistrationRow> = self.rows("read the participants", query).await?;
        rows.into_iter().map(rows::RegistrationRow::into_registration).collect()
    }
}
