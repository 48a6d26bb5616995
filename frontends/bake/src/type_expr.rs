//! Types as expressions: `list(string)`, `object({name = string})`.

use std::collections::BTreeMap;

use crate::Fail;
use crate::fail;
use crate::syntax::Expr;
use crate::syntax::Kind;
use crate::syntax::Part;
use crate::value::Type;

/// The type that an expression such as `list(string)` names. In JSON it stands in a string.
pub(crate) fn type_of_expr(expr: &Expr) -> Result<Type, Fail> {
    let unknown = || {
        let message = "this is no type";
        fail(message, expr.span.clone(), "").hint(
            "types are: any, bool, number, string, list(T), set(T), map(T), tuple([T, …]), object({name = T, other = optional(T)})",
        )
    };
    if let Kind::Template(parts) = &expr.kind {
        let [Part::Literal(text)] = &parts[..] else {
            return Err(unknown());
        };
        if !expr.span.file.name.ends_with(".hcl") {
            let inner = crate::syntax::hcl::parse_expression(text, &expr.span)?;
            if !matches!(inner.kind, Kind::Template(_)) {
                return type_of_expr(&inner);
            }
        }
        return Err(unknown());
    }
    match &expr.kind {
        Kind::Variable(name) => match name.as_str() {
            "any" => Ok(Type::Any),
            "bool" => Ok(Type::Bool),
            "number" => Ok(Type::Number),
            "string" => Ok(Type::String),
            _ => Err(unknown()),
        },
        Kind::Call(call) => {
            let [inner] = &call.arguments[..] else {
                return Err(unknown());
            };
            match call.name.text.as_str() {
                "list" => Ok(Type::List(Box::new(type_of_expr(inner)?))),
                "set" => Ok(Type::Set(Box::new(type_of_expr(inner)?))),
                "map" => Ok(Type::Map(Box::new(type_of_expr(inner)?))),
                "tuple" => match &inner.kind {
                    Kind::Tuple(items) => Ok(Type::Tuple(
                        items.iter().map(type_of_expr).collect::<Result<_, _>>()?,
                    )),
                    _ => Err(unknown()),
                },
                "object" => object_type(inner).unwrap_or_else(|| Err(unknown())),
                _ => Err(unknown()),
            }
        }
        _ => Err(unknown()),
    }
}

fn object_type(inner: &Expr) -> Option<Result<Type, Fail>> {
    let Kind::Object(entries) = &inner.kind else {
        return None;
    };
    let mut attributes = BTreeMap::new();
    for (key, value) in entries {
        let Kind::Template(parts) = &key.kind else {
            return None;
        };
        let [Part::Literal(name)] = &parts[..] else {
            return None;
        };
        let (value, optional) = match &value.kind {
            Kind::Call(call) if call.name.text == "optional" && call.arguments.len() == 1 => {
                (&call.arguments[0], true)
            }
            _ => (value, false),
        };
        match type_of_expr(value) {
            Ok(ty) => attributes.insert(name.clone(), (ty, optional)),
            Err(why) => return Some(Err(why)),
        };
    }
    Some(Ok(Type::Object(attributes)))
}
