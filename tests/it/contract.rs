//! What the OpenAPI document promises, held against every answer that a test gets.
//!
//! [`check`] is called by the tests' HTTP client. A route that is not described, a status that its
//! description does not name, another content type or a body of another shape end the test.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jsonschema::Validator;
use license_ledger::http::openapi::document;
use serde_json::{Value, json};

use crate::client::Answer;

/// The document, as a client reads it.
pub static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(document()).expect("the document is JSON"));

/// Panics unless `answer` to `method` and `target` (a path and perhaps a query) is as described.
pub fn check(method: &str, target: &str, answer: &Answer) {
    let path = target.split('?').next().unwrap();
    if let Err(wrong) = conforms(path, &method.to_ascii_lowercase(), answer) {
        panic!("{method} {target} answered {}, but {wrong}: {}", answer.status, answer.text());
    }
}

fn conforms(path: &str, method: &str, answer: &Answer) -> Result<(), String> {
    let operation = match described(path) {
        None => return problem_of(404, answer),
        Some(_) if method == "options" => return preflight(answer),
        Some(item) if item.get(method).is_none() => return other_method(answer),
        Some(item) => &item[method],
    };
    let response = operation["responses"].get(answer.status.to_string());
    let response = response.ok_or("the document does not name this status")?;
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        if let Some(value) = answer.header(name) {
            let number = value.parse::<u64>().map(Value::from);
            let value = number.unwrap_or_else(|_| Value::from(value));
            validate(&header["schema"], &value).map_err(|wrong| format!("{name}: {wrong}"))?;
        }
    }
    let Some(contents) = response["content"].as_object() else {
        let empty = answer.body.is_empty();
        return empty.then_some(()).ok_or("the document names no body".to_owned());
    };
    let media_type = media_type(answer);
    let content = contents.get(&media_type);
    let content = content.ok_or(format!("the document does not name {media_type:?} here"))?;
    body_has(&content["schema"], &media_type, answer)
}

fn media_type(answer: &Answer) -> String {
    let content_type = answer.header("content-type").unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().to_owned()
}

fn body_has(schema: &Value, media_type: &str, answer: &Answer) -> Result<(), String> {
    if !media_type.ends_with("json") {
        return Ok(());
    }
    let body = serde_json::from_slice(&answer.body).map_err(|wrong| wrong.to_string())?;
    validate(schema, &body)
}

/// What the document says of all paths that it does not name.
fn problem_of(status: u16, answer: &Answer) -> Result<(), String> {
    if answer.status != status {
        return Err(format!("without a description it has to be {status}"));
    }
    let schema = json!({"$ref": format!("#/components/schemas/Problem{status}")});
    body_has(&schema, &media_type(answer), answer)
}

/// What browsers ask before a page's request, where pages may ask.
fn preflight(answer: &Answer) -> Result<(), String> {
    match answer.status {
        204 => Ok(()),
        403 => problem_of(403, answer),
        _ => other_method(answer),
    }
}

fn other_method(answer: &Answer) -> Result<(), String> {
    problem_of(405, answer)?;
    answer.header("allow").map(drop).ok_or("the header Allow is missing".to_owned())
}

/// The description of `path`. A path without parameters goes before one with.
fn described(path: &str) -> Option<&'static Value> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let exact = paths.get(path);
    exact.or_else(|| paths.iter().find(|(pattern, _)| fits(pattern, path)).map(|(_, item)| item))
}

fn fits(pattern: &str, path: &str) -> bool {
    let (pattern, path): (Vec<_>, Vec<_>) =
        (pattern.split('/').collect(), path.split('/').collect());
    let fits = |(wanted, part): (&&str, &&str)| wanted == part || wanted.starts_with('{');
    pattern.len() == path.len() && pattern.iter().zip(&path).all(fits)
}

/// Holds `value` against a schema of the document.
pub fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    static VALIDATORS: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> =
        LazyLock::new(Mutex::default);
    let validator = {
        let mut validators = VALIDATORS.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Arc::new(validator(schema));
        validators.entry(schema.to_string()).or_insert_with(made).clone()
    };
    let wrong: Vec<_> = validator
        .iter_errors(value)
        .map(|error| format!("{} at {:?}", error, error.instance_path().to_string()))
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

fn validator(schema: &Value) -> Validator {
    let mut whole = schema.clone();
    whole["components"] = DOCUMENT["components"].clone();
    let options = jsonschema::draft202012::options().should_validate_formats(true);
    options.build(&whole).unwrap_or_else(|wrong| panic!("{schema} is no JSON Schema: {wrong}"))
}
