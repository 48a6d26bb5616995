//! `--format` of lists and of `inspect`: the part of Go's text/template that people use with docker, over JSON.
//!
//! ```text
//! {{.Id}}  {{.Config.Cmd}}  {{.}}      a field, printed as Go prints it: lists as [a b], maps as map[k:v]
//! {{json .Config}}                     as JSON
//! {{index .Config.Labels "a.b"}}       an entry of a map, or of a list by its number
//! {{join .Config.Env ", "}}  {{len .RepoTags}}  {{println .}}
//! {{range .Config.Env}}…{{end}}        its body for each entry, which is `.` there
//! ```
//!
//! `\n` and `\t` outside of braces are what they look like; a dash inside braces, `{{-` and `-}}`, takes white space away.

use serde_json::Value;

/// What there is, for messages.
const SUPPORTED: &str = "`{{.Field.Field}}`, `{{json .}}`, `{{index . \"key\"}}`, `{{join . \",\"}}`, `{{len .}}`, \
     `{{println .}}` and `{{range .}}…{{end}}` are";

/// Ranges that may stand in one another.
const MAX_DEPTH: usize = 100;

/// A template that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Print(Call),
    Range(Operand, Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq)]
enum Call {
    Plain(Operand),
    Json(Operand),
    Println(Operand),
    Len(Operand),
    Join(Operand, String),
    Index(Operand, Vec<Key>),
}

/// `.A.B`; nothing is `.` itself. The text is for messages.
#[derive(Debug, Clone, PartialEq)]
struct Operand(Vec<String>);

#[derive(Debug, Clone, PartialEq)]
enum Key {
    Name(String),
    Number(usize),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Field(Operand),
    Word(String),
    Text(String),
    Number(usize),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// In words, if it is malformed or has what is not supported.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text;
        let pieces = body(&mut rest, 0)?;
        Ok(Self(pieces))
    }

    /// Fills it in.
    ///
    /// # Errors
    /// In words, if there is no such field.
    pub(crate) fn render(&self, value: &Value) -> Result<String, String> {
        let mut out = String::new();
        render(&self.0, value, &mut out)?;
        Ok(out)
    }

    /// The paths that are printed and nothing else, for the heads of tables.
    pub(crate) fn heads(&self) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Print(Call::Plain(operand) | Call::Json(operand)) => {
                    out.push_str(&head(operand.0.last().map_or("", String::as_str)));
                }
                Piece::Print(_) | Piece::Range(..) => {}
            }
        }
        out
    }
}

/// `CreatedSince` as docker heads its columns: `CREATED`.
fn head(field: &str) -> String {
    match field {
        "ID" => "IMAGE ID".to_owned(),
        "CreatedSince" => "CREATED".to_owned(),
        "CreatedAt" => "CREATED AT".to_owned(),
        "CreatedBy" => "CREATED BY".to_owned(),
        field => field.to_uppercase(),
    }
}

/// Reads up to the end, or inside of `depth` ranges up to `{{end}}`.
fn body(rest: &mut &str, depth: usize) -> Result<Vec<Piece>, String> {
    if depth > MAX_DEPTH {
        return Err(format!(
            "more than {MAX_DEPTH} `{{{{range …}}}}` stand in one another"
        ));
    }
    let inside = depth > 0;
    let mut pieces = Vec::new();
    let mut trim = false;
    loop {
        let (text, action) = match rest.split_once("{{") {
            None => (*rest, None),
            Some((text, after)) => (text, Some(after)),
        };
        let mut text = text.replace("\\n", "\n").replace("\\t", "\t");
        if trim {
            text = text.trim_start().to_owned();
        }
        let Some(after) = action else {
            *rest = "";
            if inside {
                return Err("a `{{range …}}` has no `{{end}}`".to_owned());
            }
            pieces.push(Piece::Text(text));
            return Ok(pieces);
        };
        let (inner, after) = until_close(after)?;
        *rest = after;
        let inner = match inner.strip_prefix("- ") {
            Some(inner) => {
                text.truncate(text.trim_end().len());
                inner
            }
            None => inner,
        };
        let (inner, trims) = match inner.strip_suffix(" -") {
            Some(inner) => (inner, true),
            None => (inner, false),
        };
        trim = trims;
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        let tokens = tokens(inner)?;
        match tokens.as_slice() {
            [Token::Word(end)] if end == "end" => {
                if inside {
                    return Ok(pieces);
                }
                return Err("an `{{end}}` has no `{{range …}}`".to_owned());
            }
            [Token::Word(range), Token::Field(operand)] if range == "range" => {
                pieces.push(Piece::Range(operand.clone(), body(rest, depth + 1)?));
            }
            tokens => pieces.push(Piece::Print(call(inner, tokens)?)),
        }
    }
}

