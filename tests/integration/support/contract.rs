//! The contract of the REST API, as a control plane serves it.

use reqwest::Method;
use serde_json::{Map, Value};

use crate::support::control::Control;

/// An operation of the contract.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) name: String,
    pub(crate) method: Method,
    pub(crate) path: String,
    /// Whose credential it needs.
    pub(crate) credential: Option<String>,
    /// The example of its request.
    pub(crate) body: Option<Value>,
    pub(crate) responses: Map<String, Value>,
}

/// The contract that a control plane serves.
pub(crate) async fn served(control: &Control) -> Value {
    let response = control.http.get(format!("{}/api/v1/openapi.json", control.url)).send().await.unwrap();
    response.json().await.unwrap()
}

/// Every operation, from the contract that the router itself makes.
pub(crate) fn operations(contract: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, item) in contract["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
            let schemes = operation["security"].as_array().unwrap();
            let credential = schemes.first().and_then(|scheme| scheme.as_object()?.keys().next().cloned());
            operations.push(Operation {
                name: operation["operationId"].as_str().unwrap().to_owned(),
                method,
                path: path.clone(),
                credential,
                body: example(contract, operation),
                responses: operation["responses"].as_object().unwrap().clone(),
            });
        }
    }
    operations
}

/// What a reference leads to.
pub(crate) fn resolved<'a>(contract: &'a Value, mut schema: &'a Value) -> &'a Value {
    while let Some(name) = schema["$ref"].as_str() {
        schema = contract.pointer(name.trim_start_matches('#')).unwrap_or_else(|| panic!("{name} leads nowhere"));
    }
    schema
}

fn example(contract: &Value, operation: &Value) -> Option<Value> {
    let schema = operation.pointer("/requestBody/content/application~1json/schema")?;
    let name = &operation["operationId"];
    let inner = schema["oneOf"].as_array().and_then(|parts| parts.iter().find(|part| part["type"] != "null"));
    let example = &resolved(contract, inner.unwrap_or(schema))["examples"][0];
    assert!(example.is_object(), "{name} has no example");
    Some(example.clone())
}
