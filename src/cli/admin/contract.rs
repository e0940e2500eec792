//! The fields of requests, as the API's `OpenAPI` document describes them.

use std::sync::LazyLock;

use serde_json::Value;

use super::resources::Method;
use super::values::member;

/// References are followed to this depth, so that a circle ends.
const DEPTH: usize = 8;

/// What is asked of lists, but does not say which rows.
const PAGING: [&str; 4] = ["limit", "after", "cursor", "sort"];

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("contract.json")).unwrap_or_default());

/// A member of a request's body or query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) is_required: bool,
    pub(super) about: String,
    pub(super) default: Option<String>,
    pub(super) example: Option<String>,
}

/// A request: its fields, the required ones first, and some that go well together.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) fields: Vec<Field>,
    pub(super) example: Vec<(String, String)>,
}

/// An `OpenAPI` document.
pub(super) struct Contract<'a>(&'a Value);

impl Contract<'static> {
    pub(super) fn embedded() -> Self {
        Self(&DOCUMENT)
    }
}

impl<'a> Contract<'a> {
    /// The request below `/admin/`, whose path has `{}` for an ID; empty if there is none.
    pub(super) fn request(&self, method: Method, path: &str) -> Request {
        let end = format!("/admin/{path}");
        let paths = self.0.get("paths").and_then(Value::as_object);
        let item = paths.into_iter().flatten().find(|(template, _)| unnamed(template).ends_with(&end));
        let Some(operation) = item.and_then(|(_, item)| item.get(verb(method))) else { return Request::default() };
        let content = self.resolved(member(operation, "requestBody")).pointer("/content/application~1json");
        let (mut fields, mut example) = match content {
            Some(content) => (self.members(member(content, "schema"), DEPTH), example(content)),
            None => self.query(operation),
        };
        fields.sort_by_key(|field| !field.is_required);
        let place = |name: &str| fields.iter().position(|field| field.name == name);
        example.sort_by_key(|(name, _)| place(name).unwrap_or(usize::MAX));
        Request { fields, example }
    }

    fn query(&self, operation: &Value) -> (Vec<Field>, Vec<(String, String)>) {
        let parameters = operation.get("parameters").and_then(Value::as_array).into_iter().flatten();
        let parameters = parameters.map(|parameter| self.resolved(parameter));
        let fields: Vec<Field> = parameters
            .filter(|parameter| member(parameter, "in") == "query")
            .map(|parameter| {
                let name = member(parameter, "name").as_str().unwrap_or_default();
                let of_schema = self.field(name, member(parameter, "schema"));
                let about = text(parameter, "description").unwrap_or(of_schema.about);
                let is_required = member(parameter, "required") == true;
                let example = sample(parameter).map(argument).or(of_schema.example);
                Field { is_required, about, example, ..of_schema }
            })
            .collect();
        let mut filters = fields.iter().filter(|field| !PAGING.contains(&field.name.as_str()));
        let first = filters.find_map(|field| Some((field.name.clone(), field.example.clone()?)));
        (fields, first.into_iter().collect())
    }

    fn members(&self, schema: &'a Value, depth: usize) -> Vec<Field> {
        let Some(depth) = depth.checked_sub(1) else { return Vec::new() };
        let schema = self.resolved(schema);
        let mut fields: Vec<Field> = list(schema, "allOf").flat_map(|part| self.members(part, depth)).collect();
        let required: Vec<&str> = list(schema, "required").filter_map(Value::as_str).collect();
        for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let is_required = required.contains(&name.as_str());
            fields.push(Field { is_required, ..self.field(name, schema) });
        }
        fields
    }

    fn field(&self, name: &str, schema: &'a Value) -> Field {
        let target = self.resolved(schema);
        let either = |name: &str| schema.get(name).or_else(|| target.get(name));
        Field {
            name: name.to_owned(),
            kind: self.kind(schema, DEPTH),
            is_required: false,
            about: text(schema, "description").or_else(|| text(target, "description")).unwrap_or_default(),
            default: either("default").filter(|value| !value.is_null()).map(argument),
            example: sample(schema).or_else(|| sample(target)).map(argument),
        }
    }

    /// What a value looks like, in a word; `null` is left out, since nothing says it on a command line.
    fn kind(&self, schema: &'a Value, depth: usize) -> String {
        let Some(depth) = depth.checked_sub(1) else { return String::new() };
        let schema = self.resolved(schema);
        let mut kinds: Vec<String> = Vec::new();
        for part in ["oneOf", "anyOf", "allOf"].into_iter().flat_map(|name| list(schema, name)) {
            kinds.push(self.kind(part, depth));
        }
        kinds.extend(list(schema, "enum").filter(|value| !value.is_null()).map(argument));
        kinds.extend(schema.get("const").map(argument));
        if kinds.is_empty() {
            let format = member(schema, "format").as_str().unwrap_or_default();
            let kind = member(schema, "type");
            let names = kind.as_str().into_iter().chain(list(schema, "type").filter_map(Value::as_str));
            kinds.extend(names.map(|name| word(name, format).to_owned()));
        }
        kinds.retain(|kind| !kind.is_empty());
        kinds.dedup();
        kinds.join("|")
    }

    fn resolved(&self, mut schema: &'a Value) -> &'a Value {
        for _ in 0..DEPTH {
            let target = schema.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix('#'));
            match target.and_then(|pointer| self.0.pointer(pointer)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }
}

fn verb(method: Method) -> &'static str {
    match method {
        Method::Get => "get",
        Method::Post => "post",
        Method::Patch => "patch",
        Method::Delete => "delete",
    }
}

