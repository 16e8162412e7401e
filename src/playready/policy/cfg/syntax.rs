//! The two syntaxes of policy strings, and the tree that both become.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{NESTING_MAX, invalid, shown};
use crate::playready::policy::Refusal;

/// A value: text, or items in parentheses, brackets or braces.
pub(super) enum Value {
    Text(String),
    Items(Vec<Item>),
}

/// A value, with its key if it has one.
pub(super) struct Item {
    pub(super) key: Option<String>,
    pub(super) value: Value,
}

/// Reads `group *("," group)`; every item of the result is a group.
pub(super) fn parse(text: &str) -> Result<Vec<Item>, Refusal> {
    let mut parser = Parser { rest: text };
    let mut groups = Vec::new();
    loop {
        groups.push(Item { key: None, value: parser.group()? });
        if parser.rest.is_empty() {
            return Ok(groups);
        }
        parser.expect(',')?;
    }
}

/// Reads `[{"k":"v",…},…]`; every item of the result is a group.
pub(super) fn parse_json(text: &str) -> Result<Vec<Item>, Refusal> {
    match serde_json::from_str(text) {
        Ok(Value::Items(groups)) if groups.iter().all(|group| group.key.is_none()) => {
            if groups.iter().any(|group| depth(&group.value) > NESTING_MAX) {
                return Err(too_deep());
            }
            Ok(groups)
        }
        _ => Err(invalid("not a JSON array of objects")),
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Text(_) => 0,
        Value::Items(items) => 1 + items.iter().map(|item| depth(&item.value)).max().unwrap_or(0),
    }
}

fn too_deep() -> Refusal {
    invalid("nested deeper than 4")
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn group(&mut self) -> Result<Value, Refusal> {
        if let Some(rest) = self.rest.strip_prefix("()") {
            self.rest = rest;
            return Ok(Value::Items(Vec::new()));
        }
        self.items(1)
    }

    /// `"(" item *("," item) ")"`
    fn items(&mut self, depth: usize) -> Result<Value, Refusal> {
        if depth > NESTING_MAX {
            return Err(too_deep());
        }
        self.expect('(')?;
        let mut items = Vec::new();
        loop {
            items.push(self.item(depth)?);
            if let Some(rest) = self.rest.strip_prefix(')') {
                self.rest = rest;
                return Ok(Value::Items(items));
            }
            self.expect(',')?;
        }
    }

    fn item(&mut self, depth: usize) -> Result<Item, Refusal> {
        if self.rest.starts_with('(') {
            return Ok(Item { key: None, value: self.items(depth + 1)? });
        }
        let text = self.text()?;
        // A value that has a key may hold further colons.
        let Some((key, value)) = text.split_once(':') else {
            return Ok(Item { key: None, value: Value::Text(text.to_owned()) });
        };
        let value = match value {
            "" if self.rest.starts_with('(') => self.items(depth + 1)?,
            "" => return Err(invalid(format!("{}: no value", shown(key)))),
            value => Value::Text(value.to_owned()),
        };
        Ok(Item { key: Some(key.to_owned()), value })
    }

    /// `1*(%x21-7E except "(" ")" ",")`
    fn text(&mut self) -> Result<&'a str, Refusal> {
        let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '(' | ')' | ',');
        let end = self.rest.find(|c| !allowed(c)).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        if text.is_empty() {
            return Err(self.unexpected());
        }
        self.rest = rest;
        Ok(text)
    }

    fn expect(&mut self, wanted: char) -> Result<(), Refusal> {
        self.rest = self.rest.strip_prefix(wanted).ok_or_else(|| self.unexpected())?;
        Ok(())
    }

    fn unexpected(&self) -> Refusal {
        match self.rest.chars().next() {
            Some(found) => invalid(format!("unexpected {}", shown(&found.to_string()))),
            None => invalid("ends too early"),
        }
    }
}

/// Reads JSON values as items, so that a key that comes twice is seen twice.
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, a boolean, an array or an object")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(value) = array.next_element()? {
            items.push(Item { key: None, value });
        }
        Ok(Value::Items(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some((key, value)) = object.next_entry()? {
            items.push(Item { key: Some(key), value });
        }
        Ok(Value::Items(items))
    }
}
