//! Rows of `participants` and `endpoints`.

use sqlx::{FromRow, Row};
use unanimo_core::ParticipantName;

use super::super::{Error, Registration, in_full};
use super::{corrupt, ms_from_column};

/// Every participant's name, with each instance at each of its endpoints or none.
pub(in crate::store) const SELECT_REGISTRATIONS: &str = "
SELECT p.name AS name, e.endpoint AS endpoint, coalesce(e.last_seen_ms, 0) AS last_seen_ms,
    coalesce(e.instance_id, '') AS instance_id, coalesce(e.database_id, '') AS database_id,
    coalesce(e.database_place, '') AS database_place
FROM participants AS p LEFT JOIN endpoints AS e ON e.name = p.name
ORDER BY p.name, e.endpoint, e.instance_id";

/// A row of [`SELECT_REGISTRATIONS`].
#[derive(Debug, FromRow)]
pub(in crate::store) struct RegistrationRow {
    name: String,
    endpoint: Option<String>,
    last_seen_ms: i64,
    instance_id: String,
    database_id: String,
    database_place: String,
}

/// Returns the registrations that can be read. A participant whose row cannot registers again.
pub(in crate::store) fn registrations<R: Row>(rows: &[R]) -> Vec<Registration>
where
    for<'r> RegistrationRow: FromRow<'r, R>,
{
    let read = rows.iter().filter_map(|row| {
        let row = RegistrationRow::from_row(row);
        let row = row.map_err(|source| Error::Database { doing: "read a row", source });
        match row.and_then(RegistrationRow::into_registration) {
            Ok(registration) => Some(registration),
            Err(error) => {
                let error = in_full(&error);
                tracing::error!(error, "a participant's registration cannot be read");
                None
            }
        }
    });
    read.collect()
}

impl RegistrationRow {
    fn into_registration(self) -> Result<Registration, Error> {
        Ok(Registration {
            name: ParticipantName::full(&self.name)
                .map_err(|_| corrupt("participants.name", &self.name))?,
            endpoint: self.endpoint,
            instance: self.instance_id,
            last_seen: ms_from_column(self.last_seen_ms),
            database_id: self.database_id,
            database_place: self.database_place,
        })
    }
}
