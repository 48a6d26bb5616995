//! Variables: their types, defaults and rules, and what the command line and the environment put in their place.

use std::collections::BTreeMap;

use rbuild_llb::Diagnostic;

use super::Files;
use crate::Fail;
use crate::eval::Locals;
use crate::fail;
use crate::number::Number;
use crate::syntax::Block;
use crate::syntax::Kind;
use crate::type_expr::type_of_expr;
use crate::value::Type;
use crate::value::Value;
use crate::value::convert;

impl Files<'_> {
    /// The value that the command line or the environment gives a variable, and whether it is JSON.
    pub(super) fn given(&self, name: &str, prefer_json: bool) -> Option<(&str, bool)> {
        let plain = self.options.variable(name);
        if plain.is_some() && !prefer_json {
            return plain.map(|text| (text, false));
        }
        let json_name = format!("{name}_JSON");
        if !self.variables.contains_key(json_name.as_str())
            && let Some(text) = self.options.variable(&json_name)
        {
            return Some((text, true));
        }
        plain.map(|text| (text, false))
    }

    pub(super) fn variable_of(&self, name: &str, block: &Block) -> Result<Value, Fail> {
        let ty = match block.body.attribute("type") {
            Some(attribute) if !matches!(attribute.value.kind, Kind::Null) => {
                Some((type_of_expr(&attribute.value)?, &attribute.value.span))
            }
            _ => None,
        };
        let default = block.body.attribute("default");
        let given = self.given(name, ty.is_some());
        let value = match default {
            Some(attribute) => {
                let value = self.eval(&attribute.value, &Locals::default())?;
                match &ty {
                    Some((ty, _)) => convert(&value, ty).map_err(|why| {
                        let message = format!("the default of the variable `{name}`: {why}");
                        fail(message, attribute.value.span.clone(), "")
                    })?,
                    None => value,
                }
            }
            None if ty.is_some() => Value::Null,
            None => Value::string(""),
        };
        let Some((text, json)) = given else {
            return Ok(value);
        };
        let wrong = |why: String| {
            let source = self.options.source_of(name, json);
            let message = format!("the variable `{name}` cannot be {text:?}, as {source}: {why}");
            fail(message, block.labels[0].span.clone(), "")
        };
        match ty {
            Some((ty, _)) if json => serde_json::from_str(text)
                .map_err(|error| format!("this is not JSON: {error}"))
                .and_then(|json| Value::from_json(&json).ok_or("a number is too large".to_owned()))
                .and_then(|value| convert(&value, &ty))
                .map_err(wrong),
            Some((ty, _)) => from_text(text, &ty).map_err(wrong),
            None => match value {
                _ if default.is_none() => Ok(Value::string(text)),
                Value::Null => Ok(Value::string(text)),
                value if value.type_of().is_primitive() => {
                    primitive(text, &value.type_of()).map_err(wrong)
                }
                value => {
                    let name = value.type_of();
                    Err(wrong(format!("its default is of type {name}"))
                        .hint("give the variable a `type`, such as `list(string)`"))
                }
            },
        }
    }

    pub(super) fn validate_variables(&self) -> Result<(), Vec<Diagnostic>> {
        let mut found = Vec::new();
        let rules = self.variables.values().flat_map(|block| &block.body.blocks);
        for rule in rules.filter(|rule| rule.kind.text == "validation") {
            if let Err(why) = self.validate(rule) {
                found.push(why.into());
            }
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    fn validate(&self, rule: &Block) -> Result<(), Fail> {
        let part = |name: &str| {
            rule.body.attribute(name).map(|a| &a.value).ok_or_else(|| {
                let message = format!("a `validation` block needs `{name}`");
                fail(message, rule.kind.span.clone(), "")
            })
        };
        let (condition, message) = (part("condition")?, part("error_message")?);
        let value = self.eval(condition, &Locals::default())?;
        match convert(&value, &Type::Bool) {
            Ok(Value::Bool(true)) => Ok(()),
            Ok(Value::Bool(false)) => {
                let text = self.eval(message, &Locals::default())?.to_text();
                let text =
                    text.unwrap_or_else(|| "a variable has a value that is not valid".to_owned());
                Err(fail(text, condition.span.clone(), "this does not hold"))
            }
            Ok(_) => Err(fail(
                "a condition must not be null",
                condition.span.clone(),
                "",
            )),
            Err(why) => Err(fail(why, condition.span.clone(), "")),
        }
    }
}

/// A text of the environment as a value of a type: primitives as they are, lists as CSV, maps as CSV of `key:value`.
fn from_text(text: &str, ty: &Type) -> Result<Value, String> {
    let all = |element: &Type| -> Result<Vec<Value>, String> {
        let fields = crate::flags::csv(text)?;
        fields
            .iter()
            .map(|field| primitive(field, element))
            .collect()
    };
    match ty {
        Type::List(element) => Ok(Value::List(all(element)?)),
        Type::Set(element) => Ok(Value::set(all(element)?)),
        Type::Tuple(types) => {
            let fields = crate::flags::csv(text)?;
            if fields.len() != types.len() {
                let (wanted, given) = (types.len(), fields.len());
                return Err(format!("{wanted} elements are required, but have {given}"));
            }
            let pairs = fields.iter().zip(types);
            Ok(Value::Tuple(
                pairs
                    .map(|(field, ty)| primitive(field, ty))
                    .collect::<Result<_, _>>()?,
            ))
        }
        Type::Map(element) => {
            let mut map = BTreeMap::new();
            for field in crate::flags::csv(text)? {
                let (key, value) = field
                    .split_once(':')
                    .ok_or_else(|| format!("`{field}` is not of the form `key:value`"))?;
                map.insert(key.to_owned(), primitive(value, element)?);
            }
            Ok(Value::Map(map))
        }
        Type::Any => Ok(Value::string(text)),
        Type::Object(_) => Err(
            "an object is given as JSON, in the variable with `_JSON` behind its name".to_owned(),
        ),
        primitive_type => primitive(text, primitive_type),
    }
}

pub(super) fn primitive(text: &str, ty: &Type) -> Result<Value, String> {
    match ty {
        Type::String | Type::Any => Ok(Value::string(text)),
        Type::Bool => crate::flags::parse_bool(text)
            .map(Value::Bool)
            .ok_or_else(|| "it is neither true nor false".to_owned()),
        Type::Number => Number::parse(text)
            .map(Value::Number)
            .ok_or_else(|| "it is no number".to_owned()),
        other => Err(format!(
            "a {other} inside of it can only be given as JSON, in the variable with `_JSON` behind its name"
        )),
    }
}