/// What stands before `}}`, which may itself stand in a string, and what follows it.
fn until_close(text: &str) -> Result<(&str, &str), String> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted && text[at..].starts_with("}}") => {
                return Ok((&text[..at], &text[at + 2..]));
            }
            _ => {}
        }
    }
    Err("a `{{` has no `}}`".to_owned())
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let token;
        if rest.starts_with('"') {
            let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
            let string = strings.next().and_then(Result::ok);
            let string = string.ok_or_else(|| format!("`{rest}` begins with no string"))?;
            let end = strings.byte_offset();
            token = Token::Text(string);
            rest = &rest[end..];
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let word = &rest[..end];
            rest = &rest[end..];
            token = match word.strip_prefix('.') {
                Some("") => Token::Field(Operand(Vec::new())),
                Some(path) => {
                    let names: Vec<String> = path.split('.').map(str::to_owned).collect();
                    let is_name = |name: &String| {
                        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_')
                    };
                    if !names.iter().all(is_name) {
                        return Err(format!(
                            "`{word}` is no field: other keys are had with `index`"
                        ));
                    }
                    Token::Field(Operand(names))
                }
                None => match word.parse() {
                    Ok(number) => Token::Number(number),
                    Err(_) => Token::Word(word.to_owned()),
                },
            };
        }
        tokens.push(token);
        rest = rest.trim_start();
    }
    Ok(tokens)
}

fn call(text: &str, tokens: &[Token]) -> Result<Call, String> {
    let unsupported = || format!("`{{{{{text}}}}}` is not supported: {SUPPORTED}");
    let (name, rest) = match tokens {
        [Token::Field(operand)] => return Ok(Call::Plain(operand.clone())),
        [Token::Word(name), Token::Field(operand), rest @ ..] => {
            ((name.as_str(), operand.clone()), rest)
        }
        _ => return Err(unsupported()),
    };
    Ok(match (name, rest) {
        (("json", operand), []) => Call::Json(operand),
        (("println", operand), []) => Call::Println(operand),
        (("len", operand), []) => Call::Len(operand),
        (("join", operand), [Token::Text(separator)]) => Call::Join(operand, separator.clone()),
        (("index", operand), keys) if !keys.is_empty() => {
            let keys = keys.iter().map(|key| match key {
                Token::Text(name) => Ok(Key::Name(name.clone())),
                Token::Number(number) => Ok(Key::Number(*number)),
                Token::Field(_) | Token::Word(_) => Err(unsupported()),
            });
            Call::Index(operand, keys.collect::<Result<_, _>>()?)
        }
        _ => return Err(unsupported()),
    })
}

fn render(pieces: &[Piece], value: &Value, out: &mut String) -> Result<(), String> {
    for piece in pieces {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Print(call) => out.push_str(&call.render(value)?),
            Piece::Range(operand, body) => match operand.of(value)? {
                Value::Array(list) => {
                    list.iter().try_for_each(|entry| render(body, entry, out))?;
                }
                Value::Object(map) => {
                    map.values()
                        .try_for_each(|entry| render(body, entry, out))?;
                }
                Value::Null => {}
                _ => return Err(format!("`{operand}` is neither a list nor a map")),
            },
        }
    }
    Ok(())
}

impl Call {
    fn render(&self, value: &Value) -> Result<String, String> {
        Ok(match self {
            Self::Plain(operand) => plain(operand.of(value)?),
            Self::Json(operand) => operand.of(value)?.to_string(),
            Self::Println(operand) => plain(operand.of(value)?) + "\n",
            Self::Len(operand) => match operand.of(value)? {
                Value::Array(list) => list.len().to_string(),
                Value::Object(map) => map.len().to_string(),
                Value::String(text) => text.len().to_string(),
                _ => return Err(format!("`{operand}` has no length")),
            },
            Self::Join(operand, separator) => match operand.of(value)? {
                Value::Array(list) => {
                    let list: Vec<String> = list.iter().map(plain).collect();
                    list.join(separator)
                }
                _ => return Err(format!("`{operand}` is not a list")),
            },
            Self::Index(operand, keys) => {
                let mut found = operand.of(value)?;
                for key in keys {
                    found = match (key, found) {
                        // As in Go, what a map has not is empty.
                        (Key::Name(name), Value::Object(map)) => match map.get(name) {
                            Some(found) => found,
                            None => return Ok(String::new()),
                        },
                        (Key::Number(number), Value::Array(list)) => {
                            list.get(*number).ok_or_else(|| {
                                format!("`{operand}` has {} entries, and none {number}", list.len())
                            })?
                        }
                        (Key::Name(_), _) => return Err(format!("`{operand}` is not a map")),
                        (Key::Number(_), _) => return Err(format!("`{operand}` is not a list")),
                    };
                }
                plain(found)
            }
        })
    }
}

impl Operand {
    fn of<'v>(&self, value: &'v Value) -> Result<&'v Value, String> {
        let mut found = value;
        for (at, name) in self.0.iter().enumerate() {
            let Value::Object(map) = found else {
                let before = Self(self.0[..at].to_vec());
                return Err(format!("`{before}` has no fields"));
            };
            found = map.get(name).ok_or_else(|| {
                let there: Vec<String> = map.keys().map(|key| format!("`.{key}`")).collect();
                let before = Self(self.0[..at].to_vec());
                format!(
                    "`{before}` has no field `{name}`: there are {}",
                    there.join(", ")
                )
            })?;
        }
        Ok(found)
    }
}

