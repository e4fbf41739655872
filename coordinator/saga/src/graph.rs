//! Graphs of sagas: of a definition, and of a transaction as it is or was.
//!
//! [`Graph::to_text`] is for a terminal, [`Graph::to_svg`] a picture without references to anything
//! else, and [`Graph::to_mermaid`] a text that many pages draw. All draw the steps in the order in which
//! they run: what stands further down waits for what it is connected with further up. A connection that
//! follows from others is not drawn.

mod layout;
mod mermaid;
mod model;
mod order;
mod svg;
mod text;

pub use model::{Graph, Kind, State, Step};
