//! Participants' endpoints on PostgreSQL.

use async_trait::async_trait;
use unanimo_core::{Incarnation, ParticipantName, Timestamp};

use super::super::{Endpoints, Error, Registration, rows};
use super::Postgres;

const REGISTER: &str = concat!(
    "
WITH ",
    fence!("$6"),
    ", name AS (
    INSERT INTO participants (name) SELECT $2 FROM fence ON CONFLICT DO NOTHING
), endpoint AS (
    INSERT INTO endpoints (name, endpoint, last_seen_ms, instance_id) SELECT $2, $3, $4, $5 FROM fence
    ON CONFLICT (name, endpoint, instance_id) DO UPDATE SET last_seen_ms = excluded.last_seen_ms
)
SELECT EXISTS (SELECT 1 FROM fence)"
);

const KEEP_DATABASE: &str = concat!(
    "
WITH ",
    fence!("$7"),
    ", kept AS (
    UPDATE endpoints SET database_id = $5, database_place = $6
    WHERE name = $2 AND endpoint = $3 AND instance_id = $4 AND EXISTS (SELECT 1 FROM fence)
)
SELECT EXISTS (SELECT 1 FROM fence)"
);

/// Rows that are left of the endpoint are other instances'.
const DEREGISTER: &str = concat!(
    "
WITH ",
    fence!("$5"),
    ", gone AS (
    DELETE FROM endpoints
    WHERE name = $2 AND endpoint = $3 AND instance_id IN ('', $4) AND EXISTS (SELECT 1 FROM fence)
    RETURNING 1
)
SELECT
    EXISTS (SELECT 1 FROM fence),
    NOT EXISTS (
        SELECT 1 FROM endpoints
        WHERE name = $2 AND endpoint = $3 AND instance_id NOT IN ('', $4)
    )"
);

const FORGET: &str = concat!(
    "
WITH ",
    fence!("$3"),
    ", places AS (
    DELETE FROM endpoints WHERE name = $2 AND EXISTS (SELECT 1 FROM fence)
), name AS (
    DELETE FROM participants WHERE name = $2 AND EXISTS (SELECT 1 FROM fence)
)
SELECT EXISTS (SELECT 1 FROM fence)"
);

#[async_trait]
impl Endpoints for Postgres {
    async fn register(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        instance: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        let query = sqlx::query_as(REGISTER)
            .bind(me.0)
            .bind(String::from(name.clone()))
            .bind(endpoint.to_owned())
            .bind(rows::ms_to_column(now))
            .bind(instance.to_owned())
            .bind(self.nonces.nonce(me));
        let (unfenced,) = self.row("register a participant", query).await?;
        if unfenced { Ok(()) } else { Err(Error::Fenced(me)) }
    }

    async fn keep_database(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        instance: &str,
        (database_id, place): (&str, &str),
    ) -> Result<(), Error> {
        let query = sqlx::query_as(KEEP_DATABASE)
            .bind(me.0)
            .bind(String::from(name.clone()))
            .bind(endpoint.to_owned())
            .bind(instance.to_owned())
            .bind(database_id.to_owned())
            .bind(place.to_owned())
            .bind(self.nonces.nonce(me));
        let (unfenced,) = self.row("keep a participant's database", query).await?;
        if unfenced { Ok(()) } else { Err(Error::Fenced(me)) }
    }

    async fn deregister(
        &self,
        me: Incarnation,
        name: &ParticipantName,
        endpoint: &str,
        instance: &str,
    ) -> Result<bool, Error> {
        let query = sqlx::query_as(DEREGISTER)
            .bind(me.0)
            .bind(String::from(name.clone()))
            .bind(endpoint.to_owned())
            .bind(instance.to_owned())
            .bind(self.nonces.nonce(me));
        let (unfenced, left) = self.row("deregister a participant", query).await?;
        if unfenced { Ok(left) } else { Err(Error::Fenced(me)) }
    }

    async fn forget(&self, me: Incarnation, name: &ParticipantName) -> Result<(), Error> {
        let query = sqlx::query_as(FORGET)
            .bind(me.0)
            .bind(String::from(name.clone()))
            .bind(self.nonces.nonce(me));
        let (unfenced,) = self.row("forget a participant", query).await?;
        if unfenced { Ok(()) } else { Err(Error::Fenced(me)) }
    }

    async fn list(&self) -> Result<Vec<Registration>, Error> {
        let query = sqlx::query(rows::SELECT_REGISTRATIONS);
        Ok(rows::registrations(&self.look("read the participants", query).await?))
    }
}
