//! Incarnations: one life of a coordinator, its right to write, and what it leaves behind.
//!
//! [`birth`] makes an incarnation and ends its predecessors' rights; [`lease`] keeps it alive in the
//! eyes of others, and silences it when it cannot; [`adoption`] takes over what fenced incarnations
//! left.

pub mod adoption;
pub mod birth;
pub mod lease;
