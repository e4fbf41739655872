//! Parts of the row's statements that are the same on every database.

use std::time::{SystemTime, UNIX_EPOCH};

/// Binds a new row, in the order of its columns: tx_id, branch_id, cluster_id, participant, gid,
/// action, mode, state, reason, message, and `prepare_until` in milliseconds since 1970. A macro,
/// because each database has its own types.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
macro_rules! bind_new_row {
    ($query:expr, $tx_id:expr, $call:expr, $row:expr, $until:expr) => {
        $query
            .bind($tx_id)
            .bind(&$call.branch().branch_id)
            .bind(&$call.branch().cluster_id)
            .bind(&$call.branch().participant)
            .bind(&$call.branch().gid)
            .bind(&$call.call.action)
            .bind($crate::wire::mode_name($call.mode))
            .bind($row.state.as_str())
            .bind(&$row.refusal.reason)
            .bind(&$row.refusal.message)
            .bind($until.map($crate::barrier::unix_ms))
    };
}
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) use bind_new_row;

/// Binds what an update changes, in the order of the columns: state, output, output_type, reason,
/// message; and then the row's key. A macro, because each database has its own types.
#[cfg(any(feature = "mysql", feature = "sqlite"))]
macro_rules! bind_outcome {
    ($query:expr, $row:expr, $tx_id:expr, $call:expr) => {
        $query
            .bind($row.state.as_str())
            .bind($row.output.data.as_ref())
            .bind($row.output.media_type.as_ref())
            .bind(&$row.refusal.reason)
            .bind(&$row.refusal.message)
            .bind($tx_id)
            .bind(&$call.branch().branch_id)
    };
}
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) use bind_outcome;

/// Returns a time in milliseconds since 1970.
pub(crate) fn unix_ms(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
