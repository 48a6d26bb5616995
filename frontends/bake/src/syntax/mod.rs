//! The syntax tree of a bake file, the same for HCL and for HCL's JSON form.
//!
//! What the HCL library gives is turned into this tree in `hcl.rs`, and is seen nowhere else; `json.rs` makes the same of
//! JSON, in which strings are templates.

pub(crate) mod hcl;
pub(crate) mod json;

use rbuild_llb::Span;

use crate::Fail;
use crate::number::Number;

/// What stands between the braces of a block, or in a whole file.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) blocks: Vec<Block>,
}

impl Body {
    pub(crate) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|a| a.name.text == name)
    }
}

/// A piece of text and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) span: Span,
}

/// `name = value`
#[derive(Debug, Clone)]
pub(crate) struct Attribute {
    pub(crate) name: Word,
    pub(crate) value: Expr,
}

/// `kind "label" { … }`
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) kind: Word,
    pub(crate) labels: Vec<Word>,
    pub(crate) body: Body,
}

impl Block {
    /// The one label that blocks of a bake file have.
    pub(crate) fn label(&self) -> Result<&Word, Fail> {
        match &self.labels[..] {
            [label] => Ok(label),
            labels => {
                let kind = &self.kind.text;
                let span = labels.get(1).unwrap_or(&self.kind).span.clone();
                let message = format!("a `{kind}` block has one label, its name");
                Err(crate::fail(
                    message,
                    span,
                    format!("this has {}", labels.len()),
                ))
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    /// Of one part: its value as it is, if it is an interpolation. Of several: a string.
    Template(Vec<Part>),
    Tuple(Vec<Expr>),
    Object(Vec<(Expr, Expr)>),
    Variable(String),
    /// Steps from a value; `target.app.args.x` has three.
    Traversal(Box<Expr>, Vec<Step>),
    Call(Box<Call>),
    Conditional(Box<[Expr; 3]>),
    Unary(Unary, Box<Expr>),
    Binary(Binary, Box<[Expr; 2]>),
    For(Box<For>),
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// `.name`
    Attribute(Word),
    /// `[index]`, `.0`
    Index(Expr),
    /// `.*`: the steps behind it, up to the next index, are taken from each element.
    AttributeSplat,
    /// `[*]`: all steps behind it are taken from each element.
    FullSplat,
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: Word,
    pub(crate) arguments: Vec<Expr>,
    /// `…` after the last argument: its elements are the arguments.
    pub(crate) expand: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unary {
    Negate,
    Not,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binary {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    And,
    Or,
}

/// `[for key, value in collection : result if condition]`, or with `{}` and `key => result`.
#[derive(Debug, Clone)]
pub(crate) struct For {
    pub(crate) key_name: Option<String>,
    pub(crate) value_name: String,
    pub(crate) collection: Expr,
    /// What the keys of the object are, if one is made.
    pub(crate) key: Option<Expr>,
    pub(crate) value: Expr,
    /// `…`: values of the same key are put in a tuple.
    pub(crate) group: bool,
    pub(crate) condition: Option<Expr>,
}

/// A part of a template.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Literal(String),
    Interpolation(Expr),
    /// `%{ if condition }then%{ else }otherwise%{ endif }`
    If {
        condition: Expr,
        then: Vec<Part>,
        otherwise: Vec<Part>,
    },
    /// `%{ for key, value in collection }body%{ endfor }`
    For {
        key_name: Option<String>,
        value_name: String,
        collection: Expr,
        body: Vec<Part>,
    },
}

impl Expr {
    /// The name, if the expression is nothing but one: `x`, or in JSON `"x"`.
    pub(crate) fn keyword(&self) -> Option<&str> {
        match &self.kind {
            Kind::Variable(name) => Some(name),
            Kind::Template(parts) => match &parts[..] {
                [Part::Literal(text)] if is_identifier(text) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    /// Calls `visit` with this expression and all within it that have no loop variables of their own; expressions in
    /// loops are visited with the names that the loops define.
    pub(crate) fn walk<'e>(
        &'e self,
        local: &mut Vec<&'e str>,
        visit: &mut dyn FnMut(&'e Expr, &[&'e str]),
    ) {
        visit(self, local);
        match &self.kind {
            Kind::Null | Kind::Bool(_) | Kind::Number(_) | Kind::Variable(_) => {}
            Kind::Template(parts) => walk_parts(parts, local, visit),
            Kind::Tuple(items) => items.iter().for_each(|item| item.walk(local, visit)),
            Kind::Object(entries) => {
                for (key, value) in entries {
                    key.walk(local, visit);
                    value.walk(local, visit);
                }
            }
            Kind::Traversal(from, steps) => {
                from.walk(local, visit);
                for step in steps {
                    if let Step::Index(index) = step {
                        index.walk(local, visit);
                    }
                }
            }
            Kind::Call(call) => call.arguments.iter().for_each(|a| a.walk(local, visit)),
            Kind::Conditional(parts) => parts.iter().for_each(|part| part.walk(local, visit)),
            Kind::Unary(_, operand) => operand.walk(local, visit),
            Kind::Binary(_, operands) => operands.iter().for_each(|o| o.walk(local, visit)),
            Kind::For(all) => {
                all.collection.walk(local, visit);
                let outside = local.len();
                local.extend(all.key_name.as_deref());
                local.push(&all.value_name);
                let parts = [all.key.as_ref(), Some(&all.value), all.condition.as_ref()];
                for part in parts.into_iter().flatten() {
                    part.walk(local, visit);
                }
                local.truncate(outside);
            }
        }
    }
}

fn walk_parts<'e>(
    parts: &'e [Part],
    local: &mut Vec<&'e str>,
    visit: &mut dyn FnMut(&'e Expr, &[&'e str]),
) {
    for part in parts {
        match part {
            Part::Literal(_) => {}
            Part::Interpolation(expr) => expr.walk(local, visit),
            Part::If {
                condition,
                then,
                otherwise,
            } => {
                condition.walk(local, visit);
                walk_parts(then, local, visit);
                walk_parts(otherwise, local, visit);
            }
            Part::For {
                key_name,
                value_name,
                collection,
                body,
            } => {
                collection.walk(local, visit);
                let outside = local.len();
                local.extend(key_name.as_deref());
                local.push(value_name);
                walk_parts(body, local, visit);
                local.truncate(outside);
            }
        }
    }
}

/// Whether HCL takes the text for a name.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}
