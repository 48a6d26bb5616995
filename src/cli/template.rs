//! `--format` of lists and of `inspect`: the part of Go's text/template that people use with docker, over JSON.
//!
//! ```text
//! {{.Id}}  {{.Config.Cmd}}  {{.}}      a field, printed as Go prints it: lists as [a b], maps as map[k:v]
//! {{json .Config}}                     as JSON
//! {{index .Config.Labels "a.b"}}       an entry of a map, or of a list by its number
//! {{join .Config.Env ", "}}  {{len .RepoTags}}  {{println .}}  {{lower .Id}}  {{upper .Id}}  {{truncate .Id 12}}
//! {{range .Config.Env}}…{{end}}        its body for each entry, which is `.` there
//! {{if .Config.User}}…{{else}}…{{end}} one or the other; {{else if .Author}} and a `range` with {{else}} as well
//! {{"text"}}  {{7}}                    themselves
//! ```
//!
//! `\n` and `\t` outside of braces are what they look like; a dash inside braces, `{{-` and `-}}`, takes white space away.

use serde_json::Map;
use serde_json::Value;

/// What there is, for messages.
const SUPPORTED: &str = "`{{.Field.Field}}`, `{{json .}}`, `{{index . \"key\"}}`, `{{join . \",\"}}`, `{{len .}}`, \
     `{{println .}}`, `{{lower .}}`, `{{upper .}}`, `{{truncate . 12}}`, `{{\"text\"}}`, `{{range .}}…{{end}}` and \
     `{{if .}}…{{else}}…{{end}}` are";

/// Ranges and conditions that may stand in one another.
const MAX_DEPTH: usize = 100;

/// The fields that are maps in Go: what they have not has no value. Of all others it is known what they have.
const MAPS: [&str; 4] = ["Labels", "Volumes", "ExposedPorts", "Annotations"];

/// A template that was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Print(Call),
    /// The body, and what stands for it if there are no entries.
    Range(Operand, Vec<Piece>, Vec<Piece>),
    /// What is taken if the operand is not empty, and what otherwise.
    If(Operand, Vec<Piece>, Vec<Piece>),
}

/// What a body ends with.
enum Stop {
    Text,
    End,
    Else,
    ElseIf(Operand),
}

#[derive(Debug, Clone, PartialEq)]
enum Call {
    Plain(Operand),
    Json(Operand),
    Println(Operand),
    Len(Operand),
    Lower(Operand),
    Upper(Operand),
    Truncate(Operand, usize),
    Literal(String),
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
        match body(&mut rest, 0)? {
            (pieces, Stop::Text) => Ok(Self(pieces)),
            (_, Stop::End) => Err("an `{{end}}` has no `{{range …}}` or `{{if …}}`".to_owned()),
            (_, Stop::Else | Stop::ElseIf(_)) => {
                Err("an `{{else}}` has no `{{range …}}` or `{{if …}}`".to_owned())
            }
        }
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

    /// What heads the columns of a table: the fields that are printed, ids by `id`.
    pub(crate) fn heads(&self, id: &str) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Print(
                    Call::Plain(operand)
                    | Call::Json(operand)
                    | Call::Lower(operand)
                    | Call::Upper(operand)
                    | Call::Truncate(operand, _),
                ) => out.push_str(&head(operand.0.last().map_or("", String::as_str), id)),
                Piece::Print(_) | Piece::Range(..) | Piece::If(..) => {}
            }
        }
        out
    }
}

/// `CreatedSince` as docker heads its columns: `CREATED`.
fn head(field: &str, id: &str) -> String {
    match field {
        "ID" => id.to_owned(),
        "CreatedSince" => "CREATED".to_owned(),
        "CreatedAt" => "CREATED AT".to_owned(),
        "CreatedBy" => "CREATED BY".to_owned(),
        field => field.to_uppercase(),
    }
}

