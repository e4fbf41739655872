//! Files that are generated from others.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};

use crate::step::cargo;

const GENERATED: &str = "proto/src/gen";

/// Folder of the contract's baseline; see proto/tests/contract.
const BASELINE: &str = "proto/baseline/unanimo.v1.bin";

/// Generates the gRPC code; `--accept` also makes the present contract the baseline.
pub(crate) fn codegen(arguments: &[&str]) -> Result<()> {
    generate(Path::new(GENERATED))?;
    match arguments {
        [] => Ok(()),
        ["--accept"] => {
            fs::copy(format!("{GENERATED}/unanimo.v1.bin"), BASELINE)?;
            eprintln!(
                "{BASELINE} is the contract as it is now: later changes are compared with it"
            );
            Ok(())
        }
        _ => bail!("`cargo xtask codegen` takes `--accept` or nothing"),
    }
}

fn generate(folder: &Path) -> Result<()> {
    let folder = folder.to_str().context("a folder whose name is text")?;
    cargo(["run", "--quiet", "-p", "unanimo-codegen", "--", folder])
}

/// Checks that the gRPC code is equal to the code generated from its sources.
pub(crate) fn check_codegen() -> Result<()> {
    let made = env::current_dir()?.join("target/generated");
    fs::create_dir_all(&made)?;
    generate(&made)?;
    for entry in fs::read_dir(GENERATED)? {
        let file = entry?.path();
        let name = file.file_name().context("a file")?;
        if fs::read(&file)? != fs::read(made.join(name))? {
            bail!("{} is not what proto/ says: run `cargo xtask codegen`", file.display());
        }
    }
    Ok(())
}

/// Generates the reference pages, the descriptions of the API and of participants over HTTP, and the JSON Schema of definitions of sagas.
pub(crate) fn reference() -> Result<()> {
    fs::create_dir_all("docs/reference")?;
    for page in ["config", "metrics", "errors", "limits", "features"] {
        let printed = printed_by_program(&["reference", page])?;
        fs::write(format!("docs/reference/{page}.md"), printed)?;
    }
    for description in ["openapi", "participant-openapi"] {
        let printed = printed_by_program(&["reference", description])?;
        fs::write(format!("docs/reference/{description}.json"), printed)?;
    }
    fs::write("docs/reference/saga.schema.json", printed_by_program(&["saga", "schema"])?)?;
    Ok(())
}

/// Returns the output of the program `unanimo` with these arguments.
fn printed_by_program(arguments: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "-p", "unanimo", "--"]).args(arguments);
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    Ok(output.stdout)
}
