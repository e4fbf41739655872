//! What the tests start and break: PostgreSQL and MariaDB servers, connections that lose
//! acknowledgements, and processes. Everything is the test process's own and goes with it, however it
//! ends.

pub mod bank_on_mariadb;
#[cfg(feature = "failpoints")]
pub mod crash;
pub mod faulty;
pub mod forward;
pub mod installed;
pub mod joining;
pub mod mariadb;
pub mod postgres;
pub mod proxy;
pub mod reaper;
pub mod recorder;
pub mod relay;
pub mod scripted;
mod server;
pub mod wait;
