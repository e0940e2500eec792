//! Rules of the tree that the compiler does not know: floors of modules (docs/01), tests that stand alone, no comments.

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
fn imports_point_to_lower_floors() {
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

/// The paths that a text names behind `crate::` or `super::`, without what follows the last module.
fn imports(text: &str, prefix: &str) -> Vec<String> {
    let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let mut paths = Vec::new();
    for rest in text.split(prefix).skip(1) {
        let path: String = rest.chars().take_while(|letter| is_path(*letter)).collect();
        match rest[path.len()..].strip_prefix('{').and_then(|group| group.split_once('}')) {
            Some((names, _)) => paths.extend(names.split(',').map(|name| format!("{path}{}", name.trim()))),
            None => paths.push(path),
        }
    }
    paths
}

/// The module that a path leads to or into.
fn target<'a>(modules: &'a BTreeMap<String, String>, path: &str) -> Option<(&'a String, &'a String)> {
    let mut names: Vec<&str> = path.split("::").collect();
    while !names.is_empty() {
        if let Some(found) = modules.get_key_value(&names.join("::")) {
            return Some(found);
        }
        names.pop();
    }
    None
}

#[test]
fn no_test_module_imports_another() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/integration"));
    let mut files = Vec::new();
    sources(root, &mut files);
    let mut modules = BTreeMap::new();
    for file in files {
        let inside = file.strip_prefix(root).unwrap().with_extension("");
        let name: Vec<_> = inside.iter().map(|name| name.to_string_lossy()).collect();
        modules.insert(name.join("::"), std::fs::read_to_string(&file).unwrap());
    }
    let has_tests = |text: &str| text.lines().any(|line| line == "#[test]" || line.starts_with("#[tokio::test"));
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, text) in &modules {
        if name.starts_with("support") && has_tests(text) {
            wrong.push(format!("{name} has tests"));
        }
        let parent = name.rsplit_once("::").map_or("", |(parent, _)| parent);
        let siblings = imports(text, "super::").into_iter().map(|path| format!("{parent}::{path}"));
        for path in imports(text, "crate::").into_iter().chain(siblings) {
            let Some((other, text)) = target(&modules, &path) else { continue };
            seen += 1;
            if other != name && has_tests(text) {
                wrong.push(format!("{name} imports {other}"));
            }
        }
    }
    assert!(seen > 500, "the test reads imports: {seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_between_the_control_planes_rooms_go_down() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/control"));
    let floors = floors();
    let floor = |room: &str| floors.get(&format!("control/{room}"));
    let mut files = Vec::new();
    sources(root, &mut files);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files {
        let inside = file.strip_prefix(root).unwrap().with_extension("");
        let room = inside.iter().next().unwrap().to_string_lossy();
        let own = floor(&room).unwrap_or_else(|| panic!("docs/01 does not list control/{room}"));
        let text = std::fs::read_to_string(&file).unwrap();
        for path in imports(&text, "crate::control::") {
            let other = path.split("::").next().unwrap();
            let Some(other_floor) = floor(other).filter(|_| other != room) else { continue };
            seen += 1;
            if other_floor >= own {
                wrong.push(format!("{} uses {other}", inside.display()));
            }
        }
    }
    assert!(seen > 50, "the test reads imports: {seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn there_are_no_comments() {
    let mut files = Vec::new();
    for root in ["src", "tests", "benches"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(root), &mut files);
    }
    for file in files {
        for (number, line) in std::fs::read_to_string(&file).unwrap().lines().enumerate() {
            let line = line.trim_start();
            let comment = line.starts_with("//") && !line.starts_with("///") && !line.starts_with("//!");
            assert!(!comment, "{}:{}", file.display(), number + 1);
        }
    }
}
