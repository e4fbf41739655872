//! What the SDK promises of a participant, on every database.

mod barrier;
mod calls;
mod databases;
mod handler;
mod mariadb;
