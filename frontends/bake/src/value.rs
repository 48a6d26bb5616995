//! Values and types of the bake language, and the conversions between them.
//!
//! They are those of HCL (hashicorp/hcl, spec.md, "Types and Values"), but that an empty collection and a null do not
//! know their element type.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use crate::number::Number;

/// A value. Lists and maps have elements of one type, tuples and objects need not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    /// Sorted, each element once.
    Set(Vec<Value>),
    Object(BTreeMap<String, Value>),
    Map(BTreeMap<String, Value>),
}

/// A type, as a `type` attribute of a variable spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Type {
    Any,
    Bool,
    Number,
    String,
    List(Box<Type>),
    Set(Box<Type>),
    Map(Box<Type>),
    Tuple(Vec<Type>),
    /// Each attribute with whether it may be left out.
    Object(BTreeMap<String, (Type, bool)>),
}

impl Value {
    pub(crate) fn string(text: impl Into<String>) -> Self {
        Self::String(text.into())
    }

    pub(crate) fn strings<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self::List(texts.into_iter().map(Self::string).collect())
    }

    /// A set of the values: sorted, each once.
    pub(crate) fn set(mut values: Vec<Value>) -> Self {
        values.sort_by(Value::order);
        values.dedup();
        Self::Set(values)
    }

    /// The elements of a list, set or tuple.
    pub(crate) fn elements(&self) -> Option<&[Value]> {
        match self {
            Self::Tuple(values) | Self::List(values) | Self::Set(values) => Some(values),
            _ => None,
        }
    }

    /// The attributes of an object or elements of a map.
    pub(crate) fn entries(&self) -> Option<&BTreeMap<String, Value>> {
        match self {
            Self::Object(entries) | Self::Map(entries) => Some(entries),
            _ => None,
        }
    }

    pub(crate) fn type_of(&self) -> Type {
        match self {
            Self::Null => Type::Any,
            Self::Bool(_) => Type::Bool,
            Self::Number(_) => Type::Number,
            Self::String(_) => Type::String,
            Self::Tuple(values) => Type::Tuple(values.iter().map(Self::type_of).collect()),
            Self::List(values) => Type::List(Box::new(element_type(values.iter()))),
            Self::Set(values) => Type::Set(Box::new(element_type(values.iter()))),
            Self::Object(entries) => Type::Object(
                entries
                    .iter()
                    .map(|(name, value)| (name.clone(), (value.type_of(), false)))
                    .collect(),
            ),
            Self::Map(entries) => Type::Map(Box::new(element_type(entries.values()))),
        }
    }

    /// The value as a string, as templates and attributes of type string take it. `None` for null and collections.
    pub(crate) fn to_text(&self) -> Option<String> {
        match self {
            Self::String(text) => Some(text.clone()),
            Self::Bool(value) => Some(value.to_string()),
            Self::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The order in which a set has its elements.
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.cmp(b),
            (Self::String(a), Self::String(b)) => a.cmp(b),
            (a, b) => a.to_json().to_string().cmp(&b.to_json().to_string()),
        }
    }

    /// The value as `jsonencode` writes it.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Number(number) => number
                .to_string()
                .parse::<serde_json::Number>()
                .map_or(serde_json::Value::Null, serde_json::Value::Number),
            Self::String(text) => text.clone().into(),
            Self::Tuple(values) | Self::List(values) | Self::Set(values) => {
                values.iter().map(Self::to_json).collect()
            }
            Self::Object(entries) | Self::Map(entries) => entries
                .iter()
                .map(|(name, value)| (name.clone(), value.to_json()))
                .collect(),
        }
    }

    /// The value of a JSON text: objects and tuples, as its elements' types may differ.
    pub(crate) fn from_json(json: &serde_json::Value) -> Option<Self> {
        Some(match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Bool(*value),
            serde_json::Value::Number(number) => Self::Number(Number::parse(&number.to_string())?),
            serde_json::Value::String(text) => Self::String(text.clone()),
            serde_json::Value::Array(values) => {
                Self::Tuple(values.iter().map(Self::from_json).collect::<Option<_>>()?)
            }
            serde_json::Value::Object(entries) => Self::Object(
                entries
                    .iter()
                    .map(|(name, value)| Some((name.clone(), Self::from_json(value)?)))
                    .collect::<Option<_>>()?,
            ),
        })
    }
}

