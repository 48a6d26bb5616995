//! Values of expressions (hashicorp/hcl, hclsyntax/spec.md, "Expressions").

use std::cell::Cell;
use std::collections::BTreeMap;

use rbuild_llb::Span;

use crate::Fail;
use crate::fail;
use crate::functions;
use crate::number::Number;
use crate::syntax::Binary;
use crate::syntax::Call;
use crate::syntax::Expr;
use crate::syntax::For;
use crate::syntax::Kind;
use crate::syntax::Part;
use crate::syntax::Step;
use crate::syntax::Unary;
use crate::syntax::Word;
use crate::type_expr::type_of_expr;
use crate::value::Type;
use crate::value::Value;
use crate::value::convert;
use crate::value::unify;

/// Names that hold inside an expression only: of loops, parameters and matrices.
#[derive(Default)]
pub(crate) struct Locals<'l> {
    pub(crate) names: BTreeMap<String, Value>,
    pub(crate) outer: Option<&'l Locals<'l>>,
}

impl Locals<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.names
            .get(name)
            .or_else(|| self.outer.and_then(|outer| outer.get(name)))
    }
}

/// What the file defines, looked up when an expression asks for it.
pub(crate) trait Definitions {
    /// The value of a variable or of an attribute of the file.
    fn variable(&self, name: &str, span: &Span) -> Result<Value, Fail>;

    /// Whether `name.x` is a block of that kind rather than an attribute of a variable.
    fn is_block_kind(&self, name: &str) -> bool;

    /// The value of an attribute of a block, or of all of it.
    fn block(&self, kind: &str, name: &Word, attribute: Option<&Word>) -> Result<Value, Fail>;

    /// The value of a call of a function that the file defines. `None` if it defines none of this name.
    fn call(&self, name: &str, arguments: &[Value], span: &Span) -> Option<Result<Value, Fail>>;

    /// The names of such functions, for suggestions.
    fn function_names(&self) -> Vec<String>;

    /// What the built-in functions may know of the world.
    fn world(&self) -> &functions::World;

    /// What a file may still ask for.
    fn limits(&self) -> &Limits;
}

/// What bounds the time and the stack that a file takes.
pub(crate) struct Limits {
    /// The work that is left. Loops and functions can ask for more than there is time for.
    work: Cell<u64>,
    /// How many expressions are being worked out within one another.
    depth: Cell<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            work: Cell::new(2_000_000),
            depth: Cell::new(0),
        }
    }
}

/// More than one expression can have, which the HCL library bounds, and less than a small stack takes.
const MAX_DEPTH: u32 = 400;

pub(crate) struct Evaluator<'e> {
    pub(crate) definitions: &'e dyn Definitions,
}

