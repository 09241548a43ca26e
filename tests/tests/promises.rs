//! SECURITY.md promises nothing that no test holds.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in directory.read_dir().unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let hidden = name.to_string_lossy().starts_with('.');
        if path.is_dir() && !hidden && name != "target" {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Names of functions that follow a `#[test]`.
fn tests_of(source: &str) -> impl Iterator<Item = &str> {
    source.split("#[test]").skip(1).filter_map(|rest| {
        let (_, from_name) = rest.split_once("fn ")?;
        from_name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()
    })
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let mut files = Vec::new();
    rust_files(&workspace(), &mut files);
    let sources: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let tests: HashSet<&str> = sources.iter().flat_map(|source| tests_of(source)).collect();

    let text = std::fs::read_to_string(workspace().join("SECURITY.md")).unwrap();
    let promises: Vec<&str> = text.lines().filter(|line| line.starts_with("| P")).collect();
    assert!(promises.len() >= 29, "only {} promises were found", promises.len());
    let mut numbers = HashSet::new();
    for promise in promises {
        let number = promise.split('|').nth(1).unwrap().trim();
        assert!(numbers.insert(number), "there are two promises {number}");
        let last_column = promise.trim_end_matches('|').rsplit('|').next().unwrap();
        let named: Vec<&str> = last_column.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {promise}");
        for name in named {
            assert!(tests.contains(name), "there is no test {name}: {promise}");
        }
    }
}