fn element_type<'v>(values: impl Iterator<Item = &'v Value>) -> Type {
    let types: Vec<_> = values.map(Value::type_of).collect();
    unify(&types).unwrap_or(Type::Any)
}

impl Type {
    pub(crate) fn is_primitive(&self) -> bool {
        matches!(self, Self::Bool | Self::Number | Self::String)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Bool => f.write_str("bool"),
            Self::Number => f.write_str("number"),
            Self::String => f.write_str("string"),
            Self::List(element) => write!(f, "list of {element}"),
            Self::Set(element) => write!(f, "set of {element}"),
            Self::Map(element) => write!(f, "map of {element}"),
            Self::Tuple(_) => f.write_str("tuple"),
            Self::Object(_) => f.write_str("object"),
        }
    }
}

/// The type that values of all these types can be converted to, if there is one.
pub(crate) fn unify(types: &[Type]) -> Option<Type> {
    let mut known = types.iter().filter(|ty| **ty != Type::Any);
    let Some(first) = known.next() else {
        return Some(Type::Any);
    };
    known.try_fold(first.clone(), |a, b| unify_two(&a, b))
}

fn unify_two(a: &Type, b: &Type) -> Option<Type> {
    use Type::Any;
    use Type::List;
    use Type::Map;
    use Type::Object;
    use Type::Set;
    use Type::Tuple;
    match (a, b) {
        _ if a == b => Some(a.clone()),
        (Any, other) | (other, Any) => Some(other.clone()),
        (Type::String, other) | (other, Type::String) if other.is_primitive() => Some(Type::String),
        (List(a), List(b)) => Some(List(Box::new(unify_two(a, b)?))),
        (Set(a), Set(b)) => Some(Set(Box::new(unify_two(a, b)?))),
        (Map(a), Map(b)) => Some(Map(Box::new(unify_two(a, b)?))),
        (List(a), Set(b)) | (Set(b), List(a)) => Some(List(Box::new(unify_two(a, b)?))),
        (Tuple(a), Tuple(b)) if a.len() == b.len() => Some(Tuple(
            a.iter()
                .zip(b)
                .map(|(a, b)| unify_two(a, b))
                .collect::<Option<_>>()?,
        )),
        (Tuple(a), Tuple(b)) => {
            let all: Vec<_> = a.iter().chain(b).cloned().collect();
            Some(List(Box::new(unify(&all)?)))
        }
        (List(element), Tuple(items)) | (Tuple(items), List(element)) => {
            let mut all = items.clone();
            all.push((**element).clone());
            Some(List(Box::new(unify(&all)?)))
        }
        (Set(element), Tuple(items)) | (Tuple(items), Set(element)) => {
            let mut all = items.clone();
            all.push((**element).clone());
            Some(Set(Box::new(unify(&all)?)))
        }
        (Object(a), Object(b)) if a.keys().eq(b.keys()) => Some(Object(
            a.iter()
                .map(|(name, (ty, optional))| {
                    let (other, also) = &b[name];
                    Some((name.clone(), (unify_two(ty, other)?, *optional && *also)))
                })
                .collect::<Option<_>>()?,
        )),
        (Object(a), Object(b)) => {
            let all: Vec<_> = a
                .values()
                .chain(b.values())
                .map(|(ty, _)| ty.clone())
                .collect();
            Some(Map(Box::new(unify(&all)?)))
        }
        (Map(element), Object(attributes)) | (Object(attributes), Map(element)) => {
            let mut all: Vec<_> = attributes.values().map(|(ty, _)| ty.clone()).collect();
            all.push((**element).clone());
            Some(Map(Box::new(unify(&all)?)))
        }
        _ => None,
    }
}

