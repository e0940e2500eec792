use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Map, Value, json};

use super::call::Api;
use super::output::Format;
use super::progress::Progress;
use super::{sheet, usage};
use crate::api::ACCESS_KEYS_MAX;
use crate::cli::{Failure, say, terminal};

const POLL: Duration = Duration::from_millis(200);

/// Waits until the node that was created is healthy, or says why it is not.
pub(super) async fn wait(api: &Api, created: &str, limit: Duration, format: Format) -> Result<(), Failure> {
    let begun = Instant::now();
    let created: Value = serde_json::from_str(created).map_err(Failure::runtime)?;
    let path = format!("nodes/{}", text(&created, "id"));
    let mut progress = Progress::new();
    while text(&api.get(&path).await?, "health_status") != "healthy" {
        progress.show(format_args!("not healthy yet, {} s…", begun.elapsed().as_secs()));
        if begun.elapsed() >= limit {
            let reason = reason(&api.get(&format!("{path}/health")).await?);
            let seconds = limit.as_secs_f64();
            return Err(Failure::runtime(format!("created, but not healthy after {seconds:.1} s: {reason}")));
        }
        tokio::time::sleep(POLL.min(limit)).await;
    }
    drop(progress);
    if format.is_text() {
        say(format_args!("healthy after {:.1} s", begun.elapsed().as_secs_f64()));
    }
    Ok(())
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn reason(health: &Value) -> String {
    let count = |name: &str| health.get(name).and_then(Value::as_u64).unwrap_or_default();
    if count("gateways") == 0 {
        return format!("no gateway may use region {}", text(health, "region"));
    }
    if count("online") == 0 {
        return "no gateway is online".into();
    }
    let views = items(health, "items");
    if views.is_empty() {
        return "no gateway has probed it yet".into();
    }
    let views = views.iter().map(|view| {
        let reason = view.get("error").and_then(Value::as_str).unwrap_or("it answers");
        format!("{}: {reason}", text(view, "name"))
    });
    views.collect::<Vec<_>>().join("; ")
}

/// Makes nodes of the access keys in a file, one a line.
pub(super) async fn import(api: &Api, mut fields: Map<String, Value>, format: Format) -> Result<(), Failure> {
    let file =
        fields.remove("file").ok_or_else(|| usage("import needs file=PATH, or file=- for the standard input"))?;
    let lines = read(file.as_str().unwrap_or_default())?;
    let keys: Vec<(usize, &str)> = (1..)
        .zip(lines.lines().map(str::trim))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect();
    if keys.is_empty() {
        return Err(Failure::runtime("there is no access key in the file"));
    }
    let (mut created, mut failed) = (Vec::new(), Vec::new());
    let mut progress = Progress::new();
    for chunk in keys.chunks(ACCESS_KEYS_MAX) {
        progress.show(format_args!("{} of {} keys…", created.len() + failed.len(), keys.len()));
        let urls: Vec<&str> = chunk.iter().map(|(_, key)| *key).collect();
        fields.insert("access_keys".into(), json!(urls));
        let answer = api.ask(Method::POST, "nodes/import", &fields, format == Format::Json).await?;
        let answer: Value = serde_json::from_str(&answer).map_err(Failure::runtime)?;
        created.extend(items(&answer, "created").iter().map(|item| numbered(item, chunk)));
        failed.extend(items(&answer, "failed").iter().map(|item| numbered(item, chunk)));
    }
    let summary = format!("{} of {} keys failed", failed.len(), keys.len());
    let is_good = failed.is_empty();
    drop(progress);
    match format {
        Format::Json => say(terminal::escaped_json(&json!({ "created": created, "failed": failed }).to_string())),
        Format::Csv => sheet::print(&by_line(created, failed))?,
        Format::Text | Format::Wide => tell(&by_line(created, failed)),
    }
    if is_good { Ok(()) } else { Err(Failure::runtime(summary)) }
}

fn read(file: &str) -> Result<String, Failure> {
    let read = if file == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(file) };
    read.map_err(|error| Failure::runtime(format!("{file}: {error}")))
}

/// An item with the line of the file in place of the key's number.
fn numbered(item: &Value, chunk: &[(usize, &str)]) -> Value {
    let at = item.get("line").and_then(Value::as_u64).and_then(|line| usize::try_from(line).ok());
    let line = at.and_then(|at| chunk.get(at.checked_sub(1)?)).map(|(line, _)| *line);
    let mut item = item.clone();
    if let (Some(fields), Some(line)) = (item.as_object_mut(), line) {
        fields.insert("line".into(), line.into());
    }
    item
}

fn by_line(created: Vec<Value>, failed: Vec<Value>) -> Vec<Value> {
    let mut all = created;
    all.extend(failed);
    all.sort_by_key(|item| item.get("line").and_then(Value::as_u64));
    all
}

fn tell(all: &[Value]) {
    for item in all {
        let line = item.get("line").and_then(Value::as_u64).unwrap_or_default();
        match item.get("code").and_then(Value::as_str) {
            Some(code) => say(terminal::escaped(&format!("line {line}: {code}: {}", text(item, "detail")))),
            None => {
                say(terminal::escaped(&format!("line {line}: created {} {}", text(item, "id"), text(item, "name"))));
            }
        }
    }
}
