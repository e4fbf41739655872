//! Generates the Rust code of `unanimo-proto` into the folder named by the first argument.
//!
//! It is a program of its own because its dependencies are large, and only CI and developers who
//! change the contract need them. It compiles the `.proto` files without `protoc`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use prost::Message;
use prost_types::FileDescriptorSet;

const FILES: [&str; 5] = [
    "unanimo/v1/transaction.proto",
    "unanimo/v1/coordinator.proto",
    "unanimo/v1/participant.proto",
    "unanimo/v1/directory.proto",
    "unanimo/v1/operator.proto",
];

fn main() -> anyhow::Result<()> {
    let out: PathBuf = std::env::args_os().nth(1).context("usage: unanimo-codegen FOLDER")?.into();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    std::fs::create_dir_all(&out)?;

    let descriptors = protox::compile(FILES, [&root])?;
    // Reflection needs names and types. The description of the HTTP API needs the comments as well.
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    std::fs::write(out.join("unanimo.v1.bin"), bare.encode_to_vec())?;
    std::fs::write(out.join("unanimo.v1.commented.bin"), commented(&descriptors).encode_to_vec())?;

    let mut config = prost_build::Config::new();
    // The codec finds a message's fields by its name.
    config.enable_type_names();
    tonic_prost_build::configure()
        // Payloads as `Bytes` are passed on without a copy.
        .bytes(".")
        .codec_path("crate::codec::Codec")
        .out_dir(&out)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// Returns the contract's own files with the comments above their items, and without the places of anything.
fn commented(descriptors: &FileDescriptorSet) -> FileDescriptorSet {
    let mut commented = descriptors.clone();
    for file in &mut commented.file {
        if !file.package().starts_with("unanimo.") {
            file.source_code_info = None;
            continue;
        }
        if let Some(info) = &mut file.source_code_info {
            info.location.retain(|location| location.leading_comments.is_some());
            for location in &mut info.location {
                location.span.clear();
                location.leading_detached_comments.clear();
            }
        }
    }
    commented
}
