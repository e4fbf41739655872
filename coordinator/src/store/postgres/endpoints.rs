//! Participants' endpoints on PostgreSQL.

use async_trait::async_trait;
use unanimo_core::{Incarnation, ParticipantName, Timestamp};

use super::super::{Endpoints, Error, Registration, rows};
use super::Postgres;

#[async_trait]
impl Endpoints for Postgres {
    async fn register(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        let (name, endpoint) = (name.clone(), endpoint.to_owned());
        let alive: bool = self
            .run("register a participant", move |connection| {
                Box::pin(
                    sqlx::query_scalar(
                        "WITH fence AS MATERIALIZED (
                             SELECT 1 FROM fences WHERE incarnation = $1 AND NOT fenced FOR SHARE
                         ), name AS (
                             INSERT INTO participants (name) SELECT $2 FROM fence
                             ON CONFLICT DO NOTHING
                         ), endpoint AS (
                             INSERT INTO endpoints (name, endpoint, last_seen_ms)
                             SELECT $2, $3, $4 FROM fence
                             ON CONFLICT (name, endpoint)
                             DO UPDATE SET last_seen_ms = excluded.last_seen_ms
                         )
                         SELECT EXISTS (SELECT 1 FROM fence)",
                    )
                    .bind(me.0)
                    .bind(String::from(name))
                    .bind(endpoint)
                    .bind(rows::ms_to_column(now))
                    .fetch_one(connection),
                )
            })
            .await?;
        if alive { Ok(()) } else { Err(Error::Fenced(me)) }
    }

    async fn deregister(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
    ) -> Result<(), Error> {
        let (name, endpoint) = (name.clone(), endpoint.to_owned());
        let alive: bool = self
            .run("deregister a participant", move |connection| {
                Box::pin(
                    sqlx::query_scalar(
                        "WITH fence AS MATERIALIZED (
                             SELECT 1 FROM fences WHERE incarnation = $1 AND NOT fenced FOR SHARE
                         ), gone AS (
                             DELETE FROM endpoints
                             WHERE name = $2 AND endpoint = $3 AND EXISTS (SELECT 1 FROM fence)
                         )
                         SELECT EXISTS (SELECT 1 FROM fence)",
                    )
                    .bind(me.0)
                    .bind(String::from(name))
                    .bind(endpoint)
                    .fetch_one(connection),
                )
            })
            .await?;
        if alive { Ok(()) } else { Err(Error::Fenced(me)) }
    }

    async fn list(&self) -> Result<Vec<Registration>, Error> {
        let rows: Vec<rows::RegistrationRow> = self
            .run("read the participants", |connection| {
                Box::pin(sqlx::query_as(rows::SELECT_REGISTRATIONS).fetch_all(connection))
            })
            .await?;
        rows.into_iter().map(rows::RegistrationRow::into_registration).collect()
    }
}
