//! Definitions of sagas as files: reading, checking, drawing.
//!
//! A file in YAML or JSON names the steps of a saga; `docs/saga-definitions.md` is its reference.
//! [`SagaFile::parse`] reads it and reports every mistake with its line and column. With its
//! [`Inputs`] it becomes a [`Saga`], which is the request that a coordinator takes. [`graph::Graph`]
//! draws a definition, or a transaction as it stands.
//!
//! ```
//! use unanimo_saga::{Inputs, SagaFile, graph::Graph};
//!
//! let text = r#"
//! saga: trip
//! input: {who: string, nights: {type: integer, default: 1}}
//! steps:
//!   flight: {participant: airline, action: reserve, mode: tcc, payload: {for: "${input.who}"}}
//!   hotel: {participant: inn, action: reserve, mode: tcc, payload: {nights: "${input.nights}"}}
//!   pay: {participant: bank, action: charge, after: [flight, hotel], pivot: true, compensation: none}
//! "#;
//! let file = SagaFile::parse("trip.yaml", text).expect("no mistake");
//!
//! let mut inputs = Inputs::default();
//! inputs.set("who", "ann");
//! let saga = file.with(&inputs).expect("every input");
//! let gid = unanimo_core::Gid::new("trip-1").expect("an identifier");
//! let request = saga.request(&gid);
//! assert_eq!(&request.branches[0].payload.as_ref().expect("it").data[..], br#"{"for":"ann"}"#);
//! assert_eq!(&request.branches[1].payload.as_ref().expect("it").data[..], br#"{"nights":1}"#);
//!
//! println!("{}", Graph::of_definition(&file).to_text());
//!
//! let wrong = text.replace("flight, hotel", "fligth, hotel");
//! let problems = SagaFile::parse("trip.yaml", &wrong).expect_err("a misspelt step");
//! assert_eq!(
//!     problems.to_string(),
//!     "trip.yaml:7:52: steps.pay.after[0] must be the name of a step, \"fligth\" is none; did you \
//!      mean flight?"
//! );
//! ```

mod definition;
mod fields;
mod fill;
pub mod graph;
mod inputs;
mod nearest;
mod places;
mod problem;
mod reader;
mod schema;
mod tree;
mod wire;

pub use definition::{Error, FILE_BYTES_MAX, Saga, SagaFile};
pub use inputs::Inputs;
pub use problem::{Place, Problem, Problems};
pub use schema::{SCHEMA_URL, schema};
