//! Check of the links between pages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Folders without pages of the project.
const OTHERS: [&str; 4] = ["target", ".git", ".venv", "unanimo-data"];

/// Checks that every relative link of every page has a target.
pub(crate) fn check() -> Result<()> {
    let mut pages = Vec::new();
    collect(Path::new("."), &mut pages)?;
    let mut broken = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page)?;
        let folder = page.parent().unwrap_or(Path::new("."));
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { folder.join(path) };
            if !target.exists() {
                broken.push(format!("{}: {link} leads nowhere", page.display()));
            } else if !anchor.is_empty() && !has_heading(&target, anchor)? {
                broken.push(format!("{}: {link} has no such heading", page.display()));
            }
        }
    }
    if !broken.is_empty() {
        bail!("broken links:\n  {}", broken.join("\n  "));
    }
    Ok(())
}

fn collect(folder: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !OTHERS.contains(&name) {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    Ok(())
}

/// Links of a page into this repository: the text in `](…)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    links.map(|(link, _)| link).filter(|link| !link.contains("://"))
}

fn has_heading(page: &Path, anchor: &str) -> Result<bool> {
    let text = fs::read_to_string(page)?;
    let headings = text.lines().filter(|line| line.starts_with('#'));
    Ok(headings.map(anchor_of).any(|heading| heading == anchor))
}

/// Anchor of a heading, as hosts of Markdown make it: lower case, hyphens for spaces, and no other
/// punctuation.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
