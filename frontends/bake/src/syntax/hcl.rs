//! HCL's own syntax, read by the `hcl-edit` crate. This is the only file that knows it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use hcl_edit::Span as _;
use hcl_edit::expr as given;
use hcl_edit::expr::Expression;
use hcl_edit::expr::ObjectKey;
use hcl_edit::expr::TraversalOperator;
use hcl_edit::parser;
use hcl_edit::structure;
use hcl_edit::template;
use hcl_edit::template::Element;
use hcl_edit::visit::Visit;
use rbuild_llb::SourceFile;
use rbuild_llb::Span;

use super::Attribute;
use super::Binary;
use super::Block;
use super::Body;
use super::Call;
use super::Expr;
use super::For;
use super::Kind;
use super::Part;
use super::Step;
use super::Unary;
use super::Word;
use crate::Fail;
use crate::fail;
use crate::number::Number;

/// Reads a whole file.
pub(crate) fn parse(file: &Arc<SourceFile>) -> Result<Body, Fail> {
    let text = file.text.strip_prefix('\u{feff}').unwrap_or(&file.text);
    let mut reader = Reader {
        file,
        base: file.text.len() - text.len(),
        fixed: None,
        indented: Indented::default(),
    };
    let body = parser::parse_body(text).map_err(|error| reader.syntax_error(&error))?;
    reader.indented.text = text;
    reader.indented.visit_body(&body);
    if reader.indented.starts.is_empty() {
        return reader.body(&body);
    }
    let mut bytes = text.as_bytes().to_vec();
    for start in &reader.indented.starts {
        bytes[*start..*start + 3].copy_from_slice(b" <<");
    }
    let plain = String::from_utf8(bytes).expect("one ASCII character took the place of another");
    let body = parser::parse_body(&plain).map_err(|error| reader.syntax_error(&error))?;
    reader.body(&body)
}

/// Where heredocs start that are to lose the indent that all their lines have.
///
/// The library takes it away while it parses, but by other rules than HCL has for lines that start with a template. So these
/// heredocs are found, the file is read once more with each `<<-` written as ` <<`, and the indent is taken away here.
#[derive(Default)]
struct Indented<'i> {
    text: &'i str,
    starts: BTreeSet<usize>,
}

impl Visit for Indented<'_> {
    fn visit_expr(&mut self, expr: &Expression) {
        if let (Expression::HeredocTemplate(_), Some(span)) = (expr, expr.span())
            && self
                .text
                .get(span.start..)
                .is_some_and(|rest| rest.starts_with("<<-"))
        {
            self.starts.insert(span.start);
        }
        hcl_edit::visit::visit_expr(self, expr);
    }
}

/// Reads the template that a string of a JSON file is. Its escapes have been undone, so all places are that of the string.
pub(crate) fn parse_template(text: &str, span: &Span) -> Result<Vec<Part>, Fail> {
    let reader = Reader {
        file: &span.file,
        base: 0,
        fixed: Some(span),
        indented: Indented::default(),
    };
    match parser::parse_template(text) {
        Ok(template) => reader.template(template.iter(), Form::Bare),
        Err(error) => Err(reader.syntax_error(&error)),
    }
}

/// Reads an expression that stands in a string of a JSON file.
pub(crate) fn parse_expression(text: &str, span: &Span) -> Result<Expr, Fail> {
    let reader = Reader {
        file: &span.file,
        base: 0,
        fixed: Some(span),
        indented: Indented::default(),
    };
    match parser::parse_expr(text) {
        Ok(expr) => reader.expr(&expr),
        Err(error) => Err(reader.syntax_error(&error)),
    }
}

/// Where a template stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Heredoc,
    Quoted,
    /// Between directives in a quoted string, where the library leaves escapes as they are.
    InsideQuoted,
    Bare,
}

impl Form {
    fn inside(self) -> Self {
        match self {
            Self::Quoted => Self::InsideQuoted,
            form => form,
        }
    }
}

/// Carries out the escapes of a quoted string.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some(digits @ ('u' | 'U')) => {
                let width = if digits == 'u' { 4 } else { 8 };
                let code: String = chars.by_ref().take(width).collect();
                let code = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                out.push(code.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

struct Reader<'r> {
    file: &'r Arc<SourceFile>,
    /// What to add to the library's offsets.
    base: usize,
    /// The place of everything, where offsets say nothing.
    fixed: Option<&'r Span>,
    indented: Indented<'r>,
}

