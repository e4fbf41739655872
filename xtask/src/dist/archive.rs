//! Packing of a folder so that the same content gives the same bytes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

/// Packs the files of a folder under a name, with one time, one owner and sorted paths.
pub(super) fn pack(folder: &Path, name: &str, epoch: u64) -> Result<Vec<u8>> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    // The header of gzip names no file and no time, and the same system everywhere.
    let gzip =
        GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(gzip);
    for file in files {
        let content = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        let is_program = fs::metadata(&file)?.permissions().mode() & 0o100 != 0;
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(content.len())?);
        header.set_mtime(epoch);
        header.set_mode(if is_program { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        let path = Path::new(name).join(file.strip_prefix(folder)?);
        tar.append_data(&mut header, path, content.as_slice())?;
    }
    Ok(tar.into_inner()?.finish()?)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => collect(&path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::{Duration, SystemTime};

    use super::*;

    /// Writes the same content in another order, with other times and, but for programs, other modes.
    fn folder(place: &Path, order: [usize; 3], modes: [u32; 2], age: Duration) -> PathBuf {
        let files = [("bin/unanimo", "program"), ("README.md", "text"), ("share/man/a.1", "page")];
        for index in order {
            let (path, content) = files[index];
            let path = place.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
            fs::write(&path, content).expect("write");
            let mode = modes[usize::from(index != 0)];
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set the mode");
            let file = fs::File::options().append(true).open(&path);
            file.and_then(|file| file.set_modified(SystemTime::now() - age)).expect("set the time");
        }
        place.to_owned()
    }

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let places = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let hour = Duration::from_secs(3600);
        let one = folder(places[0].path(), [0, 1, 2], [0o755, 0o644], hour);
        let other = folder(places[1].path(), [2, 1, 0], [0o700, 0o600], 2 * hour);
        let packed = pack(&one, "unanimo-1", 1_700_000_000).expect("pack");
        assert_eq!(packed, pack(&other, "unanimo-1", 1_700_000_000).expect("pack"));
        assert_ne!(packed, pack(&other, "unanimo-1", 1_700_000_001).expect("pack"));
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        let entries = archive.entries().expect("entries").map(|entry| {
            let mut entry = entry.expect("an entry");
            let mut content = String::new();
            entry.read_to_string(&mut content).expect("read");
            let header = entry.header();
            let path = entry.path().expect("a path").display().to_string();
            (path, content, header.mode().expect("a mode"), header.mtime().expect("a time"))
        });
        let expected = [
            ("unanimo-1/README.md", "text", 0o644),
            ("unanimo-1/bin/unanimo", "program", 0o755),
            ("unanimo-1/share/man/a.1", "page", 0o644),
        ];
        let expected = expected
            .map(|(path, text, mode)| (path.to_owned(), text.to_owned(), mode, 1_700_000_000));
        assert_eq!(entries.collect::<Vec<_>>(), expected);
    }
}
