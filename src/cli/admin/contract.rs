//! The fields of requests, as the API's `OpenAPI` document describes them.

use std::sync::LazyLock;

use serde_json::{Map, Number, Value};

use super::resources::Method;
use super::values::member;

const TEXT: &str = "text";
const LIST: &str = "list";
const JSON: &str = "JSON";
const NUMBER: &str = "number";
const INTEGER: &str = "integer";
const FLAG: &str = "true|false";
/// References are followed to this depth, so that a circle ends.
const DEPTH: usize = 8;

/// What is asked of lists, but does not say which rows.
const PAGING: [&str; 4] = ["limit", "cursor", "sort", "count"];

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap_or_default());

/// A member of a request's body or query.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) is_required: bool,
    pub(super) about: String,
    /// Between what it has to be.
    pub(super) range: Option<String>,
    pub(super) default: Option<String>,
    pub(super) example: Option<String>,
}

/// A request: its fields, the required ones first, and some that go well together.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) fields: Vec<Field>,
    pub(super) example: Vec<(String, String)>,
}

impl Request {
    /// The fields of a body with the types that they have there. What does not fit its type stays text, for the API to refuse.
    pub(super) fn typed(&self, fields: Map<String, Value>) -> Map<String, Value> {
        let typed = |(name, value): (String, Value)| {
            let kind = self.fields.iter().find(|field| field.name == name).map(|field| field.kind.as_str());
            let value = match (value.as_str(), kind) {
                (Some(text), Some(kind)) => of_kind(text, kind).unwrap_or(value),
                _ => value,
            };
            (name, value)
        };
        fields.into_iter().map(typed).collect()
    }
}

/// A text as a value; an empty one clears what is no text.
fn of_kind(text: &str, kind: &str) -> Option<Value> {
    match kind {
        TEXT => None,
        LIST => Some(text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()),
        JSON if text.is_empty() => Some(Map::new().into()),
        JSON => serde_json::from_str(text).ok(),
        _ if text.is_empty() => Some(Value::Null),
        NUMBER => text.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number),
        INTEGER => text.parse::<i64>().ok().map(Value::from),
        FLAG => text.parse::<bool>().ok().map(Value::Bool),
        _ => None,
    }
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
            Some(content) => {
                let schema = self.inhabited(member(content, "schema"));
                let of_content = example(content);
                let of_schema = || sample(schema).map(members).unwrap_or_default();
                (self.members(schema, DEPTH), if of_content.is_empty() { of_schema() } else { of_content })
            }
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
        let outer = Self::part(schema);
        let target = self.resolved(outer);
        let either = |name: &str| [schema, outer, target].into_iter().find_map(|schema| schema.get(name));
        Field {
            name: name.to_owned(),
            kind: self.kind(schema, DEPTH),
            is_required: false,
            about: [schema, outer, target]
                .into_iter()
                .find_map(|schema| text(schema, "description"))
                .unwrap_or_default(),
            range: range(either("minimum"), either("maximum")),
            default: either("default").filter(|value| !value.is_null()).map(argument),
            example: [schema, outer, target].into_iter().find_map(sample).map(argument),
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

    /// What a schema is if it is not null.
    fn part(schema: &'a Value) -> &'a Value {
        let mut parts = ["oneOf", "anyOf"].into_iter().flat_map(|name| list(schema, name));
        parts.find(|part| member(part, "type") != "null").unwrap_or(schema)
    }

    fn inhabited(&self, schema: &'a Value) -> &'a Value {
        self.resolved(Self::part(self.resolved(schema)))
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
        ("string", _) => TEXT,
        ("boolean", _) => FLAG,
        ("array", _) => LIST,
        ("object", _) => JSON,
        ("null", _) => "",
        _ => kind,
    }
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, name: &str) -> Option<String> {
    let text = value.get(name)?.as_str()?;
    let plain = text.replace('`', "");
    Some(plain.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned())
}

fn range(least: Option<&Value>, most: Option<&Value>) -> Option<String> {
    match (least, most) {
        (Some(least), Some(most)) => Some(format!("{least} to {most}")),
        (Some(least), None) => Some(format!("at least {least}")),
        (None, Some(most)) => Some(format!("at most {most}")),
        (None, None) => None,
    }
}

/// The example of a schema or a parameter.
fn sample(value: &Value) -> Option<&Value> {
    value.get("example").or_else(|| value.pointer("/examples/0"))
}

/// The members of a body's example.
fn example(content: &Value) -> Vec<(String, String)> {
    let first = content.get("examples").and_then(Value::as_object).and_then(|all| all.values().next());
    let example = content.get("example").or_else(|| first.and_then(|first| first.get("value")));
    example.map(members).unwrap_or_default()
}

fn members(example: &Value) -> Vec<(String, String)> {
    let fields = example.as_object().into_iter().flatten();
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
                        "period": { "oneOf": [{ "type": "null" },
                            { "$ref": "#/components/schemas/Period", "description": "By default `month`." }] },
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
                ("period", "month|days", false, "By default month"),
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
    fn fields_have_the_types_of_the_contract() {
        let typed = |name: &str, text: &str| {
            let request = Contract::embedded().request(Method::Patch, "plans/{}");
            request.typed([(name.to_owned(), text.into())].into_iter().collect())[name].clone()
        };
        assert_eq!(typed("max_devices", "5"), 5);
        assert_eq!(typed("max_devices", ""), Value::Null);
        assert_eq!(typed("max_devices", "many"), "many");
        assert_eq!(typed("traffic_limit_gb", "0.5"), 0.5);
        assert_eq!(typed("regions", "eu-1, ru-1"), json!(["eu-1", "ru-1"]));
        assert_eq!(typed("regions", ""), json!([]));
        assert_eq!([typed("name", "5"), typed("name", ""), typed("nam", "true")], ["5", "", "true"]);
        let request = Contract::embedded().request(Method::Patch, "regions/{}");
        let fields = [("udp", "false"), ("names", "{\"ru\":\"x\"}"), ("exit_country", "")];
        let fields = fields.map(|(name, text)| (name.to_owned(), text.into()));
        let typed = Value::Object(request.typed(fields.into_iter().collect()));
        assert_eq!(typed, json!({ "udp": false, "names": { "ru": "x" }, "exit_country": "" }));
    }

    #[test]
    fn the_embedded_contract_has_every_request_with_fields() {
        for resource in &RESOURCES {
            for verb in resource.verbs.iter().filter(|verb| verb.takes_fields) {
                let request = Contract::embedded().request(verb.method, &verb.template(resource));
                assert!(!request.fields.is_empty(), "{} {}", resource.name, verb.name);
                assert!(verb.name == "list" || !request.example.is_empty(), "{} {}", resource.name, verb.name);
                for field in &request.fields {
                    assert!(!field.kind.is_empty(), "{} {field:?}", resource.name);
                }
            }
        }
    }
}
