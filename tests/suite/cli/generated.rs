//! Completions and pages of the manual, made from the arguments themselves.

use std::collections::BTreeSet;
use std::process::Command;

use super::{new_path, run};

#[tokio::test]
async fn shells_complete_commands_and_flags() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let ran = run(&["completions", shell]).await;
        ran.check(0);
        let script = &ran.out;
        for word in ["submit", "database-url", "attention"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
        assert!(!script.contains("under-test"), "{shell} completes the program's real name");
    }
    // What bash makes of it.
    let path = new_path(".bash");
    std::fs::write(&path, &run(&["completions", "bash"]).await.check(0).out).unwrap();
    let complete = format!(
        "source {} && COMP_WORDS=(unanimo tx sub) COMP_CWORD=2 && _unanimo unanimo sub tx && echo ${{COMPREPLY[@]}}",
        path.display()
    );
    let completed = Command::new("bash").args(["--norc", "-c", &complete]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&completed.stdout).trim(), "submit", "{completed:?}");
    run(&["completions", "cmd"]).await.check(2);
}

#[tokio::test]
async fn each_command_has_a_page_of_the_manual() {
    let folder = new_path("-man");
    run(&["man", folder.to_str().unwrap()]).await.check(0);
    let entries = std::fs::read_dir(&folder).unwrap();
    let pages: BTreeSet<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for page in ["unanimo.1", "unanimo-serve.1", "unanimo-tx-submit.1", "unanimo-saga-run.1"] {
        assert!(pages.contains(page), "{pages:?}");
    }
    assert!(!pages.iter().any(|page| page.contains("reference")), "hidden: {pages:?}");
    let page = std::fs::read_to_string(folder.join("unanimo-tx-submit.1")).unwrap();
    assert!(page.contains("Exit codes") && page.contains("\\-\\-wait"), "{page}");
    // A folder that cannot be made.
    let file = folder.join("unanimo.1/below");
    let ran = run(&["man", file.to_str().unwrap()]).await;
    assert!(ran.check(1).err.contains("failed to write the pages of the manual"));
}