impl Reader<'_> {
    fn span(&self, range: Option<Range<usize>>) -> Span {
        match (self.fixed, range) {
            (Some(span), _) => span.clone(),
            (None, Some(range)) => {
                Span::new(self.file, range.start + self.base..range.end + self.base)
            }
            (None, None) => Span::new(self.file, 0..0),
        }
    }

    fn syntax_error(&self, error: &parser::Error) -> Fail {
        let at = error.location().offset();
        let rest = self.file.text.get(at + self.base..).unwrap_or_default();
        let width = rest.chars().next().map_or(0, char::len_utf8);
        let (what, expected) = match error.message().split_once("; ") {
            Some((what, expected)) => (what, expected),
            None => (error.message(), ""),
        };
        let what = if what.is_empty() {
            "invalid syntax"
        } else {
            what
        };
        let form = if self.fixed.is_some() {
            "template"
        } else {
            "HCL"
        };
        fail(
            format!("not valid {form}: {what}"),
            self.span(Some(at..at + width)),
            expected,
        )
    }

    fn body(&self, body: &structure::Body) -> Result<Body, Fail> {
        let mut attributes = Vec::new();
        let mut blocks = Vec::new();
        for item in body.iter() {
            match item {
                structure::Structure::Attribute(attribute) => attributes.push(Attribute {
                    name: self.word(attribute.key.as_str(), attribute.key.span()),
                    value: self.expr(&attribute.value)?,
                }),
                structure::Structure::Block(block) => blocks.push(Block {
                    kind: self.word(block.ident.as_str(), block.ident.span()),
                    labels: block
                        .labels
                        .iter()
                        .map(|label| self.word(label.as_str(), label.span()))
                        .collect(),
                    body: self.body(&block.body)?,
                }),
            }
        }
        Ok(Body { attributes, blocks })
    }

    fn word(&self, text: &str, range: Option<Range<usize>>) -> Word {
        Word {
            text: text.to_owned(),
            span: self.span(range),
        }
    }

    fn expr(&self, expr: &Expression) -> Result<Expr, Fail> {
        let span = self.span(expr.span());
        let kind = match expr {
            Expression::Null(_) => Kind::Null,
            Expression::Bool(value) => Kind::Bool(**value),
            Expression::Number(number) => self.number(number, &span)?,
            Expression::String(text) => literal(text.as_str()),
            Expression::Array(items) => Kind::Tuple(self.exprs(items.iter())?),
            Expression::Object(object) => self.object(object)?,
            Expression::StringTemplate(text) => {
                Kind::Template(self.template(text.iter(), Form::Quoted)?)
            }
            Expression::HeredocTemplate(text) => {
                // The library looks for the end only after the first line.
                let mut lines = span.text().lines().skip(1);
                if lines
                    .next()
                    .is_some_and(|first| first.trim() == text.delimiter.as_str())
                {
                    let message = "a heredoc without lines is not supported";
                    return Err(fail(message, span, "").hint("write `\"\"` for an empty string"));
                }
                let mut parts = self.template(text.template.iter(), Form::Heredoc)?;
                // The place begins one further on where `<<-` was written as ` <<`.
                let start = expr.span().map_or(0, |span| span.start);
                if start > 0 && self.indented.starts.contains(&(start - 1)) {
                    dedent(&mut parts);
                }
                Kind::Template(parts)
            }
            Expression::Parenthesis(inner) => return self.expr(inner.inner()),
            Expression::Variable(name) => Kind::Variable(name.as_str().to_owned()),
            Expression::Conditional(all) => Kind::Conditional(Box::new([
                self.expr(&all.cond_expr)?,
                self.expr(&all.true_expr)?,
                self.expr(&all.false_expr)?,
            ])),
            Expression::FuncCall(call) => self.call(call)?,
            Expression::Traversal(traversal) => Kind::Traversal(
                Box::new(self.expr(&traversal.expr)?),
                traversal
                    .operators
                    .iter()
                    .map(|step| self.step(step))
                    .collect::<Result<_, _>>()?,
            ),
            Expression::UnaryOp(all) => Kind::Unary(
                match *all.operator {
                    given::UnaryOperator::Neg => Unary::Negate,
                    given::UnaryOperator::Not => Unary::Not,
                },
                Box::new(self.expr(&all.expr)?),
            ),
            Expression::BinaryOp(all) => Kind::Binary(
                binary(*all.operator),
                Box::new([self.expr(&all.lhs_expr)?, self.expr(&all.rhs_expr)?]),
            ),
            Expression::ForExpr(all) => Kind::For(Box::new(self.for_expr(all)?)),
        };
        Ok(Expr { kind, span })
    }

    fn exprs<'e>(&self, exprs: impl Iterator<Item = &'e Expression>) -> Result<Vec<Expr>, Fail> {
        exprs.map(|expr| self.expr(expr)).collect()
    }

    /// The library's numbers are floats, which round; the text does not.
    fn number(
        &self,
        number: &hcl_edit::Formatted<hcl_edit::Number>,
        span: &Span,
    ) -> Result<Kind, Fail> {
        let text = match self.fixed {
            None => span.text().trim().to_owned(),
            Some(_) => number.value().to_string(),
        };
        Number::parse(&text)
            .map(Kind::Number)
            .ok_or_else(|| fail("the number is too large", span.clone(), ""))
    }

    fn object(&self, object: &given::Object) -> Result<Kind, Fail> {
        let mut entries = Vec::new();
        for (key, value) in object.iter() {
            let key = match key {
                ObjectKey::Ident(name) => Expr {
                    kind: literal(name.as_str()),
                    span: self.span(name.span()),
                },
                ObjectKey::Expression(expr) => self.expr(expr)?,
            };
            entries.push((key, self.expr(value.expr())?));
        }
        Ok(Kind::Object(entries))
    }

    fn call(&self, call: &given::FuncCall) -> Result<Kind, Fail> {
        let mut name = String::new();
        for namespace in &call.name.namespace {
            name = name + namespace.as_str() + "::";
        }
        Ok(Kind::Call(Box::new(Call {
            name: self.word(&(name + call.name.name.as_str()), call.name.name.span()),
            arguments: self.exprs(call.args.iter())?,
            expand: call.args.expand_final(),
        })))
    }

    fn step(&self, step: &TraversalOperator) -> Result<Step, Fail> {
        Ok(match step {
            TraversalOperator::AttrSplat(_) => Step::AttributeSplat,
            TraversalOperator::FullSplat(_) => Step::FullSplat,
            TraversalOperator::GetAttr(name) => {
                Step::Attribute(self.word(name.as_str(), name.span()))
            }
            TraversalOperator::Index(index) => Step::Index(self.expr(index)?),
            TraversalOperator::LegacyIndex(index) => Step::Index(Expr {
                kind: Kind::Number(Number::from(i128::from(**index))),
                span: self.span(index.span()),
            }),
        })
    }

    fn for_expr(&self, all: &given::ForExpr) -> Result<For, Fail> {
        Ok(For {
            key_name: all.intro.key_var.as_ref().map(|n| n.as_str().to_owned()),
            value_name: all.intro.value_var.as_str().to_owned(),
            collection: self.expr(&all.intro.collection_expr)?,
            key: all.key_expr.as_ref().map(|e| self.expr(e)).transpose()?,
            value: self.expr(&all.value_expr)?,
            group: all.grouping,
            condition: all.cond.as_ref().map(|c| self.expr(&c.expr)).transpose()?,
        })
    }

    /// The parts of a template, `~` carried out: white space next to it is taken from the literals. In a heredoc each
    /// line is a literal of its own, so `~` reaches no further than to the end of its line.
    fn template<'e>(
        &self,
        elements: impl Iterator<Item = &'e Element>,
        form: Form,
    ) -> Result<Vec<Part>, Fail> {
        let mut parts: Vec<Part> = Vec::new();
        let mut strip_next = false;
        for element in elements {
            let (part, before, after) = match element {
                Element::Literal(text) => {
                    let text = match form {
                        Form::InsideQuoted => unescaped(text.as_str()),
                        _ => text.as_str().to_owned(),
                    };
                    let end = if form == Form::Heredoc {
                        "\n"
                    } else {
                        text.as_str()
                    };
                    for line in text.split_inclusive(end) {
                        let line = if strip_next { line.trim_start() } else { line };
                        parts.push(Part::Literal(line.to_owned()));
                        strip_next = false;
                    }
                    continue;
                }
                Element::Interpolation(inner) => (
                    Part::Interpolation(self.expr(&inner.expr)?),
                    inner.strip.strip_start(),
                    inner.strip.strip_end(),
                ),
                Element::Directive(directive) => self.directive(directive, form.inside())?,
            };
            if before {
                strip_end(&mut parts);
            }
            parts.push(part);
            strip_next = after;
        }
        Ok(parts)
    }

    /// The part, and whether white space before and after it goes.
    fn directive(
        &self,
        directive: &template::Directive,
        form: Form,
    ) -> Result<(Part, bool, bool), Fail> {
        match directive {
            template::Directive::If(all) => {
                let inner = &all.if_expr;
                let last = &all.endif_expr.strip;
                let next = all.else_expr.as_ref().map_or(last, |other| &other.strip);
                let then = self.inner(&inner.template, &inner.strip, next, form)?;
                let otherwise = match &all.else_expr {
                    Some(other) => self.inner(&other.template, &other.strip, last, form)?,
                    None => Vec::new(),
                };
                let part = Part::If {
                    condition: self.expr(&inner.cond_expr)?,
                    then,
                    otherwise,
                };
                Ok((part, inner.strip.strip_start(), last.strip_end()))
            }
            template::Directive::For(all) => {
                let inner = &all.for_expr;
                let last = &all.endfor_expr.strip;
                let part = Part::For {
                    key_name: inner.key_var.as_ref().map(|n| n.as_str().to_owned()),
                    value_name: inner.value_var.as_str().to_owned(),
                    collection: self.expr(&inner.collection_expr)?,
                    body: self.inner(&inner.template, &inner.strip, last, form)?,
                };
                Ok((part, inner.strip.strip_start(), last.strip_end()))
            }
        }
    }

    /// What stands between two directives.
    fn inner(
        &self,
        inner: &template::Template,
        before: &template::Strip,
        after: &template::Strip,
        form: Form,
    ) -> Result<Vec<Part>, Fail> {
        let mut parts = self.template(inner.iter(), form)?;
        if before.strip_end()
            && let Some(Part::Literal(text)) = parts.first_mut()
        {
            *text = text.trim_start().to_owned();
        }
        if after.strip_start() {
            strip_end(&mut parts);
        }
        Ok(parts)
    }
}

