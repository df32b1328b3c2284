//! The rules of the house, as tests: what no compiler checks and a reader relies on.
//!
//! Each failure names the file and the line, and the rule's reason stands beside the rule.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LINES_MAX: usize = 800;

/// What the core may be built from: nothing here does I/O, reads a clock or draws a random number.
const CORE_DEPENDENCIES: [&str; 5] = ["serde", "serde_json", "sha2", "thiserror", "uuid"];

/// A text file of the repository.
struct File {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

impl File {
    fn is(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the daemon lies below the root").to_path_buf()
}

/// Every text file that git would know: build results and hidden folders but `.ci` are left out.
fn files() -> Vec<File> {
    let root = root();
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the tree can be listed") {
            let entry = entry.expect("a folder of the tree can be listed");
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type().expect("an entry has a kind");
            if kind.is_dir() {
                let skipped =
                    matches!(name.as_str(), "target" | "node_modules" | "__pycache__") || (name.starts_with('.') && name != ".ci");
                if !skipped {
                    folders.push(entry.path());
                }
            } else if kind.is_file()
                && let Ok(text) = fs::read_to_string(entry.path())
            {
                let path = entry.path().strip_prefix(&root).expect("the walk began at the root").to_string_lossy().replace('\\', "/");
                files.push(File { path, text });
            }
        }
    }
    assert!(files.len() > 30, "the walk found only {} files", files.len());
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[track_caller]
fn assert_none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}\n  {}", found.join("\n  "));
}

/// The lines of `text` under the TOML heading `section`, up to the next heading.
fn section<'a>(text: &'a str, section: &str) -> Vec<&'a str> {
    let heading = format!("[{section}]");
    text.lines().skip_while(|line| line.trim() != heading).skip(1).take_while(|line| !line.starts_with('[')).collect()
}

#[test]
fn a_file_is_one_idea() {
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.is("rs")) {
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            found.push(format!("{}: {lines} lines", file.path));
        }
    }
    assert_none(&format!("more than {LINES_MAX} lines: which two ideas are in it?"), &found);
}

