//! Lists, sets, maps and what is in them.

use std::collections::BTreeMap;

use super::ANY;
use super::Function;
use super::Result;
use super::elements;
use super::function;
use super::number;
use super::text;
use super::texts;
use super::whole;
use super::wrong;
use crate::number::Number;
use crate::value::Type;
use crate::value::Value;
use crate::value::convert;
use crate::value::unify;

/// The most elements `range` and `setproduct` make.
const MOST: usize = 1024;

pub(super) const FUNCTIONS: &[Function] = &[
    function("chunklist", "chunklist(list, size)", (2, 2), |_, a| {
        let size =
            usize::try_from(whole(a, 1)?).map_err(|_| wrong(1, "the size is a number from 0"))?;
        let items = list(a, 0)?;
        let chunks = items.chunks(if size == 0 { items.len().max(1) } else { size });
        Ok(Value::List(
            chunks.map(|chunk| Value::List(chunk.to_vec())).collect(),
        ))
    }),
    function("coalesce", "coalesce(values...)", (1, ANY), |_, a| {
        let types: Vec<_> = a.iter().map(Value::type_of).collect();
        let ty = unify(&types).ok_or("all values must have one type")?;
        let first = a.iter().find(|value| **value != Value::Null);
        let first = first.ok_or("all values are null")?;
        Ok(convert(first, &ty)?)
    })
    .with_nulls(),
    function(
        "coalescelist",
        "coalescelist(lists...)",
        (1, ANY),
        |_, a| {
            for at in 0..a.len() {
                if !elements(a, at)?.is_empty() {
                    return Ok(a[at].clone());
                }
            }
            Err("all lists are empty".into())
        },
    ),
    function("compact", "compact(list)", (1, 1), |_, a| {
        let texts = texts(a, 0)?;
        Ok(Value::strings(
            texts.into_iter().filter(|text| !text.is_empty()),
        ))
    }),
    function("concat", "concat(lists...)", (1, ANY), |_, a| {
        let mut all = Vec::new();
        for at in 0..a.len() {
            all.extend_from_slice(elements(a, at)?);
        }
        let lists = a.iter().all(|value| matches!(value, Value::List(_)));
        Ok(if lists {
            Value::List(all)
        } else {
            Value::Tuple(all)
        })
    }),
    function("contains", "contains(list, value)", (2, 2), |_, a| {
        Ok(Value::Bool(elements(a, 0)?.contains(&a[1])))
    }),
    function("distinct", "distinct(list)", (1, 1), |_, a| {
        let items = list(a, 0)?;
        let mut once: Vec<Value> = Vec::new();
        for item in items {
            if !once.contains(&item) {
                once.push(item);
            }
        }
        Ok(Value::List(once))
    }),
    function("element", "element(list, index)", (2, 2), |_, a| {
        let items = elements(a, 0)?;
        let index = whole(a, 1)?;
        let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
        if items.is_empty() {
            return Err(wrong(0, "the list is empty"));
        }
        let at = usize::try_from(index.rem_euclid(count)).unwrap_or(0);
        Ok(items[at].clone())
    }),
    function("flatten", "flatten(list)", (1, 1), |_, a| {
        let mut all = Vec::new();
        flatten(elements(a, 0)?, &mut all);
        Ok(Value::Tuple(all))
    }),
    function("hasindex", "hasindex(collection, key)", (2, 2), |_, a| {
        no_object(a)?;
        Ok(Value::Bool(index(a).is_ok()))
    }),
    function("index", "index(collection, key)", (2, 2), |_, a| index(a)),
    function("indexof", "indexof(list, value)", (2, 2), |_, a| {
        let at = elements(a, 0)?.iter().position(|item| *item == a[1]);
        at.map(|at| Value::Number(Number::from(at)))
            .ok_or_else(|| wrong(1, "it is not in the list"))
    }),
    function("keys", "keys(map)", (1, 1), |_, a| {
        Ok(Value::strings(entries(a, 0)?.keys()))
    }),
    function("length", "length(collection)", (1, 1), |_, a| {
        no_object(a)?;
        let entries = a[0].entries().map(BTreeMap::len);
        let count = entries.or(a[0].elements().map(<[Value]>::len)).unwrap_or(0);
        Ok(Value::Number(Number::from(count)))
    }),
    function(
        "lookup",
        "lookup(map, key, default)",
        (2, 3),
        |_, a| match (entries(a, 0)?.get(&text(a, 1)?), a.get(2)) {
            (Some(value), _) => Ok(value.clone()),
            (None, Some(default)) => Ok(default.clone()),
            (None, None) => Err(wrong(1, "there is no such key")),
        },
    ),
    function("merge", "merge(maps...)", (0, ANY), |_, a| {
        let mut merged = BTreeMap::new();
        for (at, value) in a.iter().enumerate() {
            if *value != Value::Null {
                merged.extend(entries(a, at)?.clone());
            }
        }
        let maps = a.iter().all(|value| matches!(value, Value::Map(_)));
        Ok(if maps {
            Value::Map(merged)
        } else {
            Value::Object(merged)
        })
    })
    .with_nulls(),
    function("range", "range(start, limit, step)", (1, 3), |_, a| {
        range(a)
    }),
    function("reverselist", "reverselist(list)", (1, 1), |_, a| {
        let items: Vec<_> = elements(a, 0)?.iter().rev().cloned().collect();
        Ok(match a[0] {
            Value::Tuple(_) => Value::Tuple(items),
            _ => Value::List(items),
        })
    }),
    function(
        "sethaselement",
        "sethaselement(set, value)",
        (2, 2),
        |_, a| Ok(Value::Bool(elements(a, 0)?.contains(&a[1]))),
    ),
    function(
        "setintersection",
        "setintersection(sets...)",
        (1, ANY),
        |_, a| {
            combine(a, |all, next| {
                all.into_iter().filter(|v| next.contains(v)).collect()
            })
        },
    ),
    function("setproduct", "setproduct(sets...)", (2, ANY), |_, a| {
        product(a)
    }),
    function("setsubtract", "setsubtract(a, b)", (2, 2), |_, a| {
        combine(a, |all, next| {
            all.into_iter().filter(|v| !next.contains(v)).collect()
        })
    }),
    function(
        "setsymmetricdifference",
        "setsymmetricdifference(sets...)",
        (1, ANY),
        |_, a| {
            combine(a, |all, next| {
                let only_next = next.iter().filter(|v| !all.contains(v)).cloned();
                let mut both: Vec<_> = only_next.collect();
                both.extend(all.into_iter().filter(|v| !next.contains(v)));
                both
            })
        },
    ),
    function("setunion", "setunion(sets...)", (1, ANY), |_, a| {
        combine(a, |all, next| all.into_iter().chain(next).collect())
    }),
    function("slice", "slice(list, start, end)", (3, 3), |_, a| {
        let items = elements(a, 0)?;
        let start = bound(a, 1, items.len())?;
        let end = bound(a, 2, items.len())?;
        let part = items
            .get(start..end)
            .ok_or_else(|| wrong(1, "the start is after the end"))?;
        Ok(match a[0] {
            Value::Tuple(_) => Value::Tuple(part.to_vec()),
            _ => Value::List(part.to_vec()),
        })
    }),
    function("sort", "sort(list)", (1, 1), |_, a| {
        let mut texts = texts(a, 0)?;
        texts.sort();
        Ok(Value::strings(texts))
    }),
    function("values", "values(map)", (1, 1), |_, a| {
        let values = entries(a, 0)?.values().cloned().collect();
        Ok(match a[0] {
            Value::Map(_) => Value::List(values),
            _ => Value::Tuple(values),
        })
    }),
    function("zipmap", "zipmap(keys, values)", (2, 2), |_, a| {
        let keys = texts(a, 0)?;
        let values = elements(a, 1)?;
        if keys.len() != values.len() {
            return Err(wrong(1, "there must be as many values as keys"));
        }
        let entries = keys.into_iter().zip(values.iter().cloned()).collect();
        Ok(match a[1] {
            Value::Tuple(_) => Value::Object(entries),
            _ => Value::Map(entries),
        })
    }),
];