/// The value as one of that type, or why it cannot be one: `string required, but have object`.
pub(crate) fn convert(value: &Value, ty: &Type) -> Result<Value, String> {
    let refuse = || Err(format!("{ty} required, but have {}", value.type_of()));
    if matches!(value, Value::Null) {
        return Ok(Value::Null);
    }
    match ty {
        Type::Any => Ok(value.clone()),
        Type::String => value.to_text().map(Value::String).map_or_else(refuse, Ok),
        Type::Bool => match value {
            Value::Bool(_) => Ok(value.clone()),
            Value::String(text) if text == "true" || text == "1" => Ok(Value::Bool(true)),
            Value::String(text) if text == "false" || text == "0" => Ok(Value::Bool(false)),
            Value::String(_) => Err("a bool is required: true or false".to_owned()),
            _ => refuse(),
        },
        Type::Number => match value {
            Value::Number(_) => Ok(value.clone()),
            Value::String(text) => Number::parse(text)
                .map(Value::Number)
                .ok_or_else(|| format!("a number is required, but have {text:?}")),
            _ => refuse(),
        },
        Type::List(element) => match value.elements() {
            Some(values) => Ok(Value::List(convert_all(values, element)?)),
            None => refuse(),
        },
        Type::Set(element) => match value.elements() {
            Some(values) => Ok(Value::set(convert_all(values, element)?)),
            None => refuse(),
        },
        Type::Tuple(types) => match value.elements() {
            Some(values) if values.len() == types.len() => Ok(Value::Tuple(
                values
                    .iter()
                    .zip(types)
                    .map(|(value, ty)| convert(value, ty))
                    .collect::<Result<_, _>>()?,
            )),
            Some(values) => Err(format!(
                "a tuple of {} elements is required, but have {}",
                types.len(),
                values.len()
            )),
            None => refuse(),
        },
        Type::Map(element) => match value.entries() {
            Some(entries) => {
                let element = one_type(entries.values(), element)?;
                Ok(Value::Map(
                    entries
                        .iter()
                        .map(|(name, value)| {
                            let value = convert(value, &element)
                                .map_err(|why| format!("element {name:?}: {why}"))?;
                            Ok((name.clone(), value))
                        })
                        .collect::<Result<_, String>>()?,
                ))
            }
            None => refuse(),
        },
        Type::Object(attributes) => match value.entries() {
            Some(entries) => convert_object(entries, attributes),
            None => refuse(),
        },
    }
}

fn convert_all(values: &[Value], element: &Type) -> Result<Vec<Value>, String> {
    let element = one_type(values.iter(), element)?;
    values
        .iter()
        .enumerate()
        .map(|(index, value)| {
            convert(value, &element).map_err(|why| format!("element {index}: {why}"))
        })
        .collect()
}

/// The element type of a collection: where any will do, the one that all elements can have.
fn one_type<'v>(values: impl Iterator<Item = &'v Value>, wanted: &Type) -> Result<Type, String> {
    if *wanted != Type::Any {
        return Ok(wanted.clone());
    }
    let types: Vec<_> = values.map(Value::type_of).collect();
    unify(&types).ok_or_else(|| "all elements must have the same type".to_owned())
}

fn convert_object(
    entries: &BTreeMap<String, Value>,
    attributes: &BTreeMap<String, (Type, bool)>,
) -> Result<Value, String> {
    let mut object = BTreeMap::new();
    for (name, (ty, optional)) in attributes {
        let value = match entries.get(name) {
            Some(value) => {
                convert(value, ty).map_err(|why| format!("attribute {name:?}: {why}"))?
            }
            None if *optional => Value::Null,
            None => return Err(format!("attribute {name:?} is required")),
        };
        object.insert(name.clone(), value);
    }
    Ok(Value::Object(object))
}

#[cfg(test)]
mod t {
    use super::*;

    fn text(value: &str) -> Value {
        Value::string(value)
    }

    #[test]
    fn branches_of_a_conditional_find_their_type() {
        let empty = Type::Tuple(vec![]);
        let one = Type::Tuple(vec![Type::String]);
        assert_eq!(
            unify(&[empty, one]),
            Some(Type::List(Box::new(Type::String)))
        );
        assert_eq!(unify(&[Type::Any, Type::Bool]), Some(Type::Bool));
        assert_eq!(unify(&[Type::Number, Type::String]), Some(Type::String));
        assert_eq!(unify(&[Type::Number, Type::Bool]), None);
    }

    #[test]
    fn sets_are_sorted_and_have_each_element_once() {
        let value = Value::Tuple(vec![text("b"), text("a"), text("b")]);
        let set = convert(&value, &Type::Set(Box::new(Type::String)));
        assert_eq!(set, Ok(Value::Set(vec![text("a"), text("b")])));
    }

    #[test]
    fn what_does_not_convert_says_why() {
        let list = Type::List(Box::new(Type::String));
        assert_eq!(
            convert(&text("x"), &list),
            Err("list of string required, but have string".to_owned())
        );
        assert_eq!(
            convert(&Value::Tuple(vec![Value::Object(BTreeMap::new())]), &list),
            Err("element 0: string required, but have object".to_owned())
        );
    }
}