impl std::fmt::Display for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, ".{}", self.0.join("."))
    }
}

/// A value as Go's `%v` prints it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Array(list) => {
            let list: Vec<String> = list.iter().map(plain).collect();
            format!("[{}]", list.join(" "))
        }
        Value::Object(map) => {
            let map = map.iter();
            let map: Vec<String> = map
                .map(|(key, value)| format!("{key}:{}", plain(value)))
                .collect();
            format!("map[{}]", map.join(" "))
        }
        value => value.to_string(),
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use serde_json::json;

    fn done(template: &str) -> Result<String, String> {
        let value = json!({
            "Id": "sha256:ab",
            "Size": 7,
            "RepoTags": ["a:1", "b:2"],
            "Config": {
                "Cmd": ["/bin/sh", "-c", "x y"],
                "Env": [],
                "Labels": {"a.b": "}}", "c": "d"},
                "Healthcheck": null,
            },
        });
        Template::parse(template)?.render(&value)
    }

    /// Expectations are what Go's text/template prints; tests/images has podman print some of them.
    #[test]
    fn what_people_write() {
        for (template, want) in [
            ("", ""),
            ("{{.Id}}", "sha256:ab"),
            ("{{ .Id }}\\t{{.Size}}\\n", "sha256:ab\t7\n"),
            ("{{.Config.Cmd}}", "[/bin/sh -c x y]"),
            ("{{.Config.Env}}", "[]"),
            ("{{.Config.Labels}}", "map[a.b:}} c:d]"),
            ("{{json .Config.Cmd}}", r#"["/bin/sh","-c","x y"]"#),
            ("{{json .Config.Healthcheck}}", "null"),
            ("{{index .RepoTags 1}}", "b:2"),
            ("{{index .Config.Labels \"a.b\"}}!", "}}!"),
            ("{{index .Config.Labels \"no\"}}", ""),
            ("{{index .Config \"Cmd\" 0}}", "/bin/sh"),
            ("{{join .RepoTags \" }} \"}}", "a:1 }} b:2"),
            ("{{len .RepoTags}}", "2"),
            ("{{range .RepoTags}}<{{.}}>{{end}}", "<a:1><b:2>"),
            ("{{range .RepoTags}}{{println .}}{{end}}", "a:1\nb:2\n"),
            ("{{range .Config.Env}}x{{end}}.", "."),
            ("a  {{- .Size -}}  b", "a7b"),
        ] {
            assert_eq!(done(template).as_deref(), Ok(want), "{template}");
        }
    }

    #[test]
    fn what_is_not_there_or_not_supported_is_named() {
        for (template, want) in [
            (
                "{{.Nothing}}",
                "`.` has no field `Nothing`: there are `.Config`, `.Id`",
            ),
            ("{{.Config.X}}", "`.Config` has no field `X`"),
            ("{{.Id.X}}", "`.Id` has no fields"),
            ("{{.Id", "a `{{` has no `}}`"),
            ("{{range .RepoTags}}", "a `{{range …}}` has no `{{end}}`"),
            ("{{end}}", "an `{{end}}` has no"),
            (
                "{{if .Id}}x{{end}}",
                "`{{if .Id}}` is not supported: `{{.Field.Field}}`",
            ),
            ("{{.Id | upper}}", "`{{.Id | upper}}` is not supported"),
            ("{{}}", "`{{}}` is not supported"),
            ("{{.Config.Labels.a-b}}", "other keys are had with `index`"),
            (
                "{{index .RepoTags 2}}",
                "`.RepoTags` has 2 entries, and none 2",
            ),
            ("{{index .RepoTags \"a\"}}", "`.RepoTags` is not a map"),
            ("{{join .Id \",\"}}", "`.Id` is not a list"),
            ("{{index .Config \"a}}", "a `{{` has no `}}`"),
        ] {
            let error = done(template).unwrap_err();
            assert!(error.contains(want), "{template}: {error}");
        }
    }

    #[test]
    fn ranges_stand_in_one_another_up_to_a_limit() {
        let nested = |depth| "{{range .Config.Env}}".repeat(depth) + &"{{end}}".repeat(depth);
        assert_eq!(done(&nested(100)).as_deref(), Ok(""));
        for depth in [101, 100_000] {
            assert_eq!(
                done(&nested(depth)).unwrap_err(),
                "more than 100 `{{range …}}` stand in one another"
            );
        }
    }

    #[test]
    fn any_text_is_read_or_refused() {
        let parts = [
            "{{", "}}", ".A", "range", "end", "\"", "\\", " ", "-", "json", "0", "ü",
        ];
        let mut seed: u32 = 1;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..8 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push_str(parts[(seed >> 16) as usize % parts.len()]);
            }
            if let Ok(template) = Template::parse(&text) {
                drop(template.render(&json!({"A": [1]})));
            }
        }
    }

    #[test]
    fn columns_have_heads() {
        let heads = |text| Template::parse(text).map(|template| template.heads());
        assert_eq!(
            heads("{{.Repository}}\\t{{.ID}}\\t{{.CreatedSince}}").as_deref(),
            Ok("REPOSITORY\tIMAGE ID\tCREATED")
        );
    }
}
