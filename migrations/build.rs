//! Makes Cargo build again when an SQL file is new: the macros alone do not notice it.

fn main() {
    for folder in ["coordinator", "participant"] {
        println!("cargo:rerun-if-changed={folder}");
    }
}