/// Takes away the white space that all lines of a heredoc start with. Lines of white space alone do not count.
fn dedent(parts: &mut [Part]) {
    let mut least = usize::MAX;
    each_line_start(parts, &mut true, &mut |start| {
        let width = match start {
            Some(line) if line.trim_start().is_empty() && line.ends_with('\n') => return,
            Some(line) => line.chars().take_while(|c| c.is_whitespace()).count(),
            None => 0,
        };
        least = least.min(width);
    });
    each_line_start(parts, &mut true, &mut |start| match start {
        Some(line) if line.trim_start().is_empty() && line.ends_with('\n') => {}
        Some(line) => *line = line.chars().skip(least).collect(),
        None => {}
    });
}

/// Calls `visit` with the literal that each line starts with, or with none where it starts with a template.
fn each_line_start(
    parts: &mut [Part],
    at_start: &mut bool,
    visit: &mut dyn FnMut(Option<&mut String>),
) {
    for part in parts {
        let starts = std::mem::take(at_start);
        match part {
            Part::Literal(text) => {
                *at_start = text.ends_with('\n');
                if starts {
                    visit(Some(text));
                }
                continue;
            }
            _ if starts => visit(None),
            _ => {}
        }
        let bodies: [&mut [Part]; 2] = match part {
            Part::Literal(_) | Part::Interpolation(_) => continue,
            Part::If {
                then, otherwise, ..
            } => [then, otherwise],
            Part::For { body, .. } => [body, &mut []],
        };
        for body in bodies {
            each_line_start(body, at_start, visit);
            // What closes the body is no literal.
            if std::mem::take(at_start) {
                visit(None);
            }
        }
    }
}

fn strip_end(parts: &mut [Part]) {
    if let Some(Part::Literal(text)) = parts.last_mut() {
        text.truncate(text.trim_end().len());
    }
}

fn literal(text: &str) -> Kind {
    Kind::Template(vec![Part::Literal(text.to_owned())])
}

fn binary(operator: given::BinaryOperator) -> Binary {
    use hcl_edit::expr::BinaryOperator as Given;
    match operator {
        Given::Eq => Binary::Equal,
        Given::NotEq => Binary::NotEqual,
        Given::LessEq => Binary::LessOrEqual,
        Given::GreaterEq => Binary::GreaterOrEqual,
        Given::Less => Binary::Less,
        Given::Greater => Binary::Greater,
        Given::Plus => Binary::Add,
        Given::Minus => Binary::Subtract,
        Given::Mul => Binary::Multiply,
        Given::Div => Binary::Divide,
        Given::Mod => Binary::Modulo,
        Given::And => Binary::And,
        Given::Or => Binary::Or,
    }
}
