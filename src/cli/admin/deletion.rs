use std::io::{IsTerminal, Write};

use serde_json::Value;

use super::call::Api;
use super::resources::Resource;
use crate::cli::{Failure, terminal};

/// What a row is called, the best first.
const NAMES: [&str; 4] = ["identifier", "name", "host", "code"];

/// Asks on a terminal whether what the path names shall be deleted; elsewhere nobody is asked.
pub(super) async fn confirm(api: &Api, resource: &Resource, path: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(());
    }
    let question = question(resource, &api.get(path).await?);
    let answer = tokio::task::spawn_blocking(move || ask(&question)).await.map_err(Failure::runtime)??;
    if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(Failure::runtime("nothing was deleted"))
    }
}

fn question(resource: &Resource, row: &Value) -> String {
    let text = |name: &str| row.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let id = text("id").unwrap_or_default();
    let name = NAMES.into_iter().find_map(text).map(|name| format!(" {name}")).unwrap_or_default();
    let what = format!("delete the {}{name} ({id})?", resource.item);
    let parts = [what.as_str(), resource.deletion, "[y/N] "];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    terminal::escaped(&parts.join(" ")).into_owned()
}

fn ask(question: &str) -> std::io::Result<String> {
    let mut err = std::io::stderr();
    err.write_all(question.as_bytes())?;
    err.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::resources::RESOURCES;
    use super::*;

    #[test]
    fn a_question_names_what_goes_and_what_goes_with_it() {
        let of = |name: &str, row: Value| {
            let resource = RESOURCES.iter().find(|resource| resource.name == name).unwrap();
            question(resource, &row)
        };
        assert_eq!(
            of("users", json!({ "id": "01a1", "identifier": "ann@example.com\u{1b}[2J" })),
            "delete the user ann@example.com\\u{1b}[2J (01a1)? Devices, codes, subscriptions and their usage are deleted \
             with it, and their sessions end. [y/N] "
        );
        assert_eq!(of("plans", json!({ "id": "01a2", "name": "Standard" })), "delete the plan Standard (01a2)? [y/N] ");
        let device = of("devices", json!({ "id": "01a3", "name": "" }));
        assert_eq!(device, "delete the device (01a3)? Its sessions end. [y/N] ");
    }
}
