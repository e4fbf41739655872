//! Pages of lists, and the parts of one where the database gives up on what it reads.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::super::super::error::is_corrupt;
use super::super::super::listing::{self, CHUNK_MAX, Source};
use super::super::damage::{Damage, Parts, ends};
use super::listed::{NAMES_OF_ATTENTION, PAGE_OF_ALL, PAGE_OF_ATTENTION, PAGE_OF_OPEN};

fn statement(source: Source) -> &'static str {
    match source {
        Source::All => PAGE_OF_ALL,
        Source::Attention => PAGE_OF_ATTENTION,
        Source::Open => PAGE_OF_OPEN,
    }
}

/// Returns identifiers of a range, the newest first, with the bytes of each one's rows. Those of which something cannot be
/// read are among them: whoever reads them finds out.
pub(super) async fn of_range(
    connection: &mut PgConnection,
    damage: &Damage,
    range: listing::Range,
) -> Result<Vec<(Uuid, i64)>, sqlx::Error> {
    let listing::Range { source, from, before } = range;
    let page = sqlx::query_as(statement(source)).bind(before).bind(CHUNK_MAX).bind(from);
    match page.fetch_all(&mut *connection).await {
        Err(error) if is_corrupt(&error) => {}
        page => return page,
    }
    if source == Source::Attention {
        // Their names are in tables of their own.
        let names = sqlx::query_as(NAMES_OF_ATTENTION).bind(before).bind(CHUNK_MAX).bind(from);
        return names.fetch_all(connection).await;
    }
    let (mut parts, mut found) = (Parts::new(from, before), Vec::<(Uuid, i64)>::new());
    while let Some(part) = parts.next() {
        let left = CHUNK_MAX - i64::try_from(found.len()).unwrap_or(CHUNK_MAX);
        if left <= 0 {
            break;
        }
        let (first, last) = ends(part);
        let page =
            sqlx::query_as::<_, (Uuid, i64)>(statement(source)).bind(last).bind(left).bind(first);
        match page.fetch_all(&mut *connection).await {
            Err(error) if is_corrupt(&error) => parts.failed(part, error)?,
            page => found.extend(page?),
        }
    }
    for name in damage.names(connection, &parts).await?.known {
        let next = Uuid::from_u128(name.as_u128().saturating_add(1));
        let page =
            sqlx::query_as::<_, (Uuid, i64)>(statement(source)).bind(next).bind(1_i64).bind(name);
        match page.fetch_all(&mut *connection).await {
            Err(error) if is_corrupt(&error) => found.push((name, 0)),
            page => found.extend(page?),
        }
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.dedup_by_key(|(tx_id, _)| *tx_id);
    found.truncate(usize::try_from(CHUNK_MAX).unwrap_or(usize::MAX));
    Ok(found)
}
