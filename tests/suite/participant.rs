//! Participants by themselves: their service is called as a coordinator would call it, and as one
//! never would.

mod model;
mod slots;
