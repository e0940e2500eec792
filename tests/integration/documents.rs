//! What the documents point at is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Where a path in backticks is one of this tree.
const TREE: [&str; 11] = [
    "src/",
    "tests/",
    "docs/",
    "config/",
    "migrations",
    "deploy/",
    "fuzz",
    "benches",
    "scripts/",
    "examples/",
    ".github/",
];

fn documents() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/adr", "deploy/systemd", ".github"].map(|folder| Path::new(ROOT).join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|kind| kind == "md")).collect()
}

/// The text without its blocks of code.
fn prose(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("```").step_by(2).collect()
}

/// The fragments by which its headings and anchors can be linked to.
fn fragments(path: &Path) -> BTreeSet<String> {
    let text = prose(path);
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    });
    let anchors = text.split("<a id=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
    headings.chain(anchors).collect()
}

#[test]
fn links_lead_somewhere() {
    let (mut checked, mut broken) = (0, Vec::new());
    for document in documents() {
        for link in prose(&document).split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (file, fragment) = link.split_once('#').map_or((link, None), |(file, name)| (file, Some(name)));
            let target = if file.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(file.trim_end_matches('/'))
            };
            let leads = target.exists() && fragment.is_none_or(|name| fragments(&target).contains(name));
            if !leads {
                broken.push(format!("{}: {link}", document.strip_prefix(ROOT).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(checked > 100, "{checked} links");
}

#[test]
fn paths_of_the_map_are_there() {
    let adr = Path::new(ROOT).join("docs/adr");
    let pages = documents().into_iter().filter(|path| path.ends_with("CONTRIBUTING.md") || path.starts_with(&adr));
    let (mut checked, mut missing) = (0, Vec::new());
    for page in pages {
        let text = prose(&page);
        let quoted = text.split('`').skip(1).step_by(2);
        for path in quoted.filter(|quoted| TREE.iter().any(|start| quoted.starts_with(start)) && !quoted.contains(' '))
        {
            checked += 1;
            if !Path::new(ROOT).join(path).exists() {
                missing.push(format!("{}: {path}", page.strip_prefix(ROOT).unwrap().display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(checked > 25, "{checked} paths");
}

#[test]
fn decisions_are_numbered_and_listed() {
    let adr = Path::new(ROOT).join("docs/adr");
    let index = std::fs::read_to_string(adr.join("README.md")).unwrap();
    let mut pages: Vec<PathBuf> = documents().into_iter().filter(|path| path.starts_with(&adr)).collect();
    pages.retain(|path| !path.ends_with("README.md"));
    pages.sort();
    for (number, page) in (1..).zip(&pages) {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with(&format!("{number:04}-")), "{name} is not number {number}");
        assert!(index.contains(&format!("[{number}]({name})")), "{name} is not listed");
        let text = std::fs::read_to_string(page).unwrap();
        let titles: Vec<&str> = text.lines().filter(|line| line.starts_with('#')).collect();
        assert!(titles[0].starts_with(&format!("# {number}. ")), "{name}: {}", titles[0]);
        assert_eq!(titles[1..], ["## Context", "## Decision", "## Consequences"], "{name}");
    }
}
