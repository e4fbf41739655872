//! SQL of Unanimo's tables, embedded.
//!
//! The files are in folders beside this crate's source, by owner and database, so that they can
//! also be applied by hand. The crates that run them depend on this one and read no file outside
//! themselves.
//!
//! There are no features: the text of one database takes a few kilobytes, and the linker drops text
//! that a program does not use.

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
