//! Adoption of many at once, and of each part of them where the database gives up on what it reads. What cannot be
//! claimed is set aside, and is in nobody's way.

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::QueryAs;
use sqlx::query_as;
use unanimo_core::Incarnation;
use uuid::Uuid;

use super::super::super::Claim;
use super::super::super::error::is_corrupt;
use super::super::super::rows::{Read, ms_to_column};
use super::super::damage::in_halves;
use super::{CLAIM_DUE, CLAIM_OF_FENCED, CLAIM_ONE, SET_ASIDE, of_ids};

/// Names that a claim may take, where it is made in parts.
const NAMES_MAX: i64 = 65_536;

const NAMES_OF_FENCED: &str = "
SELECT tx_id FROM parked
WHERE wake_ms IS NULL AND owner IN (SELECT incarnation FROM fences WHERE fenced)
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = parked.tx_id AND incarnation = $1)
ORDER BY tx_id LIMIT $2";

const NAMES_OF_DUE: &str = "
SELECT tx_id FROM parked
WHERE wake_ms <= $3
    AND NOT EXISTS (SELECT 1 FROM aside WHERE aside.tx_id = parked.tx_id AND incarnation = $1)
ORDER BY wake_ms LIMIT $2";

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
            in_parts(connection, right, claim, limit).await?
        }
        claimed => (claimed?, Vec::new()),
    };
    let claimed: Vec<Uuid> = claimed.into_iter().map(|(tx_id,)| tx_id).collect();
    // These rows are mine now: nobody adds others between the two statements.
    let mut found = of_ids(connection, &claimed).await?;
    found.extend(failed.into_iter().map(|(tx_id, error)| Read::failed(tx_id, error)));
    Ok(found)
}

type Failed = Vec<(Uuid, sqlx::Error)>;

async fn in_parts(
    connection: &mut PgConnection,
    right: (Incarnation, Uuid),
    claim: Claim,
    limit: i64,
) -> Result<(Vec<(Uuid,)>, Failed), sqlx::Error> {
    let (me, nonce) = right;
    let names = match claim {
        Claim::Due { until, .. } => {
            sqlx::query_scalar(NAMES_OF_DUE).bind(me.0).bind(NAMES_MAX).bind(ms_to_column(until))
        }
        Claim::OfFenced(_) | Claim::One(..) => {
            sqlx::query_scalar(NAMES_OF_FENCED).bind(me.0).bind(NAMES_MAX)
        }
    };
    let names: Vec<Uuid> = names.fetch_all(&mut *connection).await?;
    let (mut claimed, mut failed) = (Vec::new(), Vec::new());
    let at_once = usize::try_from(limit).unwrap_or(usize::MAX).max(1);
    for part in names.chunks(at_once) {
        let is_full = i64::try_from(claimed.len()).is_ok_and(|count| count >= limit);
        if is_full {
            break;
        }
        let made =
            in_halves(connection, part, |ids| query(right, claim, limit, Some(ids.to_vec())))
                .await?;
        claimed.extend(made.0);
        failed.extend(made.1);
    }
    if !failed.is_empty() {
        let ids: Vec<Uuid> = failed.iter().map(|(tx_id, _)| *tx_id).collect();
        let setting = sqlx::query(SET_ASIDE).bind(me.0).bind(ids).bind(nonce);
        setting.execute(&mut *connection).await?;
    }
    Ok((claimed, failed))
}
