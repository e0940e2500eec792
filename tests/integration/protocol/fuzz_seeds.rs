//! The seeds of the fuzz targets, replayed through the same functions.

#[path = "../../../fuzz/cases.rs"]
mod cases;

use std::fs;
use std::path::Path;

fn replay(target: &str, case: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{} files in {}", files.len(), folder.display());
    for file in files {
        println!("{}", file.display());
        case(&fs::read(&file).unwrap());
    }
}

#[test]
fn binary() {
    replay("binary", cases::binary);
}

#[test]
fn json() {
    replay("json", cases::json);
}

#[test]
fn websocket() {
    replay("websocket", cases::websocket);
}

#[test]
fn core() {
    replay("core", cases::core);
}
