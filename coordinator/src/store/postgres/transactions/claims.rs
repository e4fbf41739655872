//! Adoption of many at once, and of each part of them where the database gives up on what it reads. What cannot be
//! claimed is set aside, and is in nobody's way.

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::{QueryAs, QueryScalar};
use sqlx::{query_as, query_scalar};
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::Claim;
use super::super::super::error::is_corrupt;
use super::super::super::rows::{Read, ms_to_column};
use super::super::damage::in_halves;
use super::aside::{Aside, set_failed_aside};
use super::waits::WAKE;
use super::{CLAIM_DUE, CLAIM_OF_FENCED, CLAIM_ONE, fenced_or_unknown, not_aside, of_ids};

/// Names that a claim may take, where it is made in parts.
const NAMES_MAX: i64 = 65_536;

const NAMES_OF_FENCED: &str = concat!(
    "
SELECT tx_id FROM parked
WHERE wake_ms IS NULL AND owner = ",
    fenced_or_unknown!(),
    " AND ",
    not_aside!("parked.tx_id"),
    "
ORDER BY tx_id LIMIT $1"
);

const NAMES_OF_DUE: &str = concat!(
    "
SELECT tx_id FROM parked
WHERE wake_ms <= $2 AND NOT EXISTS (SELECT 1 FROM waits WHERE waits.tx_id = parked.tx_id) AND ",
    not_aside!("parked.tx_id"),
    "
ORDER BY wake_ms LIMIT $1"
);

type Query = QueryAs<'static, sqlx::Postgres, (Uuid,), PgArguments>;

/// Binds a claim; of these alone, if some are named.
fn query(
    (me, nonce): (Incarnation, Uuid),
    claim: Claim,
    limit: i64,
    ids: Option<Vec<Uuid>>,
) -> Query {
    match claim {
        Claim::OfFenced(_) => {
            query_as(CLAIM_OF_FENCED).bind(me.0).bind(limit).bind(nonce).bind(ids)
        }
        Claim::Due { until, .. } => {
            let query = query_as(CLAIM_DUE).bind(me.0).bind(ms_to_column(until));
            query.bind(limit).bind(nonce).bind(ids)
        }
        Claim::One(tx_id, owner, version) => {
            query_as(CLAIM_ONE).bind(me.0).bind(tx_id.0).bind(owner.0).bind(version.0).bind(nonce)
        }
    }
}

/// Claims, and reads what was claimed, and what could not be.
pub(super) async fn make(
    connection: &mut PgConnection,
    right: (Incarnation, Uuid),
    claim: Claim,
) -> Result<Vec<Read>, sqlx::Error> {
    let limit = match claim {
        Claim::OfFenced(limit) | Claim::Due { limit, .. } => i64::from(limit),
        Claim::One(..) => 1,
    };
    let claimed = query(right, claim, limit, None).fetch_all(&mut *connection).await;
    let (claimed, failed) = match claimed {
        Err(error) if is_corrupt(&error) && !matches!(claim, Claim::One(..)) => {
            let names = names(claim).fetch_all(&mut *connection).await?;
            let statement = |ids: &[Uuid]| query(right, claim, limit, Some(ids.to_vec()));
            in_parts(connection, right, &names, limit, statement).await?
        }
        claimed => (claimed?, Vec::new()),
    };
    read_claimed(connection, claimed, failed).await
}

/// Wakes those of these that sleep, and reads them, and what could not be.
pub(super) async fn wake(
    connection: &mut PgConnection,
    right: (Incarnation, Uuid),
    ids: Vec<Uuid>,
) -> Result<Vec<Read>, sqlx::Error> {
    let (me, nonce) = right;
    let statement = |ids: &[Uuid]| query_as(WAKE).bind(me.0).bind(nonce).bind(ids.to_vec());
    let (woken, failed) = match statement(&ids).fetch_all(&mut *connection).await {
        Err(error) if is_corrupt(&error) => {
            let all = i64::try_from(ids.len()).unwrap_or(i64::MAX);
            in_parts(connection, right, &ids, all, statement).await?
        }
        woken => (woken?, Vec::new()),
    };
    read_claimed(connection, woken, failed).await
}

async fn read_claimed(
    connection: &mut PgConnection,
    claimed: Vec<(Uuid,)>,
    failed: Failed,
) -> Result<Vec<Read>, sqlx::Error> {
    let claimed: Vec<Uuid> = claimed.into_iter().map(|(tx_id,)| tx_id).collect();
    // These rows are mine now: nobody adds others between the two statements.
    let mut found = of_ids(connection, &claimed).await?;
    found.extend(failed.into_iter().map(|(tx_id, error)| Read::failed(tx_id, error)));
    Ok(found)
}

type Failed = Vec<(Uuid, sqlx::Error)>;

/// Names of what a claim may take.
fn names(claim: Claim) -> QueryScalar<'static, sqlx::Postgres, Uuid, PgArguments> {
    match claim {
        Claim::Due { until, .. } => {
            query_scalar(NAMES_OF_DUE).bind(NAMES_MAX).bind(ms_to_column(until))
        }
        Claim::OfFenced(_) | Claim::One(..) => query_scalar(NAMES_OF_FENCED).bind(NAMES_MAX),
    }
}

async fn in_parts(
    connection: &mut PgConnection,
    right: (Incarnation, Uuid),
    names: &[Uuid],
    limit: i64,
    statement: impl Fn(&[Uuid]) -> Query,
) -> Result<(Vec<(Uuid,)>, Failed), sqlx::Error> {
    let (mut claimed, mut aside, mut cut) = (Vec::new(), Aside::default(), None);
    let at_once = usize::try_from(limit).unwrap_or(usize::MAX).max(1);
    for part in names.chunks(at_once) {
        let is_full = i64::try_from(claimed.len()).is_ok_and(|count| count >= limit);
        if is_full || aside.is_too_much() || cut.is_some() {
            break;
        }
        let made = in_halves(connection, part, &statement).await?;
        claimed.extend(made.done);
        set_failed_aside(connection, right, made.failed, &mut aside).await?;
        cut = made.cut;
    }
    match cut.or_else(|| aside.refused.pop().map(|(_, error)| error)) {
        // What was claimed is told before that.
        Some(error) if claimed.is_empty() && aside.unreadable.is_empty() => Err(error),
        _ => Ok((claimed, aside.unreadable)),
    }
}