impl Evaluator<'_> {
    pub(crate) fn eval(&self, expr: &Expr, locals: &Locals) -> Result<Value, Fail> {
        self.spend(1, &expr.span)?;
        let depth = &self.definitions.limits().depth;
        if depth.get() == MAX_DEPTH {
            let message = "expressions refer to one another too deep";
            return Err(fail(
                message,
                expr.span.clone(),
                "the limit is reached here",
            ));
        }
        depth.set(depth.get() + 1);
        let value = self.value(expr, locals);
        depth.set(depth.get() - 1);
        value
    }

    fn value(&self, expr: &Expr, locals: &Locals) -> Result<Value, Fail> {
        match &expr.kind {
            Kind::Null => Ok(Value::Null),
            Kind::Bool(value) => Ok(Value::Bool(*value)),
            Kind::Number(number) => Ok(Value::Number(*number)),
            Kind::Template(parts) => match &parts[..] {
                [Part::Interpolation(inner)] => self.eval(inner, locals),
                parts => {
                    let mut text = String::new();
                    self.template(parts, locals, &mut text, &expr.span)?;
                    Ok(Value::String(text))
                }
            },
            Kind::Tuple(items) => Ok(Value::Tuple(self.eval_all(items, locals)?)),
            Kind::Object(entries) => self.object(entries, locals),
            Kind::Variable(name) => {
                let value = match locals.get(name) {
                    Some(value) => value.clone(),
                    None => self.definitions.variable(name, &expr.span)?,
                };
                self.spend(weight(&value), &expr.span)?;
                Ok(value)
            }
            Kind::Traversal(from, steps) => self.traversal(from, steps, locals),
            Kind::Call(call) => {
                let value = self.call(call, locals, &expr.span)?;
                self.spend(weight(&value), &expr.span)?;
                Ok(value)
            }
            Kind::Conditional(parts) => self.conditional(parts, locals, &expr.span),
            Kind::Unary(operator, operand) => self.unary(*operator, operand, locals),
            Kind::Binary(operator, operands) => {
                self.binary(*operator, operands, locals, &expr.span)
            }
            Kind::For(all) => self.for_expr(all, locals),
        }
    }

    pub(crate) fn spend(&self, work: u64, span: &Span) -> Result<(), Fail> {
        let budget = &self.definitions.limits().work;
        match budget.get().checked_sub(work) {
            Some(left) => {
                budget.set(left);
                Ok(())
            }
            None => Err(fail(
                "the file asks for more work than a bake file may",
                span.clone(),
                "the limit is reached here",
            )),
        }
    }

    fn eval_all(&self, exprs: &[Expr], locals: &Locals) -> Result<Vec<Value>, Fail> {
        exprs.iter().map(|expr| self.eval(expr, locals)).collect()
    }

    fn template(
        &self,
        parts: &[Part],
        locals: &Locals,
        text: &mut String,
        span: &Span,
    ) -> Result<(), Fail> {
        for part in parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Interpolation(inner) => {
                    let value = self.eval(inner, locals)?;
                    let Some(piece) = value.to_text() else {
                        let label = match value {
                            Value::Null => "this is null".to_owned(),
                            other => format!("this is {}", a(&other)),
                        };
                        let message = "a string is required in a template";
                        return Err(fail(message, inner.span.clone(), label));
                    };
                    text.push_str(&piece);
                }
                Part::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    let branch = if self.condition(condition, locals)? {
                        then
                    } else {
                        otherwise
                    };
                    self.template(branch, locals, text, span)?;
                }
                Part::For {
                    key_name,
                    value_name,
                    collection,
                    body,
                } => {
                    let items = self.iterate(collection, locals)?;
                    for (key, value) in items {
                        let inner = loop_names(locals, key_name.as_deref(), value_name, key, value);
                        self.template(body, &inner, text, span)?;
                    }
                }
            }
            self.spend(1 + text.len() as u64 / 64, span)?;
        }
        Ok(())
    }

    fn object(&self, entries: &[(Expr, Expr)], locals: &Locals) -> Result<Value, Fail> {
        let mut object = BTreeMap::new();
        for (key, value) in entries {
            let name = self.key(key, locals)?;
            object.insert(name, self.eval(value, locals)?);
        }
        Ok(Value::Object(object))
    }

    fn key(&self, key: &Expr, locals: &Locals) -> Result<String, Fail> {
        let value = self.eval(key, locals)?;
        value.to_text().ok_or_else(|| {
            let label = format!("this is {}", a(&value));
            fail("a key must be a string", key.span.clone(), label)
        })
    }

    fn condition(&self, expr: &Expr, locals: &Locals) -> Result<bool, Fail> {
        let value = self.eval(expr, locals)?;
        match convert(&value, &Type::Bool) {
            Ok(Value::Bool(value)) => Ok(value),
            _ => Err(fail(
                "a condition must be true or false",
                expr.span.clone(),
                format!("this is {}", a(&value)),
            )),
        }
    }

    /// Both results are worked out, as their common type is that of the whole. The one that is not chosen need not have a
    /// value.
    fn conditional(&self, parts: &[Expr; 3], locals: &Locals, span: &Span) -> Result<Value, Fail> {
        let [condition, then, otherwise] = parts;
        let condition = self.condition(condition, locals)?;
        let then = self.eval(then, locals);
        let otherwise = self.eval(otherwise, locals);
        let (chosen, other) = match condition {
            true => (then?, otherwise.unwrap_or(Value::Null)),
            false => (otherwise?, then.unwrap_or(Value::Null)),
        };
        let Some(ty) = unify(&[chosen.type_of(), other.type_of()]) else {
            return Err(fail(
                "the two results of a conditional must have one type",
                span.clone(),
                format!("one is {}, the other {}", a(&chosen), a(&other)),
            ));
        };
        convert(&chosen, &ty).map_err(|why| fail(why, span.clone(), ""))
    }

    fn unary(&self, operator: Unary, operand: &Expr, locals: &Locals) -> Result<Value, Fail> {
        match operator {
            Unary::Not => Ok(Value::Bool(!self.condition(operand, locals)?)),
            Unary::Negate => Ok(Value::Number(self.number(operand, locals)?.neg())),
        }
    }

    fn number(&self, expr: &Expr, locals: &Locals) -> Result<Number, Fail> {
        let value = self.eval(expr, locals)?;
        match convert(&value, &Type::Number) {
            Ok(Value::Number(number)) => Ok(number),
            _ => Err(fail(
                "a number is required here",
                expr.span.clone(),
                format!("this is {}", a(&value)),
            )),
        }
    }

    fn binary(
        &self,
        operator: Binary,
        operands: &[Expr; 2],
        locals: &Locals,
        span: &Span,
    ) -> Result<Value, Fail> {
        let [left, right] = operands;
        match operator {
            Binary::Equal => Ok(Value::Bool(
                self.eval(left, locals)? == self.eval(right, locals)?,
            )),
            Binary::NotEqual => Ok(Value::Bool(
                self.eval(left, locals)? != self.eval(right, locals)?,
            )),
            Binary::And => self.decide(false, left, right, locals),
            Binary::Or => self.decide(true, left, right, locals),
            _ => {
                let left = self.number(left, locals)?;
                let right = self.number(right, locals)?;
                arithmetic(operator, left, right).ok_or_else(|| {
                    let message = if right == Number::ZERO {
                        "a number cannot be divided by zero"
                    } else {
                        "the result is too large"
                    };
                    fail(message, span.clone(), "")
                })
            }
        }
    }

    /// `&&`, which a false operand decides, and `||`, which a true one does. The other operand then need not have a value,
    /// but if it has one it must be a bool.
    fn decide(&self, by: bool, left: &Expr, right: &Expr, locals: &Locals) -> Result<Value, Fail> {
        let refuse = |expr: &Expr, label: String| {
            fail(
                "a condition must be true or false",
                expr.span.clone(),
                label,
            )
        };
        let operand = |expr: &Expr| -> Result<Result<bool, Fail>, Fail> {
            match self.eval(expr, locals) {
                Ok(Value::Null) => Ok(Err(refuse(expr, "this is null".to_owned()))),
                Ok(value) => match convert(&value, &Type::Bool) {
                    Ok(value) => Ok(Ok(value == Value::Bool(true))),
                    Err(_) => Err(refuse(expr, format!("this is {}", a(&value)))),
                },
                Err(why) => Ok(Err(why)),
            }
        };
        let (left, right) = (operand(left)?, operand(right)?);
        let decides = |operand: &Result<bool, Fail>| matches!(operand, Ok(value) if *value == by);
        if decides(&left) || decides(&right) {
            return Ok(Value::Bool(by));
        }
        left?;
        right?;
        Ok(Value::Bool(!by))
    }

    /// The keys and values of a collection, in its order.
    fn iterate(&self, collection: &Expr, locals: &Locals) -> Result<Vec<(Value, Value)>, Fail> {
        let value = self.eval(collection, locals)?;
        self.spend(weight(&value), &collection.span)?;
        match &value {
            Value::Tuple(values) | Value::List(values) => Ok(values
                .iter()
                .enumerate()
                .map(|(index, value)| (Value::Number(Number::from(index)), value.clone()))
                .collect()),
            Value::Set(values) => Ok(values.iter().map(|v| (v.clone(), v.clone())).collect()),
            Value::Object(entries) | Value::Map(entries) => Ok(entries
                .iter()
                .map(|(name, value)| (Value::string(name), value.clone()))
                .collect()),
            other => Err(fail(
                "a loop needs a list, set, map, tuple or object",
                collection.span.clone(),
                format!("this is {}", a(other)),
            )),
        }
    }

    fn for_expr(&self, all: &For, locals: &Locals) -> Result<Value, Fail> {
        let mut tuple = Vec::new();
        let mut object: BTreeMap<String, Value> = BTreeMap::new();
        for (key, value) in self.iterate(&all.collection, locals)? {
            let inner = loop_names(locals, all.key_name.as_deref(), &all.value_name, key, value);
            if let Some(condition) = &all.condition
                && !self.condition(condition, &inner)?
            {
                continue;
            }
            let Some(key) = &all.key else {
                tuple.push(self.eval(&all.value, &inner)?);
                continue;
            };
            let name = self.key(key, &inner)?;
            let value = self.eval(&all.value, &inner)?;
            match object.get_mut(&name) {
                Some(Value::Tuple(group)) if all.group => group.push(value),
                Some(_) => {
                    return Err(fail(
                        format!("two items of the loop have the key `{name}`"),
                        key.span.clone(),
                        "",
                    )
                    .hint("`...` after the value puts the values of one key into a tuple"));
                }
                None if all.group => drop(object.insert(name, Value::Tuple(vec![value]))),
                None => drop(object.insert(name, value)),
            }
        }
        Ok(match all.key {
            Some(_) => Value::Object(object),
            None => Value::Tuple(tuple),
        })
    }

    fn traversal(&self, from: &Expr, steps: &[Step], locals: &Locals) -> Result<Value, Fail> {
        if let Kind::Variable(kind) = &from.kind
            && locals.get(kind).is_none()
            && self.definitions.is_block_kind(kind)
        {
            let Some(Step::Attribute(name)) = steps.first() else {
                let message = format!("a {kind} is referred to as `{kind}.NAME`");
                return Err(fail(message, from.span.clone(), ""));
            };
            let attribute = match steps.get(1) {
                Some(Step::Attribute(word)) => Some(word),
                _ => None,
            };
            let span = &attribute.unwrap_or(name).span;
            let value = self.definitions.block(kind, name, attribute)?;
            let taken = if attribute.is_some() { 2 } else { 1 };
            return self.steps(value, &steps[taken..], locals, span);
        }
        let value = self.eval(from, locals)?;
        self.steps(value, steps, locals, &from.span)
    }

    fn steps(
        &self,
        mut value: Value,
        steps: &[Step],
        locals: &Locals,
        from: &Span,
    ) -> Result<Value, Fail> {
        for (at, step) in steps.iter().enumerate() {
            let end = match step {
                Step::Attribute(word) => {
                    value = attribute(&value, &word.text, &word.span)?;
                    continue;
                }
                Step::Index(index) => {
                    let key = self.eval(index, locals)?;
                    value = element(&value, &key, &index.span)?;
                    continue;
                }
                Step::AttributeSplat => steps[at + 1..]
                    .iter()
                    .position(|step| !matches!(step, Step::Attribute(_)))
                    .map_or(steps.len(), |more| at + 1 + more),
                Step::FullSplat => steps.len(),
            };
            let items = match &value {
                Value::Null => Vec::new(),
                Value::Tuple(values) | Value::List(values) | Value::Set(values) => values.clone(),
                single => vec![single.clone()],
            };
            let items = items
                .into_iter()
                .map(|item| {
                    self.spend(1, from)?;
                    self.steps(item, &steps[at + 1..end], locals, from)
                })
                .collect::<Result<_, _>>()?;
            return self.steps(Value::Tuple(items), &steps[end..], locals, from);
        }
        Ok(value)
    }

    fn call(&self, call: &Call, locals: &Locals, span: &Span) -> Result<Value, Fail> {
        match call.name.text.as_str() {
            "try" => return self.call_try(call, locals, span),
            "can" => {
                let [argument] = &call.arguments[..] else {
                    return Err(fail("`can` takes one argument", span.clone(), ""));
                };
                return Ok(Value::Bool(self.eval(argument, locals).is_ok()));
            }
            "convert" => return self.call_convert(call, locals, span),
            _ => {}
        }
        let mut arguments = self.eval_all(&call.arguments, locals)?;
        if call.expand {
            let last = arguments.pop().unwrap_or(Value::Null);
            let Some(items) = last.elements() else {
                let at = call.arguments.last().map_or(span, |last| &last.span);
                let label = format!("this is {}", a(&last));
                return Err(fail("`...` needs a list or tuple", at.clone(), label));
            };
            arguments.extend(items.iter().cloned());
        }
        if let Some(result) = self.definitions.call(&call.name.text, &arguments, span) {
            return result;
        }
        let Some(function) = functions::find(&call.name.text) else {
            return Err(unknown_function(
                &call.name.text,
                &call.name.span,
                self.definitions,
            ));
        };
        let work: u64 = arguments.iter().map(weight).sum();
        self.spend(work, span)?;
        functions::check(function, &arguments)
            .and_then(|()| (function.run)(self.definitions.world(), &arguments))
            .map_err(|why| {
                let at = why.argument.and_then(|n| call.arguments.get(n));
                let at = at.map_or(span, |argument| &argument.span);
                let message = format!("`{}`: {}", function.name, why.message);
                fail(message, at.clone(), "").hint(format!("it is `{}`", function.usage))
            })
    }

    /// The first argument that has a value. What is not defined has none.
    fn call_try(&self, call: &Call, locals: &Locals, span: &Span) -> Result<Value, Fail> {
        let mut last = None;
        for argument in &call.arguments {
            match self.eval(argument, locals) {
                Ok(value) => return Ok(value),
                Err(why) => last = Some(why),
            }
        }
        Err(match last {
            Some(why) => fail("`try`: no argument has a value", span.clone(), "")
                .hint(format!("the last one: {}", why.message())),
            None => fail("`try` takes one argument or more", span.clone(), ""),
        })
    }

    fn call_convert(&self, call: &Call, locals: &Locals, span: &Span) -> Result<Value, Fail> {
        let [value, ty] = &call.arguments[..] else {
            let message = "`convert` takes a value and a type";
            return Err(fail(message, span.clone(), ""));
        };
        let ty = type_of_expr(ty)?;
        let value = self.eval(value, locals)?;
        convert(&value, &ty).map_err(|why| fail(format!("`convert`: {why}"), span.clone(), ""))
    }
}

