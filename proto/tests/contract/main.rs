//! The wire contract only ever grows, and looks the same everywhere.
//!
//! The rules are those of buf's categories `FILE` (breaking changes), `STANDARD` and `COMMENTS` (lint),
//! applied to descriptors, so that no other program is needed. `baseline/unanimo.v1.bin` is the contract
//! that must be kept; `cargo xtask codegen --accept` makes the present one the baseline.

mod callers;
mod compatibility;
mod sample;
mod style;

use std::path::Path;

use prost::Message;
use prost_types::FileDescriptorSet;
use unanimo_proto::FILE_DESCRIPTOR_SET;

/// The contract that peers were built with.
const BASELINE: &[u8] = include_bytes!("../../baseline/unanimo.v1.bin");

/// Files of ours: the sets hold Google's, too.
fn ours(mut set: FileDescriptorSet) -> FileDescriptorSet {
    set.file.retain(|file| file.package().starts_with("unanimo."));
    set
}

fn decode(bytes: &[u8]) -> FileDescriptorSet {
    ours(FileDescriptorSet::decode(bytes).expect("a FileDescriptorSet"))
}

/// The `.proto` files as they are, comments included.
fn sources() -> FileDescriptorSet {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(root.join("unanimo/v1")).expect("the contract's folder");
    let files = entries.map(|entry| entry.expect("a file").path());
    let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "proto"));
    ours(protox::compile(files, [root]).expect("a contract that compiles"))
}

#[test]
fn the_contract_keeps_what_peers_rely_on() {
    let breaks = compatibility::breaks(&decode(BASELINE), &decode(FILE_DESCRIPTOR_SET));
    let list = breaks.join("\n  ");
    assert!(
        breaks.is_empty(),
        "a peer that was built with proto/baseline would no longer understand the contract:\n  {list}\n\
         If that is meant, `cargo xtask codegen --accept` makes this contract the baseline."
    );
}

#[test]
fn the_contract_is_written_in_one_style() {
    let faults = style::faults(&sources());
    assert!(faults.is_empty(), "style of proto/unanimo/v1:\n  {}", faults.join("\n  "));
}

#[test]
fn every_file_of_the_contract_is_served() {
    let names = |set: FileDescriptorSet| {
        let mut names: Vec<_> = set.file.into_iter().filter_map(|file| file.name).collect();
        names.sort();
        names
    };
    assert_eq!(names(sources()), names(decode(FILE_DESCRIPTOR_SET)), "run `cargo xtask codegen`");
}

#[test]
fn the_readme_tells_the_callers_of_each_call() {
    let readme = include_str!("../../README.md");
    assert_eq!(callers::in_table(readme), callers::in_comments(&sources()));
}
