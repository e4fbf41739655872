//! SQL of Unanimo's tables, embedded.
//!
//! The files lie beside this crate's source, by owner and database, so that they can also be applied
//! by hand. The crates that run them depend on this one and need no path outside themselves.
//!
//! There are no features: the text of one database costs a few kilobytes, and what a program does not
//! use is not linked.

/// Tables of the coordinator.
pub mod coordinator {
    use sqlx::migrate::Migrator;

    /// Migrations on PostgreSQL.
    pub static POSTGRES: Migrator = sqlx::migrate!("coordinator/postgres");

    /// Migrations on SQLite.
    pub static SQLITE: Migrator = sqlx::migrate!("coordinator/sqlite");
}

/// Tables of a participant: the barrier.
pub mod participant {
    use sqlx::migrate::Migrator;

    /// Migrations on PostgreSQL.
    pub static POSTGRES: Migrator = sqlx::migrate!("participant/postgres");

    /// Migrations on MariaDB and MySQL.
    pub static MYSQL: Migrator = sqlx::migrate!("participant/mysql");

    /// Migrations on SQLite.
    pub static SQLITE: Migrator = sqlx::migrate!("participant/sqlite");
}