fn entries(arguments: &[Value], at: usize) -> Result<&BTreeMap<String, Value>> {
    arguments[at].entries().ok_or_else(|| {
        wrong(
            at,
            format!("a map is required, but have {}", arguments[at].type_of()),
        )
    })
}

/// The argument's elements, made to be of one type.
fn list(arguments: &[Value], at: usize) -> Result<Vec<Value>> {
    match convert(&arguments[at], &Type::List(Box::new(Type::Any))) {
        Ok(Value::List(items)) => Ok(items),
        Ok(_) => Ok(Vec::new()),
        Err(why) => Err(wrong(at, why)),
    }
}

/// Objects are no collections here, as with buildx: `try` and `can` tell.
fn no_object(arguments: &[Value]) -> Result<()> {
    match &arguments[0] {
        Value::Tuple(_) | Value::List(_) | Value::Set(_) | Value::Map(_) => Ok(()),
        other => {
            let ty = other.type_of();
            Err(wrong(
                0,
                format!("a list or map is required, but have {ty}"),
            ))
        }
    }
}

fn flatten(items: &[Value], all: &mut Vec<Value>) {
    for item in items {
        match item.elements() {
            Some(inner) => flatten(inner, all),
            None => all.push(item.clone()),
        }
    }
}

fn index(arguments: &[Value]) -> Result<Value> {
    no_object(arguments)?;
    let missing = || wrong(1, "there is no such element");
    if let Some(entries) = arguments[0].entries() {
        let key = text(arguments, 1)?;
        return entries.get(&key).cloned().ok_or_else(missing);
    }
    let at = usize::try_from(whole(arguments, 1)?).map_err(|_| missing())?;
    elements(arguments, 0)?.get(at).cloned().ok_or_else(missing)
}

