//! Arithmetic, comparison and logic.

use super::ANY;
use super::Function;
use super::Result;
use super::boolean;
use super::function;
use super::number;
use super::text;
use super::whole;
use super::wrong;
use crate::number::Number;
use crate::value::Value;

pub(super) const FUNCTIONS: &[Function] = &[
    function("absolute", "absolute(number)", (1, 1), |_, a| {
        Ok(Value::Number(number(a, 0)?.abs()))
    }),
    function("add", "add(a, b)", (2, 2), |_, a| checked(a, Number::add)),
    function("and", "and(a, b)", (2, 2), |_, a| {
        Ok(Value::Bool(boolean(a, 0)? & boolean(a, 1)?))
    }),
    function("ceil", "ceil(number)", (1, 1), |_, a| {
        Ok(Value::Number(number(a, 0)?.ceil()))
    }),
    function("divide", "divide(a, b)", (2, 2), |_, a| {
        checked(a, Number::div)
    }),
    function("equal", "equal(a, b)", (2, 2), |_, a| {
        Ok(Value::Bool(a[0] == a[1]))
    })
    .with_nulls(),
    function("floor", "floor(number)", (1, 1), |_, a| {
        Ok(Value::Number(number(a, 0)?.floor()))
    }),
    function("greaterthan", "greaterthan(a, b)", (2, 2), |_, a| {
        Ok(Value::Bool(number(a, 0)? > number(a, 1)?))
    }),
    function(
        "greaterthanorequalto",
        "greaterthanorequalto(a, b)",
        (2, 2),
        |_, a| Ok(Value::Bool(number(a, 0)? >= number(a, 1)?)),
    ),
    function("int", "int(number)", (1, 1), |_, a| {
        Ok(Value::Number(number(a, 0)?.trunc()))
    }),
    function("lessthan", "lessthan(a, b)", (2, 2), |_, a| {
        Ok(Value::Bool(number(a, 0)? < number(a, 1)?))
    }),
    function(
        "lessthanorequalto",
        "lessthanorequalto(a, b)",
        (2, 2),
        |_, a| Ok(Value::Bool(number(a, 0)? <= number(a, 1)?)),
    ),
    function("log", "log(number, base)", (2, 2), |_, a| {
        float(number(a, 0)?.to_f64().ln() / number(a, 1)?.to_f64().ln())
    }),
    function("max", "max(numbers...)", (1, ANY), |_, a| {
        let numbers = numbers(a)?;
        Ok(numbers.into_iter().max().map_or(Value::Null, Value::Number))
    }),
    function("min", "min(numbers...)", (1, ANY), |_, a| {
        let numbers = numbers(a)?;
        Ok(numbers.into_iter().min().map_or(Value::Null, Value::Number))
    }),
    function("modulo", "modulo(a, b)", (2, 2), |_, a| {
        checked(a, Number::rem)
    }),
    function("multiply", "multiply(a, b)", (2, 2), |_, a| {
        checked(a, Number::mul)
    }),
    function("negate", "negate(number)", (1, 1), |_, a| {
        Ok(Value::Number(number(a, 0)?.neg()))
    }),
    function("not", "not(bool)", (1, 1), |_, a| {
        Ok(Value::Bool(!boolean(a, 0)?))
    }),
    function("notequal", "notequal(a, b)", (2, 2), |_, a| {
        Ok(Value::Bool(a[0] != a[1]))
    })
    .with_nulls(),
    function("or", "or(a, b)", (2, 2), |_, a| {
        Ok(Value::Bool(boolean(a, 0)? | boolean(a, 1)?))
    }),
    function("parseint", "parseint(string, base)", (2, 2), |_, a| {
        parse_int(a)
    }),
    function("pow", "pow(number, power)", (2, 2), |_, a| {
        float(number(a, 0)?.to_f64().powf(number(a, 1)?.to_f64()))
    }),
    function("signum", "signum(number)", (1, 1), |_, a| {
        Ok(Value::Number(Number::from(whole(a, 0)?.signum())))
    }),
    function("subtract", "subtract(a, b)", (2, 2), |_, a| {
        checked(a, Number::sub)
    }),
];

fn numbers(arguments: &[Value]) -> Result<Vec<Number>> {
    (0..arguments.len())
        .map(|at| number(arguments, at))
        .collect()
}

fn checked(arguments: &[Value], run: fn(Number, Number) -> Option<Number>) -> Result<Value> {
    match run(number(arguments, 0)?, number(arguments, 1)?) {
        Some(number) => Ok(Value::Number(number)),
        None if number(arguments, 1)? == Number::ZERO => {
            Err(wrong(1, "a number cannot be divided by zero"))
        }
        None => Err("the result is too large".into()),
    }
}

fn float(value: f64) -> Result<Value> {
    Number::from_f64(value)
        .map(Value::Number)
        .ok_or_else(|| "there is no such number, or it is too large".into())
}

fn parse_int(arguments: &[Value]) -> Result<Value> {
    let text = text(arguments, 0)?;
    let base = whole(arguments, 1)?;
    let base = u32::try_from(base)
        .ok()
        .filter(|base| (2..=36).contains(base));
    let base = base.ok_or_else(|| wrong(1, "the base is a number from 2 to 36"))?;
    i128::from_str_radix(&text, base)
        .map(|value| Value::Number(Number::from(value)))
        .map_err(|_| wrong(0, format!("{text:?} is no whole number of base {base}")))
}