/// Reads up to what ends a body at this depth.
fn body(rest: &mut &str, depth: usize) -> Result<(Vec<Piece>, Stop), String> {
    if depth > MAX_DEPTH {
        return Err(format!(
            "more than {MAX_DEPTH} `{{{{range …}}}}` and `{{{{if …}}}}` stand in one another"
        ));
    }
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
            pieces.push(Piece::Text(text));
            return Ok((pieces, Stop::Text));
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
            [Token::Word(end)] if end == "end" => return Ok((pieces, Stop::End)),
            [Token::Word(word)] if word == "else" => return Ok((pieces, Stop::Else)),
            [Token::Word(word), Token::Word(and), Token::Field(operand)]
                if word == "else" && and == "if" =>
            {
                return Ok((pieces, Stop::ElseIf(operand.clone())));
            }
            [Token::Word(range), Token::Field(operand)] if range == "range" => {
                let (body, otherwise) = branches(rest, depth, "range")?;
                pieces.push(Piece::Range(operand.clone(), body, otherwise));
            }
            [Token::Word(word), Token::Field(operand)] if word == "if" => {
                let (body, otherwise) = branches(rest, depth, "if")?;
                pieces.push(Piece::If(operand.clone(), body, otherwise));
            }
            tokens => pieces.push(Piece::Print(call(inner, tokens)?)),
        }
    }
}

/// What stands between the opening of a `range` or `if` and its end, before and behind an `else`.
fn branches(rest: &mut &str, depth: usize, word: &str) -> Result<(Vec<Piece>, Vec<Piece>), String> {
    let open = || format!("a `{{{{{word} …}}}}` has no `{{{{end}}}}`");
    let (first, end) = body(rest, depth + 1)?;
    let otherwise = match end {
        Stop::End => Vec::new(),
        Stop::Else => match body(rest, depth + 1)? {
            (otherwise, Stop::End) => otherwise,
            (_, Stop::Text) => return Err(open()),
            (_, Stop::Else | Stop::ElseIf(_)) => {
                return Err("an `{{else}}` follows another".to_owned());
            }
        },
        Stop::ElseIf(_) if word != "if" => {
            return Err(format!("`{{{{{word} …}}}}` has no `{{{{else if …}}}}`"));
        }
        // One `end` closes both.
        Stop::ElseIf(operand) => {
            let (body, otherwise) = branches(rest, depth + 1, word)?;
            vec![Piece::If(operand, body, otherwise)]
        }
        Stop::Text => return Err(open()),
    };
    Ok((first, otherwise))
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
        [Token::Text(text)] => return Ok(Call::Literal(text.clone())),
        [Token::Number(number)] => return Ok(Call::Literal(number.to_string())),
        [Token::Word(name), Token::Field(operand), rest @ ..] => {
            ((name.as_str(), operand.clone()), rest)
        }
        _ => return Err(unsupported()),
    };
    Ok(match (name, rest) {
        (("json", operand), []) => Call::Json(operand),
        (("println", operand), []) => Call::Println(operand),
        (("len", operand), []) => Call::Len(operand),
        (("lower", operand), []) => Call::Lower(operand),
        (("upper", operand), []) => Call::Upper(operand),
        (("truncate", operand), [Token::Number(len)]) => Call::Truncate(operand, *len),
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
            Piece::Range(operand, body, otherwise) => {
                let entries: Vec<&Value> = match operand.of(value)? {
                    Some(Value::Array(list)) => list.iter().collect(),
                    Some(Value::Object(map)) => map.values().collect(),
                    Some(Value::Null) | None => Vec::new(),
                    Some(_) => return Err(format!("`{operand}` is neither a list nor a map")),
                };
                if entries.is_empty() {
                    render(otherwise, value, out)?;
                }
                for entry in entries {
                    render(body, entry, out)?;
                }
            }
            Piece::If(operand, then, otherwise) => {
                let taken = match operand.of(value)?.is_some_and(is_true) {
                    true => then,
                    false => otherwise,
                };
                render(taken, value, out)?;
            }
        }
    }
    Ok(())
}

/// What Go takes for true: what is neither zero nor empty.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

