//! Statements of the participant, over any driver.

use super::driver::{Connection, Error, FromRow, Parameter, Pool, Session};

/// Returns all rows.
pub(super) async fn all<T: FromRow, C: Connection>(
    connection: &mut C,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<T>, Error> {
    let rows = connection.query(statement, parameters).await?;
    rows.into_iter().map(T::from_row).collect()
}

/// Returns the first row, if there is one.
pub(super) async fn optional<T: FromRow, C: Connection>(
    connection: &mut C,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Option<T>, Error> {
    let rows = connection.query(statement, parameters).await?;
    rows.into_iter().next().map(T::from_row).transpose()
}

/// Returns the row.
pub(super) async fn one<T: FromRow, C: Connection>(
    connection: &mut C,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<T, Error> {
    let row = optional(connection, statement, parameters).await?;
    row.ok_or_else(|| Error::other("the statement found no row"))
}

/// Returns all rows of a statement outside of a transaction.
pub(super) async fn all_on<T: FromRow>(
    pool: &impl Pool,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<T>, Error> {
    let mut session = pool.acquire().await?;
    let done = all(session.connection(), statement, parameters).await;
    given_back(session, done)
}

/// Returns the first row of a statement outside of a transaction, if there is one.
pub(super) async fn optional_on<T: FromRow>(
    pool: &impl Pool,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Option<T>, Error> {
    let found = all_on(pool, statement, parameters).await?;
    Ok(found.into_iter().next())
}

/// Returns the row of a statement outside of a transaction.
pub(super) async fn one_on<T: FromRow>(
    pool: &impl Pool,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<T, Error> {
    let row = optional_on(pool, statement, parameters).await?;
    row.ok_or_else(|| Error::other("the statement found no row"))
}

/// Gives the session back if its server has answered. Else nobody knows what state it is in.
pub(super) fn given_back<T>(session: impl Session, done: Result<T, Error>) -> Result<T, Error> {
    match &done {
        Err(error) if super::error::code(error).is_none() => drop(session),
        _ => session.release(),
    }
    done
}
