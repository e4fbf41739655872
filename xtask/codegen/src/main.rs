//! Generates the Rust code of `unanimo-proto` into the folder named by the first argument.
//!
//! A program of its own because its dependencies are heavy and nobody but the contract's editor and
//! CI needs them. It compiles the `.proto` files itself, without `protoc`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use prost::Message;

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
    // Reflection serves names and types; comments would only make every binary larger.
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    std::fs::write(out.join("unanimo.v1.bin"), bare.encode_to_vec())?;

    tonic_prost_build::configure()
        // Payloads are handed on as they came in, without a copy.
        .bytes(".")
        .out_dir(&out)
        .compile_fds(descriptors)?;
    Ok(())
}
