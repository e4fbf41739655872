//! Codes of the databases, and what each means: five letters or digits of PostgreSQL, a smaller number of SQLite.

/// Tells whether the database is well, and gave up on the rows that it was to read or write.
pub(in crate::store) fn is_of_data(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    let Some(code) = error.code() else { return false };
    // PostgreSQL: data exceptions, violated constraints, damaged data, and errors that a trigger raises.
    let classes = ["22", "23", "XX", "P0"];
    match code.len() {
        5 => classes.contains(&&code[..2]),
        // SQLite: CORRUPT.
        _ => code.parse::<i32>().is_ok_and(|code| code & 0xff == 11),
    }
}

/// Tells whether a database does not write for want of what all writes need: space, memory, a disk that works.
pub(in crate::store) fn is_for_want(error: &(dyn std::error::Error + 'static)) -> bool {
    let Some(sqlx::Error::Database(error)) = error.downcast_ref() else { return false };
    let Some(code) = error.code() else { return false };
    match code.len() {
        // PostgreSQL: insufficient resources, and errors of the system around it.
        5 => code.starts_with("53") || code.starts_with("58"),
        // SQLite: FULL, NOMEM and IOERR.
        _ => code.parse::<i32>().is_ok_and(|code| matches!(code & 0xff, 7 | 10 | 13)),
    }
}

/// Tells whether PostgreSQL gave up on what it has stored: corrupted data or indexes. Internal errors of other kinds are of
/// whatever runs there, and a failed read of the disk (58030) may be of all that is stored.
pub(in crate::store) fn is_corrupt(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.code().is_some_and(|code| code == "XX001" || code == "XX002")
}

/// Tells whether SQLite met a damaged page.
pub(in crate::store) fn is_damage(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    // SQLite: CORRUPT. PostgreSQL's codes have five letters.
    let Some(code) = error.code().filter(|code| code.len() < 5) else { return false };
    code.parse::<i32>().is_ok_and(|code| code & 0xff == 11)
}

/// Tells whether SQLite's extended result code means that there is no space: FULL; IOERR_WRITE, for a quota or a
/// limit of the file's size; IOERR_SHMSIZE. The write itself has failed then, and the statement with it.
pub(in crate::store) fn is_full(code: i32) -> bool {
    matches!(code, 13 | 778 | 4874)
}
