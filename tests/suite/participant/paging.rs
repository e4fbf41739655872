//! The sweeper's questions, page by page, on every database.

use std::time::Duration;

use unanimo_sdk::{MySql, Postgres, Sqlite};
use uuid::Uuid;

use super::databases::{Database, OverTokio};

/// Rows of a page: fewer than one `prepare_until` has, so that a page ends among equal ones.
const PAGE: usize = 2;

/// Column of `prepare_until` with the others that have no default, and their values by seconds; and
/// the empty output.
struct Dialect {
    columns: &'static str,
    no_output: &'static str,
    values: fn(i64) -> String,
}

const POSTGRES: Dialect = Dialect {
    columns: "prepare_until",
    no_output: "''",
    values: |secs| format!("to_timestamp({secs})"),
};

const MARIADB: Dialect = Dialect {
    columns: "prepare_until_ms, created_at, changed_at",
    no_output: "''",
    values: |secs| format!("{secs}000, '2020-01-01', '2020-01-01'"),
};

const SQLITE: Dialect =
    Dialect { columns: "prepare_until_ms", no_output: "x''", values: |secs| format!("{secs}000") };

/// Makes rows, and returns their keys in the order of `prepare_until` and key. Keys that are greater
/// have an earlier `prepare_until`.
async fn fill<D: Database>(pool: &D::Pool, dialect: &Dialect, state: &str) -> Vec<(Uuid, String)> {
    let mut rows = Vec::new();
    for secs in [3000, 2000, 1000] {
        let tx_id = Uuid::now_v7();
        for branch_id in ["a", "b", "c"] {
            let Dialect { columns, no_output, values } = dialect;
            let values = values(secs);
            let insert = format!(
                "INSERT INTO unanimo_barrier (tx_id, branch_id, cluster_id, participant, gid, action,
                     mode, state, output, reason, message, {columns})
                 VALUES ('{tx_id}', '{branch_id}', 'c', 'p', 'g', 'a', 'tcc', '{state}', {no_output}, '', '',
                     {values})"
            );
            D::run_outside(pool, insert).await;
            rows.push((secs, tx_id, branch_id.to_owned()));
        }
    }
    rows.sort();
    rows.into_iter().map(|(_, tx_id, branch_id)| (tx_id, branch_id)).collect()
}

/// Each row comes once, in order, and then no more.
async fn l4_pages_leave_out_no_row<D: Database>(dialect: Dialect) {
    let (resource, pool) = D::open().await;

    let mut prepared = fill::<D>(&pool, &dialect, "prepared").await;
    prepared.sort();
    let mut seen = Vec::new();
    for _ in 0..prepared.len() {
        let after = seen.len().checked_sub(1).map(|last| &prepared[last]);
        let page = resource.prepared_rows("p", Duration::ZERO, after, PAGE).await.unwrap();
        seen.extend(page.into_iter().map(|row| (row.tx_id, format!("{:?}", row.branch))));
        if seen.len() >= prepared.len() {
            break;
        }
    }
    let named = |(tx_id, id): &(Uuid, String)| (*tx_id, format!("Id({id:?})"));
    assert_eq!(seen, prepared.iter().map(named).collect::<Vec<_>>());
    let last = prepared.last();
    assert!(resource.prepared_rows("p", Duration::ZERO, last, PAGE).await.unwrap().is_empty());

    let committed = fill::<D>(&pool, &dialect, "committed").await;
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page =
            resource.committed_rows("p", Duration::ZERO, after.as_ref(), PAGE).await.unwrap();
        seen.extend(page.iter().map(|row| row.key.clone()));
        after = page.into_iter().next_back();
        if after.is_none() || seen.len() > committed.len() {
            break;
        }
    }
    assert_eq!(seen, committed);
}

#[tokio::test]
async fn l4_pages_leave_out_no_row_on_postgres() {
    l4_pages_leave_out_no_row::<Postgres>(POSTGRES).await;
}

#[tokio::test]
async fn l4_pages_leave_out_no_row_over_tokio() {
    l4_pages_leave_out_no_row::<OverTokio>(POSTGRES).await;
}

#[tokio::test]
async fn l4_pages_leave_out_no_row_on_mariadb() {
    l4_pages_leave_out_no_row::<MySql>(MARIADB).await;
}

#[tokio::test]
async fn l4_pages_leave_out_no_row_on_sqlite() {
    l4_pages_leave_out_no_row::<Sqlite>(SQLITE).await;
}