fn bound(arguments: &[Value], at: usize, count: usize) -> Result<usize> {
    usize::try_from(whole(arguments, at)?)
        .ok()
        .filter(|bound| *bound <= count)
        .ok_or_else(|| wrong(at, format!("it must be a number from 0 to {count}")))
}

fn range(arguments: &[Value]) -> Result<Value> {
    let one = Number::from(1_i64);
    let (start, limit) = match arguments.len() {
        1 => (Number::ZERO, number(arguments, 0)?),
        _ => (number(arguments, 0)?, number(arguments, 1)?),
    };
    let step = match arguments.len() {
        3 => number(arguments, 2)?,
        _ if limit < start => one.neg(),
        _ => one,
    };
    if step == Number::ZERO {
        return Err(wrong(2, "the step must not be 0"));
    }
    let up = step > Number::ZERO;
    if (up && limit < start) || (!up && limit > start) {
        return Err(wrong(2, "the step leads away from the limit"));
    }
    let mut numbers = Vec::new();
    let mut next = start;
    while if up { next < limit } else { next > limit } {
        if numbers.len() == MOST {
            return Err(format!("these are more than {MOST} numbers").into());
        }
        numbers.push(Value::Number(next));
        next = next.add(step).ok_or("the numbers are too large")?;
    }
    Ok(Value::List(numbers))
}

/// Sets, folded from the first on; their elements get one type.
fn combine(arguments: &[Value], join: fn(Vec<Value>, Vec<Value>) -> Vec<Value>) -> Result<Value> {
    let mut types = Vec::new();
    for at in 0..arguments.len() {
        types.extend(elements(arguments, at)?.iter().map(Value::type_of));
    }
    let ty = unify(&types).ok_or("the sets must have elements of one type")?;
    let set = |at: usize| match convert(&arguments[at], &Type::Set(Box::new(ty.clone()))) {
        Ok(Value::Set(values)) => Ok(values),
        Ok(_) => Ok(Vec::new()),
        Err(why) => Err(wrong(at, why)),
    };
    let mut all = set(0)?;
    for at in 1..arguments.len() {
        all = join(all, set(at)?);
    }
    Ok(Value::set(all))
}

/// Each choice of one element from each set.
fn product(arguments: &[Value]) -> Result<Value> {
    let mut rows = vec![Vec::new()];
    for at in 0..arguments.len() {
        let items = list(arguments, at)?;
        if rows.len() * items.len() > MOST {
            return Err(format!("these are more than {MOST} combinations").into());
        }
        rows = rows
            .iter()
            .flat_map(|row: &Vec<Value>| {
                items.iter().map(|item| {
                    let mut row = row.clone();
                    row.push(item.clone());
                    row
                })
            })
            .collect();
    }
    let rows = rows.into_iter().map(Value::Tuple).collect();
    let sets = arguments.iter().all(|value| matches!(value, Value::Set(_)));
    Ok(if sets {
        Value::set(rows)
    } else {
        Value::List(rows)
    })
}
