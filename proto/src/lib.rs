//! The wire contract of the Unanimo coordinator: `unanimo/v1/*.proto` and the types generated from it.
//!
//! The `.proto` files beside this crate are the contract, and the only thing that a participant in
//! another language needs. The generated code is checked in, so that nobody needs `protoc`;
//! `cargo xtask codegen` makes it anew.
//!
//! The four services: [`v1::coordinator_service_client`] for initiators,
//! [`v1::participant_service_server`] for participants,
//! [`v1::participant_directory_service_client`] to register, and
//! [`v1::operator_service_client`] for operators.

mod codec;
mod elements;
#[cfg(feature = "over-http")]
pub mod over_http;
mod traceparent;

pub use self::elements::{ELEMENTS_MAX, elements};
pub use self::traceparent::Traceparent;

/// Package `unanimo.v1`.
pub mod v1 {
    #![expect(clippy::allow_attributes, reason = "generated code")]
    include!("gen/unanimo.v1.rs");
}

/// Codes that stay the same however often a request is sent, where the status has no reason of the coordinator: it comes from
/// gRPC, from a proxy, or from whatever is at the address.
pub const PERMANENT_CODES: [tonic::Code; 7] = [
    tonic::Code::InvalidArgument,
    tonic::Code::NotFound,
    tonic::Code::OutOfRange,
    tonic::Code::PermissionDenied,
    tonic::Code::ResourceExhausted,
    tonic::Code::Unauthenticated,
    tonic::Code::Unimplemented,
];

/// The encoded `FileDescriptorSet` of every file of the contract, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/unanimo.v1.bin");

/// The same with the comments of the contract, for descriptions of it.
pub const COMMENTED_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/unanimo.v1.commented.bin");
