//! The test cases of the pure parts, one file each under `tests/cases/<kind>`: a new case is a new file.

use std::path::Path;

/// Calls `check` with name and text of each case of a kind. A kind without cases fails.
pub(crate) fn each(kind: &str, mut check: impl FnMut(&str, &str)) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(kind);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no cases", folder.display());
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy();
        check(&name, &std::fs::read_to_string(&file).unwrap());
    }
}
