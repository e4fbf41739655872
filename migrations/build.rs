//! Makes Cargo embed a new SQL file: the macros alone do not notice one.

fn main() {
    for folder in ["coordinator", "participant"] {
        println!("cargo:rerun-if-changed={folder}");
    }
}
