use reqwest::Method;
use serde_json::{Map, Value, json};

use super::call::Api;
use super::show;
use crate::cli::{Failure, say, terminal};

/// Prints every page of a list; as JSON, one document.
pub(super) async fn all(api: &Api, path: &str, mut fields: Map<String, Value>, json: bool) -> Result<(), Failure> {
    let mut items = Vec::new();
    loop {
        let text = api.ask(Method::GET, path, &fields, json).await?;
        let mut page: Value = serde_json::from_str(&text).map_err(Failure::runtime)?;
        let more = page.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
        if json {
            items.extend(more);
        } else {
            more.iter().for_each(show::item);
        }
        let next = page.get_mut("next").map(Value::take).unwrap_or_default();
        if next.is_null() {
            break;
        }
        if fields.get("after") == Some(&next) {
            return Err(Failure::runtime(format!("the control plane gave the page after {next} twice")));
        }
        fields.insert("after".into(), next);
    }
    if json {
        say(terminal::escaped_json(&json!({ "items": items, "next": null }).to_string()));
    }
    Ok(())
}
