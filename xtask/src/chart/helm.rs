//! Checks of the chart by Helm, where it is installed or Go can install it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{CHART, compare};
use crate::step::{has, run};

/// Module of Helm, for `go install`.
const MODULE: &str = "helm.sh/helm/v3/cmd/helm@v3.22.0";

/// Longest time for it, in seconds: it compiles some hundred packages.
const INSTALL_SECS: &str = "900";

/// Folder of programs that chores have installed.
const TOOLS: &str = "target/tools";

/// Folder of what the values under `ci/` render.
const RENDERED: &str = "deploy/helm/rendered";

/// Version of Kubernetes to render for: a Helm that Go has installed names none.
const KUBERNETES: &str = "1.31.0";

/// Options that are refused, and the beginning of what is said then. The second ones have a mistake each; the first
/// ones are all that is needed.
const NEEDED: [&str; 2] = ["database.existingSecret=d", "tls.existingSecret=t"];
const REFUSED: [(&str, &str); 9] = [
    ("database.existingSecret=", "set database.existingSecret, or database.url"),
    ("database.url=postgres://h/d", "set database.existingSecret or database.url, not both"),
    (
        "database.existingSecret=,database.url=sqlite:x.db",
        "database.url must begin with postgres://",
    ),
    ("tls.existingSecret=", "set tls.existingSecret, or tls.certificate and tls.key"),
    ("tls.existingSecret=,tls.certificate=x", "tls.certificate needs tls.key"),
    ("tls.existingSecret=,tls.certificate=x,tls.key=x", "set tls.ca, or turn"),
    (
        "tls.clientCertificates=false",
        "callers are known by tls.clientCertificates or by identities",
    ),
    ("settings.leese=20s", "leese"),
    ("standby=1", "standby"),
];

/// Values that look like numbers, though they are texts, and what they render: an object of Kubernetes with a number there is
/// none.
const TEXTS: [(&str, &str); 6] = [
    ("nameOverride=12", "app.kubernetes.io/name: \"12\""),
    ("priorityClassName=1e3", "priorityClassName: \"1e3\""),
    ("tls.existingSecret=34", "secretName: \"34\""),
    ("identities.existingSecret=56", "secretName: \"56\""),
    ("database.existingSecret=78", "name: \"78\""),
    ("database.secretKey=90", "key: \"90\""),
];

/// Renders the chart and compares it, or says why that cannot be done.
pub(super) fn check(accept: bool) -> Result<()> {
    let Some(helm) = find()? else {
        eprintln!("    Helm is not there, and Go could not install it: the chart was not rendered");
        return Ok(());
    };
    run(Command::new(&helm)
        .args(["lint", "--quiet", "--strict", CHART, "--values"])
        .arg(values_of("everything")))?;
    for name in ["mutual-tls", "everything", "insecure"] {
        let values = values_of(name);
        let (is_well, text) = render(&helm, &["--values", &values])?;
        if !is_well {
            bail!("{values} is not rendered: {text}");
        }
        compare(&format!("{RENDERED}/{name}.yaml"), &text, accept)?;
    }
    let needed = NEEDED.join(",");
    let (is_well, text) = render(&helm, &["--set", &needed])?;
    if !is_well {
        bail!("{needed} is refused: {text}");
    }
    for (text, expected) in TEXTS {
        let (is_well, rendered) = render(&helm, &["--set", &needed, "--set-string", text])?;
        if !is_well || !rendered.contains(expected) {
            bail!("{text} must render `{expected}`, and the answer is: {rendered}");
        }
    }
    for (mistake, expected) in REFUSED {
        let (is_well, text) = render(&helm, &["--set", &needed, "--set", mistake])?;
        if is_well || !text.contains(expected) {
            bail!("{mistake} must be refused with `{expected}`, and the answer is: {text}");
        }
    }
    Ok(())
}

fn values_of(name: &str) -> String {
    format!("{CHART}/ci/{name}.yaml")
}

/// Renders the chart: whether it was well, and the output or the error.
fn render(helm: &Path, options: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(helm);
    command.args([
        "template",
        "unanimo",
        CHART,
        "--namespace",
        "shop",
        "--kube-version",
        KUBERNETES,
    ]);
    let output = command.args(options).output().context("run Helm")?;
    let is_well = output.status.success();
    let text = if is_well { output.stdout } else { output.stderr };
    Ok((is_well, String::from_utf8(text)?))
}

/// Finds Helm, or lets Go install it.
fn find() -> Result<Option<PathBuf>> {
    if has("helm") {
        return Ok(Some("helm".into()));
    }
    let own = Path::new(TOOLS).join("helm");
    if own.exists() {
        return Ok(Some(own));
    }
    // Where its own installer puts it, and no shell may have looked.
    let places = ["go", "/usr/local/go/bin/go"];
    let Some(go) = places.iter().find(|go| has(go)) else { return Ok(None) };
    eprintln!("    go install {MODULE}: some minutes, the first time");
    fs::create_dir_all(TOOLS)?;
    let folder = fs::canonicalize(TOOLS)?;
    // A network that swallows what is sent must not hold the checks up for ever.
    let mut install = match has("timeout") {
        true => Command::new("timeout"),
        false => Command::new(go),
    };
    if has("timeout") {
        install.args([INSTALL_SECS, go]);
    }
    let installed = run(install.args(["install", MODULE]).env("GOBIN", folder));
    if let Err(error) = installed {
        eprintln!("    {error:#}");
        return Ok(None);
    }
    Ok(Some(own))
}