pub(crate) fn unknown_function(name: &str, span: &Span, definitions: &dyn Definitions) -> Fail {
    if let Some(why) = functions::refused(name) {
        return fail(
            format!("the function `{name}` is not supported"),
            span.clone(),
            why,
        )
        .hint("docs/bake.md has the functions that are");
    }
    let own = definitions.function_names();
    let built_in: Vec<&str> = functions::names().collect();
    let known = built_in
        .iter()
        .copied()
        .chain(own.iter().map(String::as_str));
    let nearest = rbuild_llb::suggest::nearest_name(name, known);
    let failure = fail(
        format!("there is no function `{name}`"),
        span.clone(),
        nearest.map_or_else(String::new, |name| format!("did you mean `{name}`?")),
    );
    failure.hint(format!("the functions are: {}", built_in.join(", ")))
}

fn loop_names<'l>(
    outer: &'l Locals<'l>,
    key_name: Option<&str>,
    value_name: &str,
    key: Value,
    value: Value,
) -> Locals<'l> {
    let mut names = BTreeMap::new();
    if let Some(key_name) = key_name {
        names.insert(key_name.to_owned(), key);
    }
    names.insert(value_name.to_owned(), value);
    Locals {
        names,
        outer: Some(outer),
    }
}

fn arithmetic(operator: Binary, left: Number, right: Number) -> Option<Value> {
    let number = match operator {
        Binary::Add => left.add(right),
        Binary::Subtract => left.sub(right),
        Binary::Multiply => left.mul(right),
        Binary::Divide => left.div(right),
        Binary::Modulo => left.rem(right),
        Binary::Less => return Some(Value::Bool(left < right)),
        Binary::LessOrEqual => return Some(Value::Bool(left <= right)),
        Binary::Greater => return Some(Value::Bool(left > right)),
        Binary::GreaterOrEqual => return Some(Value::Bool(left >= right)),
        Binary::Equal | Binary::NotEqual | Binary::And | Binary::Or => None,
    };
    number.map(Value::Number)
}

