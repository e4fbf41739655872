//! Code of the tutorial: it is equal to the files that compile here.

use std::path::Path;

#[test]
fn the_tutorial_shows_the_programs_that_are_here() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect(path);
    let tutorial = read("../docs/first-participant.md");
    for (language, program) in [
        ("rust", "src/bin/shop.rs"),
        ("rust", "src/bin/order.rs"),
        ("rust", "src/bin/post.rs"),
        ("yaml", "parcel.yaml"),
    ] {
        let block = format!("```{language}\n{}```", read(program));
        assert!(tutorial.contains(&block), "docs/first-participant.md differs from {program}");
    }
}
