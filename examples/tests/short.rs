//! Handlers of the simple case are short: the blocks of the examples and of a guide are counted, with their signatures,
//! as `cargo fmt` writes them.

use std::path::Path;

/// Lines of a TCC action, and of one of two-phase commit.
const TCC_LINES_MAX: usize = 25;
const TWO_PHASE_LINES_MAX: usize = 12;

/// Words of the traits' signatures.
const SPELLED_OUT: &[&str] = &["&mut ", "Connection", "Call<", "(): ()", "impl ", "Box::pin"];

#[test]
fn handlers_are_short() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, begins, ends, most) in [
        ("src/bin/shop.rs", ".tcc_fn(\"reserve\"", ".serve(", TCC_LINES_MAX),
        ("src/tcc.rs", ".tcc_fn(\"debit\"", ".tcc_fn(\"credit\"", TCC_LINES_MAX),
        ("src/tcc.rs", ".tcc_fn(\"credit\"", "}\n}", TCC_LINES_MAX),
        (
            "src/two_phase.rs",
            ".two_phase_fn(\"debit\"",
            ".two_phase_fn(\"credit\"",
            TWO_PHASE_LINES_MAX,
        ),
        ("src/two_phase.rs", ".two_phase_fn(\"credit\"", "}\n}", TWO_PHASE_LINES_MAX),
        ("../docs/own-service.md", ".tcc_fn(\"reserve\"", "\nfn bank", TCC_LINES_MAX),
        ("../docs/own-service.md", ".two_phase_fn(\"take\"", "```", TWO_PHASE_LINES_MAX),
        ("../docs/own-service.md", ".tcc_fn(\"debit\"", ".saga(\"pay\"", TCC_LINES_MAX),
        ("../docs/first-participant.md", ".tcc_fn(\"reserve\"", ".serve(", TCC_LINES_MAX),
        ("../docs/first-participant.md", ".saga_fn(\"send\"", ".serve(", TCC_LINES_MAX),
        ("../docs/two-phase-commit.md", ".two_phase_fn(\"debit\"", "```", TWO_PHASE_LINES_MAX),
        ("../participant-sdk/src/lib.rs", ".tcc_fn(\"reserve\"", ".serve(", TCC_LINES_MAX),
        (
            "../participant-sdk/src/lib.rs",
            ".two_phase_fn(\"debit\"",
            ".serve(",
            TWO_PHASE_LINES_MAX,
        ),
    ] {
        let text = std::fs::read_to_string(root.join(file)).expect(file);
        let from = text.find(begins).unwrap_or_else(|| panic!("{begins} in {file}"));
        let block = text[from..].split(ends).next().expect("a block").trim_end();
        let lines = block.lines().count();
        assert!((4..=most).contains(&lines), "{lines} lines of {begins} in {file}:\n{block}");
        for word in SPELLED_OUT {
            assert!(
                !block.contains(word),
                "{word} is spelled out for {begins} in {file}:\n{block}"
            );
        }
    }
}