fn attribute(value: &Value, name: &str, span: &Span) -> Result<Value, Fail> {
    let Some(entries) = value.entries() else {
        let message = format!("only objects and maps have attributes such as `{name}`");
        return Err(fail(message, span.clone(), format!("this is {}", a(value))));
    };
    entries.get(name).cloned().ok_or_else(|| {
        let known: Vec<_> = entries.keys().map(String::as_str).collect();
        let failure = fail(
            format!("there is no attribute `{name}`"),
            span.clone(),
            rbuild_llb::suggest::nearest_name(name, known.iter().copied())
                .map_or_else(String::new, |name| format!("did you mean `{name}`?")),
        );
        match known.is_empty() {
            true => failure,
            false => failure.hint(format!("there are: {}", known.join(", "))),
        }
    })
}

/// `value[key]`
pub(crate) fn element(value: &Value, key: &Value, span: &Span) -> Result<Value, Fail> {
    if value.entries().is_some()
        && let Some(name) = key.to_text()
    {
        return attribute(value, &name, span);
    }
    let (Value::Tuple(values) | Value::List(values)) = value else {
        let message = "only lists, tuples, maps and objects have elements";
        return Err(fail(message, span.clone(), format!("this is {}", a(value))));
    };
    let index = match convert(key, &Type::Number) {
        Ok(Value::Number(number)) => number.to_i64().and_then(|n| usize::try_from(n).ok()),
        _ => None,
    };
    index.and_then(|n| values.get(n)).cloned().ok_or_else(|| {
        let has = format!("there are {} elements, counted from 0", values.len());
        fail("there is no such element", span.clone(), has)
    })
}

/// How much work it is to make or copy the value.
pub(crate) fn weight(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
        Value::String(text) => 1 + text.len() as u64 / 64,
        Value::Tuple(values) | Value::List(values) | Value::Set(values) => {
            1 + values.iter().map(weight).sum::<u64>()
        }
        Value::Object(entries) | Value::Map(entries) => {
            1 + entries.values().map(weight).sum::<u64>()
        }
    }
}

/// `a list of string`, `an object`: what a value is, in a message.
pub(crate) fn a(value: &Value) -> String {
    let ty = match value {
        Value::Null => return "null".to_owned(),
        other => other.type_of().to_string(),
    };
    let article = if ty.starts_with(['o', 'a']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {ty}")
}