impl Call {
    fn render(&self, value: &Value) -> Result<String, String> {
        let text = |operand: &Operand| match operand.of(value)? {
            Some(Value::String(text)) => Ok(text.clone()),
            _ => Err(format!("`{operand}` is not a text")),
        };
        let printed = |operand: &Operand| {
            let found = operand.of(value)?;
            Ok::<_, String>(found.map_or_else(|| "<no value>".to_owned(), plain))
        };
        Ok(match self {
            Self::Literal(text) => text.clone(),
            Self::Plain(operand) => printed(operand)?,
            Self::Json(operand) => operand.of(value)?.unwrap_or(&Value::Null).to_string(),
            Self::Println(operand) => printed(operand)? + "\n",
            Self::Lower(operand) => text(operand)?.to_lowercase(),
            Self::Upper(operand) => text(operand)?.to_uppercase(),
            Self::Truncate(operand, len) => text(operand)?.chars().take(*len).collect(),
            Self::Len(operand) => match operand.of(value)? {
                Some(Value::Array(list)) => list.len().to_string(),
                Some(Value::Object(map)) => map.len().to_string(),
                Some(Value::String(text)) => text.len().to_string(),
                _ => return Err(format!("`{operand}` has no length")),
            },
            Self::Join(operand, separator) => match operand.of(value)? {
                Some(Value::Array(list)) => {
                    let list: Vec<String> = list.iter().map(plain).collect();
                    list.join(separator)
                }
                _ => return Err(format!("`{operand}` is not a list")),
            },
            Self::Index(operand, keys) => {
                let mut found = operand.of(value)?.unwrap_or(&Value::Null);
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
    /// The value; none if it would be that of an entry that a map has not.
    fn of<'v>(&self, value: &'v Value) -> Result<Option<&'v Value>, String> {
        let mut found = value;
        for (at, name) in self.0.iter().enumerate() {
            let before = || Self(self.0[..at].to_vec());
            let Value::Object(map) = found else {
                return Err(format!("`{}` has no fields", before()));
            };
            let is_map = at > 0 && MAPS.contains(&self.0[at - 1].as_str());
            found = match map.get(name) {
                Some(found) => found,
                None if is_map => return Ok(None),
                None => {
                    let there: Vec<String> = map.keys().map(|key| format!("`.{key}`")).collect();
                    return Err(format!(
                        "`{}` has no field `{name}`: there are {}",
                        before(),
                        there.join(", ")
                    ));
                }
            };
        }
        Ok(Some(found))
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
            // What a map of docker's has without a value, as of ports, is a struct in Go.
            let inner = |value: &Value| match value.as_object().is_some_and(Map::is_empty) {
                true => "{}".to_owned(),
                false => plain(value),
            };
            let map: Vec<String> = map
                .map(|(key, value)| format!("{key}:{}", inner(value)))
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
            ("{{if .RepoTags}}x{{else}}y{{end}}", "x"),
            ("{{if .Config.Env}}x{{else}}y{{end}}.", "y."),
            ("{{if .Config.Env}}x{{end}}.", "."),
            (
                "{{if .Config.Healthcheck}}x{{else if .Size}}y{{else}}z{{end}}.",
                "y.",
            ),
            ("{{range .Config.Env}}x{{else}}none{{end}}", "none"),
            (
                "{{if .Id}}{{range .RepoTags}}{{.}} {{end}}{{end}}",
                "a:1 b:2 ",
            ),
            ("{{\"{{\"}}{{7}}{{\"\\n\"}}", "{{7\n"),
            ("{{.Config.Labels.c}} {{.Config.Labels.no}}", "d <no value>"),
            (
                "{{if .Config.Labels.no}}x{{end}}{{json .Config.Labels.no}}",
                "null",
            ),
            (
                "{{upper .Id}} {{lower .Id}} {{truncate .Id 3}}",
                "SHA256:AB sha256:ab sha",
            ),
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
                "{{with .Id}}x{{end}}",
                "`{{with .Id}}` is not supported: `{{.Field.Field}}`",
            ),
            ("{{if .Id}}", "a `{{if …}}` has no `{{end}}`"),
            ("{{if .Id}}a{{else}}b", "a `{{if …}}` has no `{{end}}`"),
            ("{{else}}", "an `{{else}}` has no"),
            (
                "{{if .Id}}a{{else}}b{{else}}c{{end}}",
                "an `{{else}}` follows another",
            ),
            (
                "{{range .RepoTags}}a{{else if .Id}}b{{end}}",
                "`{{range …}}` has no `{{else if …}}`",
            ),
            ("{{upper .Size}}", "`.Size` is not a text"),
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
                "more than 100 `{{range …}}` and `{{if …}}` stand in one another"
            );
        }
    }

    #[test]
    fn any_text_is_read_or_refused() {
        let parts = [
            "{{", "}}", ".A", "range", "end", "\"", "\\", " ", "-", "json", "0", "ü", "if", "else",
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
        let heads = |text| Template::parse(text).map(|template| template.heads("IMAGE ID"));
        assert_eq!(
            heads("{{.Repository}}\\t{{.ID}}\\t{{.CreatedSince}}").as_deref(),
            Ok("REPOSITORY\tIMAGE ID\tCREATED")
        );
        assert_eq!(
            heads("{{upper .Tag}}\\t{{truncate .ID 4}}").as_deref(),
            Ok("TAG\tIMAGE ID")
        );
    }
}
