//! The README's table of who may do what, and the comments of the calls.

use std::collections::BTreeSet;

use prost_types::{FileDescriptorProto, FileDescriptorSet};

/// Columns of the table.
const ROLES: [&str; 4] = ["initiator", "participant", "operator", "viewer"];

/// Field numbers in `descriptor.proto`, of which paths to comments are made.
const SERVICE: i32 = 6;
const METHOD: i32 = 2;

/// A call, and the roles that may make it.
type Callers = BTreeSet<(String, Vec<&'static str>)>;

/// Callers by the comments. Calls that coordinators make are left out.
pub(crate) fn in_comments(set: &FileDescriptorSet) -> Callers {
    set.file.iter().flat_map(of_file).collect()
}

fn of_file(file: &FileDescriptorProto) -> Vec<(String, Vec<&'static str>)> {
    let comment = |service: usize, method: usize| {
        let path = [SERVICE, service as i32, METHOD, method as i32];
        let mut locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let location = locations.find(|location| location.path == path);
        location.map(|location| location.leading_comments().replace('\n', " ")).unwrap_or_default()
    };
    let mut found = Vec::new();
    for (s, service) in file.service.iter().enumerate() {
        for (m, method) in service.method.iter().enumerate() {
            let words = comment(s, m).split_whitespace().collect::<Vec<_>>().join(" ");
            let (_, caller) = words.split_once("Caller: ").unwrap_or_else(|| {
                panic!("the comment of {} does not tell its caller", method.name())
            });
            if !caller.starts_with("coordinator") {
                found.push((method.name().to_owned(), caller.to_owned()));
            }
        }
    }
    let of = |name: &str| found.iter().find(|(other, _)| other == name);
    let meant = |caller: &String| {
        let other = caller.strip_prefix("as ").and_then(|other| of(other.trim_end_matches('.')));
        other.map_or_else(|| caller.clone(), |(_, caller)| caller.clone())
    };
    let roles = |caller: String| ROLES.into_iter().filter(|role| caller.contains(role)).collect();
    found.iter().map(|(name, caller)| (name.clone(), roles(meant(caller)))).collect()
}

/// Callers by the table.
pub(crate) fn in_table(readme: &str) -> Callers {
    let head = format!("| rpc | {} |", ROLES.join(" | "));
    let (_, table) = readme.split_once(&head).expect("a table of callers in the README");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let name = cells.next().unwrap_or_default().trim_matches('`').to_owned();
        let roles = ROLES.into_iter().zip(cells).filter(|(_, cell)| !cell.is_empty());
        (name, roles.map(|(role, _)| role).collect())
    })
    .collect()
}