#[test]
fn nothing_is_left_for_later_in_the_code() {
    // Put together here, so that this file does not find itself.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["X", "XX"], ["HA", "CK"]].map(|parts| parts.concat());
    let macros = [["todo", "!("], ["unimplemented", "!("]].map(|parts| parts.concat());
    let mut found = Vec::new();
    for file in files() {
        if !["rs", "py", "sh", "toml", "md", "go", "js", "html"].iter().any(|extension| file.is(extension)) {
            continue;
        }
        for (number, line) in file.numbered() {
            let words: BTreeSet<&str> = line.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').collect();
            if marks.iter().any(|mark| words.contains(mark.as_str())) || macros.iter().any(|call| line.contains(call.as_str())) {
                found.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none("unfinished by its own word: finish it, or say in docs/decisions why it is absent", &found);
}

#[test]
fn an_ignored_test_says_why() {
    let bare = ["#[ig", "nore]"].concat();
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.is("rs")) {
        for (number, line) in file.numbered() {
            if line.contains(&bare) {
                found.push(format!("{}:{number}", file.path));
            }
        }
    }
    assert_none("a test that does not run needs its reason beside it", &found);
}

#[test]
fn only_the_store_names_sled() {
    let name = ["sl", "ed"].concat();
    let mut found = Vec::new();
    for file in files() {
        if file.path.starts_with("store/") {
            continue;
        }
        let uses = [format!("{name}::"), format!("use {name}"), format!("extern crate {name}")];
        for (number, line) in file.numbered() {
            let in_code = file.is("rs") && uses.iter().any(|used| line.contains(used.as_str()));
            let in_manifest = file.path != "Cargo.toml" && file.path.ends_with("Cargo.toml") && line.starts_with(&name);
            if in_code || in_manifest {
                found.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_none("the database is an inner matter of store/", &found);
}

#[test]
fn the_core_is_pure_by_its_manifest() {
    let manifest = read("daemon/core/Cargo.toml");
    let named: BTreeSet<String> = section(&manifest, "dependencies")
        .iter()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let allowed: BTreeSet<String> = CORE_DEPENDENCIES.map(str::to_owned).into();
    assert_eq!(named, allowed, "daemon/core/Cargo.toml: what the core is built from is a decision, not a convenience");
    assert!(!manifest.contains("build-dependencies"), "daemon/core has no build script");

    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--package", "gateway", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let reached: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(reached.contains("serde_json"), "cargo tree printed something else than a tree:\n{tree}");
    for impure in ["tokio", "mio", "sled", "rdkafka", "rand", "rand_core", "getrandom", "rustix"] {
        assert!(!reached.contains(impure), "daemon/core reaches {impure}");
    }
}

#[test]
fn the_core_has_no_hidden_time_state_or_chance() {
    // A hash map's order is random in every process: a run of the simulator could not be repeated from its seed.
    let impure = [
        "std::fs",
        "std::net",
        "std::env",
        "std::process",
        "std::thread",
        "std::sync::Mutex",
        "std::sync::RwLock",
        "std::io::",
        "time::Instant",
        "SystemTime",
        "HashMap",
        "HashSet",
        "static mut",
        "thread_local!",
        "OnceLock",
        "LazyLock",
    ];
    let mut found = Vec::new();
    for file in files() {
        if !file.path.starts_with("daemon/core/src/") {
            continue;
        }
        let code = file.numbered().take_while(|(_, line)| !line.contains("#[cfg(test)]"));
        for (number, line) in code.filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if let Some(name) = impure.iter().find(|name| line.contains(*name)) {
                found.push(format!("{}:{number}: {name}", file.path));
            }
        }
    }
    assert_none("time, randomness and the outside come into the core as arguments only", &found);
}

#[test]
fn every_crate_keeps_the_lints_of_the_workspace() {
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.path.ends_with("/Cargo.toml")) {
        if !file.text.contains("[package]") || file.text.contains("[workspace]") {
            continue;
        }
        if !section(&file.text, "lints").iter().any(|line| line.trim() == "workspace = true") {
            found.push(file.path.clone());
        }
    }
    assert_none("`[lints] workspace = true` is missing", &found);
}

#[test]
fn every_decision_is_in_the_index() {
    let index = read("docs/decisions/README.md");
    let mut found = Vec::new();
    let mut pages = 0;
    for file in files() {
        if let Some(page) = file.path.strip_prefix("docs/decisions/")
            && page != "README.md"
            && file.is("md")
        {
            pages += 1;
            if !index.contains(&format!("]({page})")) {
                found.push(file.path);
            }
        }
    }
    assert!(pages > 0, "no page in docs/decisions");
    assert_none("docs/decisions/README.md does not link to it", &found);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.is("md")) {
        let folder = root().join(&file.path).parent().expect("a file lies in a folder").to_path_buf();
        for (number, line) in file.numbered() {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let path = link.split('#').next().unwrap_or_default();
                if !path.is_empty() && !link.contains("://") && !link.starts_with("mailto:") && !folder.join(path).exists() {
                    found.push(format!("{}:{number}: {link}", file.path));
                }
            }
        }
    }
    assert_none("a link to a file that is not there", &found);
}

#[test]
fn each_bound_with_figures_has_a_row_on_the_operations_page() {
    let page = read("docs/operations.md");
    let chapter = page.split("## Bounds").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the page has the chapter");
    let mut names = BTreeSet::new();
    for file in files().iter().filter(|file| file.path.starts_with("daemon/src/") && file.is("rs")) {
        let code = file.text.split("#[cfg(test)]").next().unwrap_or_default();
        let begins = ["bound(\"", "bounds.get(\""].map(|call| code.split(call).skip(1));
        names.extend(begins.into_iter().flatten().filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    assert!(names.len() > 20, "only {} bounds were found", names.len());
    let missing: Vec<_> = names.into_iter().filter(|name| !chapter.contains(&format!("`{name}`"))).collect();
    assert_none("bounds without a row in docs/operations.md", &missing);

    let sources: String = files().into_iter().filter(|file| file.is("rs")).map(|file| file.text).collect();
    fn named(row: &str) -> impl Iterator<Item = &str> {
        row.rsplit(" | ").next().unwrap_or_default().split('`').skip(1).step_by(2)
    }
    let rows = chapter.lines().filter(|row| row.starts_with("| ")).skip(1);
    let is_there = |name: &str| name.ends_with(".py") || sources.contains(&format!("fn {name}("));
    let tests: Vec<_> = rows.flat_map(named).collect();
    assert!(tests.len() > 25, "only {} tests reach a bound", tests.len());
    let missing: Vec<_> = tests.into_iter().filter(|name| !is_there(name)).map(str::to_owned).collect();
    assert_none("tests that docs/operations.md names and nobody wrote", &missing);
}

#[test]
fn every_test_on_real_parts_runs_in_the_checks() {
    let checks = read(".ci/run");
    let files = files();
    let scripts: Vec<&File> = files.iter().filter(|file| file.path.starts_with("tests/real/") && file.is("py")).collect();
    let mut found = Vec::new();
    for script in &scripts {
        let name = script.path.trim_start_matches("tests/real/");
        let module = name.trim_end_matches(".py");
        let run = checks.lines().any(|line| !line.trim_start().starts_with('#') && line.contains(name));
        let import = [format!("import {module}"), format!("from {module} ")];
        let imported =
            scripts.iter().any(|other| other.path != script.path && import.iter().any(|line| other.text.contains(line.as_str())));
        if !run && !imported {
            found.push(script.path.clone());
        }
    }
    assert_none("neither run by .ci/run nor imported by a script that is", &found);
}

#[test]
fn no_registry_is_named() {
    // Where packages come from is a matter of the machine: mirrors differ from house to house. Cargo.lock's format is not ours.
    let hosts = [
        ["deb.", "debian."],
        ["static.", "crates."],
        ["index.", "crates."],
        ["repo1.", "maven"],
        ["repo.", "maven"],
        ["pypi", ".org"],
        ["files.", "pythonhosted"],
        ["registry.", "npmjs"],
        ["proxy.", "golang"],
        ["sum.", "golang"],
    ]
    .map(|parts| parts.concat());
    let mut found = Vec::new();
    for file in files().iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in file.numbered() {
            if let Some(host) = hosts.iter().find(|host| line.contains(host.as_str())) {
                found.push(format!("{}:{number}: {host}", file.path));
            }
        }
    }
    assert_none("the name of a package registry's host", &found);
}