/// A path whose parameters have no names.
fn unnamed(template: &str) -> String {
    let part = |part: &str| if part.starts_with('{') { "{}".to_owned() } else { part.to_owned() };
    template.split('/').map(part).collect::<Vec<_>>().join("/")
}

fn word<'a>(kind: &'a str, format: &str) -> &'a str {
    match (kind, format) {
        ("string", "uuid") => "ID",
        ("string", "date-time") => "time",
        ("string", _) => "text",
        ("boolean", _) => "true|false",
        ("array", _) => "list",
        ("object", _) => "JSON",
        ("null", _) => "",
        _ => kind,
    }
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, name: &str) -> Option<String> {
    let text = value.get(name)?.as_str()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The example of a schema or a parameter.
fn sample(value: &Value) -> Option<&Value> {
    value.get("example").or_else(|| value.pointer("/examples/0"))
}

/// The members of a body's example.
fn example(content: &Value) -> Vec<(String, String)> {
    let first = content.get("examples").and_then(Value::as_object).and_then(|all| all.values().next());
    let example = content.get("example").or_else(|| first.and_then(|first| first.get("value")));
    let fields = example.and_then(Value::as_object).into_iter().flatten();
    fields.map(|(name, value)| (name.clone(), argument(value))).collect()
}

/// A value as it is typed.
fn argument(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Array(items) => items.iter().map(argument).collect::<Vec<_>>().join(","),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::resources::RESOURCES;
    use super::*;

    fn sample() -> Value {
        json!({
            "paths": {
                "/api/v1/admin/plans": {
                    "get": { "parameters": [
                        { "name": "name", "in": "query", "schema": { "type": "string", "example": "Standard" } },
                        { "name": "trace", "in": "header", "schema": { "type": "string" } },
                        { "$ref": "#/components/parameters/Limit" },
                    ] },
                    "post": { "requestBody": { "content": { "application/json": {
                        "schema": { "$ref": "#/components/schemas/NewPlan" },
                        "examples": { "one": { "value": { "name": "Standard", "regions": ["eu-1", "ru-1"] } } },
                    } } } },
                },
                "/api/v1/admin/plans/{plan_id}": { "patch": {} },
            },
            "components": {
                "parameters": { "Limit": {
                    "name": "limit", "in": "query", "description": "Rows of\n  a page", "example": 50,
                    "schema": { "type": "integer", "format": "int32" },
                } },
                "schemas": {
                    "Period": { "type": "string", "enum": ["month", "days"], "description": "A period" },
                    "Named": { "type": "object", "required": ["name"], "properties": {
                        "name": { "type": "string", "description": "Unique", "examples": ["Standard"] },
                    } },
                    "NewPlan": { "allOf": [{ "$ref": "#/components/schemas/Named" }, { "properties": {
                        "period": { "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Period" }] },
                        "counts": { "$ref": "#/components/schemas/Period", "description": "Other", "default": "month" },
                        "since": { "type": ["string", "null"], "format": "date-time" },
                        "loop": { "$ref": "#/components/schemas/Loop" },
                    } }] },
                    "Loop": { "$ref": "#/components/schemas/Loop" },
                },
            },
        })
    }

    #[test]
    fn bodies_have_the_fields_of_their_schemas() {
        let document = sample();
        let request = Contract(&document).request(Method::Post, "plans");
        let fields: Vec<(&str, &str, bool, &str)> = request
            .fields
            .iter()
            .map(|field| (field.name.as_str(), field.kind.as_str(), field.is_required, field.about.as_str()))
            .collect();
        assert_eq!(
            fields,
            [
                ("name", "text", true, "Unique"),
                ("counts", "month|days", false, "Other"),
                ("loop", "", false, ""),
                ("period", "month|days", false, ""),
                ("since", "time", false, ""),
            ]
        );
        assert_eq!(request.fields[0].example.as_deref(), Some("Standard"));
        assert_eq!(request.fields[1].default.as_deref(), Some("month"));
        let example = [("name", "Standard"), ("regions", "eu-1,ru-1")];
        assert_eq!(request.example, example.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn lists_have_the_parameters_of_their_query() {
        let document = sample();
        let request = Contract(&document).request(Method::Get, "plans");
        assert_eq!(request.fields.len(), 2);
        let limit = &request.fields[1];
        assert_eq!(
            (limit.name.as_str(), limit.kind.as_str(), limit.about.as_str()),
            ("limit", "integer", "Rows of a page")
        );
        assert_eq!(request.example, [("name".to_owned(), "Standard".to_owned())]);
        for (method, path) in [(Method::Patch, "plans/{}"), (Method::Get, "plans/{}"), (Method::Get, "users")] {
            assert!(Contract(&document).request(method, path).fields.is_empty());
        }
    }

    #[test]
    fn the_embedded_contract_has_every_request_with_fields() {
        for resource in &RESOURCES {
            for verb in resource.verbs.iter().filter(|verb| verb.takes_fields) {
                let request = Contract::embedded().request(verb.method, &verb.template(resource));
                assert!(!request.fields.is_empty(), "{} {}", resource.name, verb.name);
                assert!(verb.name == "list" || !request.example.is_empty(), "{} {}", resource.name, verb.name);
                for field in &request.fields {
                    assert!(!field.kind.is_empty() && !field.about.is_empty(), "{} {field:?}", resource.name);
                }
            }
        }
    }
}
