//! Statements that list transactions.

/// Ends of the range of identifiers in which what is open may not be parked.
macro_rules! young_from {
    () => {
        "(SELECT min(parked_before::text)::uuid FROM fences WHERE NOT all_parked)"
    };
}
macro_rules! young_until {
    () => {
        "(SELECT max(parks_from::text)::uuid FROM fences WHERE NOT all_parked)"
    };
}
pub(super) use {young_from, young_until};

/// Completes a SELECT of identifiers for a page, newest first, with the bytes of each one's rows.
macro_rules! page_of {
    ($($ids:expr),*) => {
        concat!(
            "
SELECT tx_id, (SELECT coalesce(sum(length(body)), 0)::int8 FROM log WHERE log.tx_id = page.tx_id) FROM (",
            $($ids,)*
            "
ORDER BY tx_id DESC LIMIT $2) AS page ORDER BY tx_id DESC"
        )
    };
}

/// Each bound of the log is a value that the planner does not see: to weigh one that it sees it reads that end of the index,
/// past all that was purged there since it was cleaned last.
///
/// Identifiers of all transactions, each of which has one row with the time of its begin; of those that need a person;
/// and of those that are open.
pub(super) const PAGE_OF_ALL: &str = page_of!(
    "
SELECT tx_id FROM log
WHERE tx_id < (SELECT $1::uuid) AND tx_id >= (SELECT $3::uuid) AND created_ms IS NOT NULL"
);
pub(super) const PAGE_OF_ATTENTION: &str = page_of!(
    "
SELECT tx_id FROM (
    SELECT tx_id FROM parked WHERE reasons <> 0 UNION SELECT tx_id FROM aside) AS known
WHERE tx_id < $1 AND tx_id >= $3"
);
/// Identifiers of those that need a person. It reads no row of the log.
pub(super) const NAMES_OF_ATTENTION: &str = "
SELECT tx_id, 0::int8 FROM (
    SELECT tx_id FROM parked WHERE reasons <> 0 UNION SELECT tx_id FROM aside) AS known
WHERE tx_id < $1 AND tx_id >= $3
ORDER BY tx_id DESC LIMIT $2";
pub(super) const PAGE_OF_OPEN: &str = page_of!(
    "
SELECT tx_id FROM (
    (SELECT tx_id FROM parked WHERE tx_id < $1 AND tx_id >= $3 AND owner >= 0 ORDER BY tx_id DESC LIMIT $2)
    UNION
    (SELECT tx_id FROM log
    WHERE tx_id < (SELECT $1::uuid) AND tx_id >= (SELECT $3::uuid) AND created_ms IS NOT NULL AND tx_id >= ",
    young_from!(),
    " AND tx_id < ",
    young_until!(),
    "
    ORDER BY tx_id DESC LIMIT $2)
) AS known"
);
