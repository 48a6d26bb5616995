//! Instructions as a Dockerfile has them.

use crate::ast::CommandLine;
use crate::ast::Kind;
use crate::ast::Mount;
use crate::ast::Pair;
use crate::ast::Run;
use crate::ast::Transfer;
use crate::ast::Word;
use crate::parse::format_duration;

/// The logical line of an instruction, without the texts of its here-documents.
pub(super) fn line(kind: &Kind) -> String {
    let keyword = kind.keyword();
    match kind {
        Kind::Add(add) => transfer(keyword, add),
        Kind::Copy(copy) => transfer(keyword, copy),
        Kind::Arg(args) => {
            let args = args.iter().map(|arg| match &arg.default {
                Some(default) => format!("{}={}", arg.name.text, default.text),
                None => arg.name.text.clone(),
            });
            words(keyword, args)
        }
        Kind::Cmd(line) | Kind::Entrypoint(line) => [keyword, " ", &command(line)].concat(),
        Kind::Env(list) => words(keyword, list.iter().map(pair)),
        Kind::Label(list) => words(keyword, list.iter().map(pair)),
        Kind::Expose(list) => words(keyword, texts(list)),
        Kind::Healthcheck(check) => {
            let mut parts = Vec::new();
            for (name, value) in [
                ("interval", check.interval),
                ("timeout", check.timeout),
                ("start-period", check.start_period),
                ("start-interval", check.start_interval),
            ] {
                if value != 0 {
                    parts.push(format!("--{name}={}", format_duration(value)));
                }
            }
            if check.retries != 0 {
                parts.push(format!("--retries={}", check.retries));
            }
            parts.push(match check.test.as_slice() {
                [none] if none == "NONE" => "NONE".to_owned(),
                [shell, line] if shell == "CMD-SHELL" => format!("CMD {line}"),
                [_, args @ ..] => format!("CMD {}", json(args)),
                [] => String::new(),
            });
            words(keyword, parts)
        }
        Kind::Onbuild(trigger) => [keyword, " ", trigger].concat(),
        Kind::Run(run) => {
            let mut parts: Vec<String> = run.mounts.iter().map(mount).collect();
            for (flag, word) in [("network", &run.network), ("security", &run.security)] {
                if let Some(word) = word {
                    parts.push(format!("--{flag}={}", word.text));
                }
            }
            parts.push(command(&run.command));
            words(keyword, parts)
        }
        Kind::Shell(shell) => [keyword, " ", &json(shell)].concat(),
        Kind::Volume(list) => words(keyword, texts(list)),
        Kind::Maintainer(word)
        | Kind::StopSignal(word)
        | Kind::User(word)
        | Kind::Workdir(word) => [keyword, " ", &word.text].concat(),
    }
}

/// The here-documents of an instruction, each with the line that ends it.
pub(super) fn documents(kind: &Kind) -> String {
    let list = match kind {
        Kind::Add(transfer) | Kind::Copy(transfer) => &transfer.documents,
        Kind::Run(Run { heredocs, .. }) => heredocs,
        _ => return String::new(),
    };
    let texts = list.iter().map(|document| {
        let end = if document.content.ends_with('\n') || document.content.is_empty() {
            ""
        } else {
            "\n"
        };
        format!("{}{end}{}\n", document.content, document.name)
    });
    texts.collect()
}

fn words(keyword: &str, words: impl IntoIterator<Item = String>) -> String {
    let mut line = keyword.to_owned();
    for word in words {
        line.extend([" ", &word]);
    }
    line
}

fn texts(list: &[Word]) -> impl Iterator<Item = String> {
    list.iter().map(|word| word.text.clone())
}

fn pair(pair: &Pair) -> String {
    format!("{}={}", pair.key.text, pair.value.text)
}

pub(super) fn command(line: &CommandLine) -> String {
    match line {
        CommandLine::Exec(args) => json(args),
        CommandLine::Shell(line) => line.clone(),
    }
}

fn json<T: AsRef<str>>(args: &[T]) -> String {
    let args: Vec<String> = args
        .iter()
        .map(|arg| serde_json::Value::from(arg.as_ref()).to_string())
        .collect();
    format!("[{}]", args.join(", "))
}

fn mount(mount: &Mount) -> String {
    let fields = mount.fields.iter().map(|field| match &field.value {
        Some(value) if value.contains([',', '"']) => {
            format!("\"{}={}\"", field.key, value.replace('"', "\"\""))
        }
        Some(value) => format!("{}={value}", field.key),
        None => field.key.to_string(),
    });
    format!("--mount={}", fields.collect::<Vec<_>>().join(","))
}

fn transfer(keyword: &str, transfer: &Transfer) -> String {
    let mut line = String::with_capacity(80);
    line.push_str(keyword);
    for (flag, word) in [
        (" --from=", &transfer.from),
        (" --chown=", &transfer.chown),
        (" --chmod=", &transfer.chmod),
        (" --checksum=", &transfer.checksum),
    ] {
        if let Some(word) = word {
            line.extend([flag, &word.text]);
        }
    }
    for (flag, set) in [(" --link", transfer.link), (" --parents", transfer.parents)] {
        if set {
            line.push_str(flag);
        }
    }
    for (flag, set) in [
        (" --keep-git-dir=", transfer.keep_git_dir),
        (" --unpack=", transfer.unpack),
    ] {
        if let Some(set) = set {
            line.extend([flag, if set { "true" } else { "false" }]);
        }
    }
    for word in &transfer.exclude {
        line.extend([" --exclude=", &word.text]);
    }
    let paths = || transfer.paths.iter().chain([&transfer.dest]);
    // A word with blanks can only be told apart in JSON form, which knows no quotes.
    let blank = paths()
        .map(|path| &path.text)
        .any(|path| path.starts_with('\'') && path.contains(char::is_whitespace));
    if blank && transfer.documents.is_empty() {
        let paths: Vec<&str> = paths().map(|path| path.text.as_str()).collect();
        line.extend([" ", &json(&paths)]);
        return line;
    }
    for path in &transfer.paths {
        line.extend([" ", &path.text]);
    }
    for document in &transfer.documents {
        match document.expand {
            true => line.extend([" <<", &document.name]),
            false => line.extend([" <<\"", &document.name, "\""]),
        }
    }
    line.extend([" ", &transfer.dest.text]);
    line
}
