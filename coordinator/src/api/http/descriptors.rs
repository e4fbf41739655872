//! Descriptors of the contract's messages.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MethodDescriptor};

use crate::api::rpc::Rpc;

/// All of them, with the comments of the contract.
pub(super) static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(unanimo_proto::COMMENTED_DESCRIPTOR_SET);
    pool.expect("the descriptors are generated with the code")
});

/// Returns the descriptor of an rpc.
pub(super) fn method(rpc: Rpc) -> MethodDescriptor {
    let all = POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut of_path = all.filter(|method| Rpc::of_path(&path(method)) == Some(rpc));
    of_path.next().expect("an rpc is one of the contract")
}

/// Returns the path by which an rpc is called over gRPC.
pub(super) fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}
