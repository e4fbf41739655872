//! The examples in Python are written for the oldest version that they name.

use std::fs;

use super::{python, root};

/// Reads each file as that version would, and says its name; fails at what that version does not know.
const READ: &str = "
import ast, pathlib, sys
version = tuple(map(int, sys.argv[1].split('.')))
for file in sorted(pathlib.Path(sys.argv[2]).rglob('*.py')):
    ast.parse(file.read_text(), str(file), feature_version=version)
    print(file.name)
";

#[test]
fn examples_are_written_for_the_oldest_version_that_they_name() {
    for folder in ["python-participant", "python-initiator"] {
        let folder = root().join("examples").join(folder);
        let readme = fs::read_to_string(folder.join("README.md")).unwrap();
        let named = readme.lines().find_map(|line| line.strip_prefix("Python "));
        let oldest = named.and_then(|rest| rest.split_once(" or later")).unwrap().0;
        let read = |version: &str, folder: &std::path::Path| {
            let mut command = python();
            command.args(["-c", READ, version]).arg(folder);
            command.output().unwrap()
        };
        let ran = read(oldest, &folder);
        let (names, errors) =
            (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{errors}");
        let files = fs::read_dir(&folder).unwrap().filter(|file| {
            file.as_ref().unwrap().path().extension().is_some_and(|ext| ext == "py")
        });
        assert_eq!(names.lines().count(), files.count(), "{names}");
        // What a newer version brought is found.
        let newer = unanimo_tests::reaper::run_folder().join(uuid::Uuid::now_v7().to_string());
        fs::create_dir(&newer).unwrap();
        fs::write(newer.join("newer.py"), "try:\n    pass\nexcept* ValueError:\n    pass\n")
            .unwrap();
        assert!(!read(oldest, &newer).status.success(), "3.11 brought `except*`");
    }
}
