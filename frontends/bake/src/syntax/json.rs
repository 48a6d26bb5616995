//! HCL's JSON form (hashicorp/hcl, json/spec.md): properties are attributes or blocks, strings are templates.
//!
//! The reader is our own since `serde_json` has no places, keeps one of two equal names, and this is all of JSON.

use std::sync::Arc;

use rbuild_llb::SourceFile;
use rbuild_llb::Span;

use super::Attribute;
use super::Block;
use super::Body;
use super::Expr;
use super::Kind;
use super::Part;
use super::Word;
use super::hcl;
use crate::Fail;
use crate::fail;
use crate::number::Number;

/// Values may lie this deep in one another.
const MAX_DEPTH: usize = 64;

/// The blocks that may stand in a body: their kind, whether they have a label, and the blocks in them.
struct Schema(&'static [(&'static str, bool, Schema)]);

const NONE: Schema = Schema(&[]);
const FILE: Schema = Schema(&[
    ("target", true, NONE),
    ("group", true, NONE),
    ("function", true, NONE),
    ("variable", true, Schema(&[("validation", false, NONE)])),
]);

/// Reads a whole file.
pub(crate) fn parse(file: &Arc<SourceFile>) -> Result<Body, Fail> {
    let mut reader = Reader {
        file,
        at: if file.text.starts_with('\u{feff}') {
            3
        } else {
            0
        },
        depth: 0,
    };
    let root = reader.value()?;
    reader.blank();
    if reader.at < file.text.len() {
        return Err(reader.error("something follows the value that the file is", ""));
    }
    let mut body = Body {
        attributes: Vec::new(),
        blocks: Vec::new(),
    };
    add_properties(root, &FILE, &mut body)?;
    Ok(body)
}

struct Node {
    kind: NodeKind,
    span: Span,
}

enum NodeKind {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Node>),
    Object(Vec<(Word, Node)>),
}

fn add_properties(node: Node, schema: &Schema, body: &mut Body) -> Result<(), Fail> {
    let NodeKind::Object(properties) = node.kind else {
        return Err(fail("an object is required here", node.span, ""));
    };
    for (name, value) in properties {
        let known = schema.0.iter().find(|(kind, ..)| *kind == name.text);
        match known {
            Some((_, labelled, inner)) => add_blocks(&name, *labelled, value, inner, body)?,
            // Properties of this name are comments.
            None if name.text == "//" => {}
            None => body.attributes.push(Attribute {
                value: expr(value)?,
                name,
            }),
        }
    }
    Ok(())
}

/// Each property of `node` is a label, with the body of one block or of several below it.
fn add_blocks(
    kind: &Word,
    labelled: bool,
    node: Node,
    schema: &Schema,
    body: &mut Body,
) -> Result<(), Fail> {
    if !labelled {
        return add_bodies(kind, &[], node, schema, body);
    }
    match node.kind {
        NodeKind::Array(items) => {
            for item in items {
                add_blocks(kind, labelled, item, schema, body)?;
            }
            Ok(())
        }
        NodeKind::Object(properties) => {
            for (label, value) in properties {
                add_bodies(kind, &[label], value, schema, body)?;
            }
            Ok(())
        }
        NodeKind::Null => Ok(()),
        _ => {
            let kind = &kind.text;
            let message = format!("`{kind}` is an object, each property the name of a {kind}");
            Err(fail(message, node.span, ""))
        }
    }
}

fn add_bodies(
    kind: &Word,
    labels: &[Word],
    node: Node,
    schema: &Schema,
    body: &mut Body,
) -> Result<(), Fail> {
    match node.kind {
        NodeKind::Array(items) => {
            for item in items {
                add_bodies(kind, labels, item, schema, body)?;
            }
        }
        NodeKind::Null => {}
        _ => {
            let mut inner = Body {
                attributes: Vec::new(),
                blocks: Vec::new(),
            };
            add_properties(node, schema, &mut inner)?;
            body.blocks.push(Block {
                kind: kind.clone(),
                labels: labels.to_vec(),
                body: inner,
            });
        }
    }
    Ok(())
}

