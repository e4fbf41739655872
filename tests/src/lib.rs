//! What the tests start and break: PostgreSQL servers, connections that lose acknowledgements, and
//! processes. Everything is the test process's own and goes with it, however it ends.

pub mod faulty;
pub mod installed;
pub mod postgres;
pub mod proxy;
pub mod reaper;
pub mod recorder;
pub mod relay;
pub mod scripted;
pub mod wait;
