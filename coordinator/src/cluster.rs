//! Incarnations: one life of a coordinator, and its right to write.
//!
//! [`birth`] makes an incarnation and ends its predecessors' rights; [`lease`] keeps it alive in the
//! eyes of others, and silences it when it cannot. What fenced incarnations left is adopted by the
//! engine, which holds it in memory then.

pub mod birth;
pub mod lease;
