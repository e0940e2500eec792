//! Imports go to a strictly lower floor or into a module's own subtree (docs/01).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The floors that docs/01 lists: `| 3 | `gateway` | … |`.
fn floors() -> BTreeMap<String, u32> {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/01-architecture-overview.md")).unwrap();
    let mut floors = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let [_, floor, modules, ..] = cells[..]
            && let Ok(floor) = floor.parse()
        {
            for module in modules.split('`').skip(1).step_by(2) {
                floors.insert(module.trim_end_matches(".rs").to_owned(), floor);
            }
        }
    }
    floors
}

#[test]
fn imports_go_down() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let floors = floors();
    let mut files = Vec::new();
    sources(root, &mut files);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files {
        let inside = file.strip_prefix(root).unwrap();
        let module = inside.components().next().unwrap().as_os_str().to_string_lossy().replace(".rs", "");
        if module == "lib" {
            continue;
        }
        let floor = *floors.get(&module).unwrap_or_else(|| panic!("docs/01 does not list {module}"));
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for import in text.split("crate::").skip(1) {
            let other: String =
                import.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            if other == module || !floors.contains_key(&other) {
                continue;
            }
            seen += 1;
            if floors[&other] >= floor {
                wrong.push(format!("{} ({floor}) uses {other} ({})", inside.display(), floors[&other]));
            }
        }
    }
    assert!(seen > 50, "the test reads imports: {seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn there_are_no_comments() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let mut files = Vec::new();
    sources(root, &mut files);
    for file in files {
        for (number, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            let line = line.trim_start();
            let comment = line.starts_with("//") && !line.starts_with("///") && !line.starts_with("//!");
            assert!(!comment, "{}:{}", file.display(), number + 1);
        }
    }
}