fn expr(node: Node) -> Result<Expr, Fail> {
    let kind = match node.kind {
        NodeKind::Null => Kind::Null,
        NodeKind::Bool(value) => Kind::Bool(value),
        NodeKind::Number(number) => Kind::Number(number),
        NodeKind::String(text) => Kind::Template(template(&text, &node.span)?),
        NodeKind::Array(items) => {
            Kind::Tuple(items.into_iter().map(expr).collect::<Result<_, _>>()?)
        }
        NodeKind::Object(properties) => {
            let mut entries = Vec::new();
            for (name, value) in properties {
                let key = Expr {
                    kind: Kind::Template(template(&name.text, &name.span)?),
                    span: name.span,
                };
                entries.push((key, expr(value)?));
            }
            Kind::Object(entries)
        }
    };
    Ok(Expr {
        kind,
        span: node.span,
    })
}

fn template(text: &str, span: &Span) -> Result<Vec<Part>, Fail> {
    if text.contains("${") || text.contains("%{") {
        return hcl::parse_template(text, span);
    }
    Ok(vec![Part::Literal(text.to_owned())])
}

struct Reader<'r> {
    file: &'r Arc<SourceFile>,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.file.text[self.at..]
    }

    fn blank(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    fn error(&self, what: &str, label: &str) -> Fail {
        let width = self.rest().chars().next().map_or(0, char::len_utf8);
        fail(
            format!("not valid JSON: {what}"),
            Span::new(self.file, self.at..self.at + width),
            label,
        )
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    fn value(&mut self) -> Result<Node, Fail> {
        self.blank();
        let start = self.at;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("values lie too deep in one another", ""));
        }
        let kind = match self.rest().chars().next() {
            Some('{') => self.object()?,
            Some('[') => self.array()?,
            Some('"') => NodeKind::String(self.string()?),
            Some('-' | '0'..='9') => self.number()?,
            _ if self.take("null") => NodeKind::Null,
            _ if self.take("true") => NodeKind::Bool(true),
            _ if self.take("false") => NodeKind::Bool(false),
            None => return Err(self.error("the file ends where a value is required", "")),
            Some(_) => return Err(self.error("a value is required here", "")),
        };
        self.depth -= 1;
        Ok(Node {
            kind,
            span: Span::new(self.file, start..self.at),
        })
    }

    fn object(&mut self) -> Result<NodeKind, Fail> {
        self.take("{");
        let mut properties = Vec::new();
        self.blank();
        if self.take("}") {
            return Ok(NodeKind::Object(properties));
        }
        loop {
            self.blank();
            let start = self.at;
            if !self.rest().starts_with('"') {
                return Err(self.error(
                    "the name of a property is required here",
                    "in double quotes",
                ));
            }
            let name = Word {
                text: self.string()?,
                span: Span::new(self.file, start..self.at),
            };
            self.blank();
            if !self.take(":") {
                return Err(self.error("a `:` is required after the name of a property", ""));
            }
            properties.push((name, self.value()?));
            self.blank();
            if self.take("}") {
                return Ok(NodeKind::Object(properties));
            }
            if !self.take(",") {
                return Err(self.error("a `,` or `}` is required here", ""));
            }
        }
    }

    fn array(&mut self) -> Result<NodeKind, Fail> {
        self.take("[");
        let mut items = Vec::new();
        self.blank();
        if self.take("]") {
            return Ok(NodeKind::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.blank();
            if self.take("]") {
                return Ok(NodeKind::Array(items));
            }
            if !self.take(",") {
                return Err(self.error("a `,` or `]` is required here", ""));
            }
        }
    }

    /// A string is cut out by its quotes and read by `serde_json`, which knows the escapes.
    fn string(&mut self) -> Result<String, Fail> {
        let start = self.at;
        let mut escaped = false;
        let end = self.rest().char_indices().skip(1).find_map(|(at, c)| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes.then_some(at + 1)
        });
        let Some(end) = end else {
            return Err(self.error("the string has no end", ""));
        };
        self.at += end;
        let text = &self.file.text[start..self.at];
        serde_json::from_str(text).map_err(|_| {
            let span = Span::new(self.file, start..self.at);
            let message =
                "not valid JSON: the string has an escape or a control character that is none";
            fail(message, span, "")
        })
    }

    fn number(&mut self) -> Result<NodeKind, Fail> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E'))
            .unwrap_or(rest.len());
        let text = &rest[..end];
        let valid = serde_json::from_str::<serde_json::Number>(text).is_ok();
        match Number::parse(text).filter(|_| valid) {
            Some(number) => {
                self.at += end;
                Ok(NodeKind::Number(number))
            }
            None => Err(self.error("this is no number, or it is too large", "")),
        }
    }
}
