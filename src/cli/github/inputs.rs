//! What a workflow says `with:` the action, as arguments of `rbuild build`.
//!
//! Names, values and the ways lists are written are those of docker/build-push-action, so that a workflow that changes to
//! rbuild keeps its inputs. Nothing here is judged: the command line that comes out is read as any other.

use super::Runner;
use crate::cli::env::Env;
use crate::cli::values;

/// The inputs, by what is to be made of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Inputs {
    /// Arguments after `rbuild build`: `--flag=value`, and the context last.
    pub(super) arguments: Vec<String>,
    /// Variables that the arguments name: values of secrets, which are written into no file.
    pub(super) variables: Vec<(String, String)>,
    /// What must not be shown.
    pub(super) masked: Vec<String>,
    /// What is to be told of inputs that make no difference.
    pub(super) remarks: Vec<String>,
    /// Headers that git sends, by the beginning of the URLs it sends them to.
    pub(super) headers: Vec<(String, String)>,
}

/// How the values of a list are written.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Commas part values, as line ends do.
    commas: bool,
    /// Double quotes hold values together, and are taken away.
    quotes: bool,
    /// Space around a value is none of it.
    trim: bool,
}

const WORDS: Shape = Shape {
    commas: true,
    quotes: true,
    trim: true,
};
const LINES: Shape = Shape {
    commas: false,
    ..WORDS
};
/// Values with quotes of their own.
const RAW_LINES: Shape = Shape {
    quotes: false,
    ..LINES
};
const SECRETS: Shape = Shape {
    trim: false,
    ..LINES
};

/// Inputs that are lists, and become a flag for each value.
const LISTS: [(&str, &str, Shape); 14] = [
    ("add-hosts", "add-host", WORDS),
    ("allow", "allow", WORDS),
    ("annotations", "annotation", LINES),
    ("attests", "attest", LINES),
    ("build-args", "build-arg", LINES),
    ("build-contexts", "build-context", LINES),
    ("cache-from", "cache-from", LINES),
    ("cache-to", "cache-to", LINES),
    ("labels", "label", LINES),
    ("no-cache-filters", "no-cache-filter", WORDS),
    ("outputs", "output", RAW_LINES),
    ("ssh", "ssh", WORDS),
    ("tags", "tag", WORDS),
    ("ulimit", "ulimit", LINES),
];

/// Inputs that become a flag with the same value.
const VALUES: [(&str, &str); 8] = [
    ("call", "call"),
    ("cgroup-parent", "cgroup-parent"),
    ("file", "file"),
    ("network", "network"),
    ("provenance", "provenance"),
    ("sbom", "sbom"),
    ("shm-size", "shm-size"),
    ("target", "target"),
];

const SWITCHES: [&str; 4] = ["load", "no-cache", "pull", "push"];

/// What stands for the context of the event in `context` and `build-contexts`.
const DEFAULT_CONTEXT: &str = "defaultContext";

/// The secret that is a token for git.
const GIT_TOKEN: &str = "GIT_AUTH_TOKEN";

impl Inputs {
    /// Reads them from `INPUT_*`, as runners hand them to an action. Everything that is wrong is told at once.
    pub(super) fn read(env: &Env, runner: &Runner) -> Result<Self, Vec<String>> {
        let mut inputs = Self::default();
        let mut wrong = Vec::new();
        let context = with_context(&text(env, "context"), runner);
        let context = match context.is_empty() {
            false => context,
            true => runner.default_context(),
        };
        inputs.builder(&text(env, "builder"));
        for (input, flag, shape) in LISTS {
            for value in listed(env, input, shape, &mut wrong) {
                match input {
                    "build-contexts" => inputs.flag(flag, &with_context(&value, runner)),
                    _ => inputs.flag(flag, &value),
                }
            }
        }
        inputs.cache(env);
        let platforms = listed(env, "platforms", WORDS, &mut wrong);
        if !platforms.is_empty() {
            inputs.flag("platform", &platforms.join(","));
        }
        for (input, flag) in VALUES {
            let value = text(env, input);
            if !value.is_empty() {
                inputs.flag(flag, &value);
            }
        }
        for input in SWITCHES {
            match switch(&text(env, input)) {
                Some(true) => inputs.arguments.push(format!("--{input}")),
                Some(false) => {}
                None => wrong.push(format!(
                    "the input `{input}` is `{}`: wanted `true` or `false`",
                    text(env, input)
                )),
            }
        }
        inputs.keep_loaded();
        inputs.secrets(env, &context, runner, &mut wrong);
        if context.is_empty() {
            let why = "GITHUB_REPOSITORY and GITHUB_SHA do not say which";
            wrong.push(format!(
                "the input `context` is empty, so the event's commit is the context, but {why}"
            ));
        }
        inputs.arguments.push("--".to_owned());
        inputs.arguments.push(context);
        match wrong.is_empty() {
            true => Ok(inputs),
            false => Err(wrong),
        }
    }

    fn flag(&mut self, flag: &str, value: &str) {
        self.arguments.push(format!("--{flag}={value}"));
    }

    /// What is loaded under a name is kept in the store as well: a later step's `docker-image://` is looked for there.
    fn keep_loaded(&mut self) {
        let given = |flag: &str| {
            let mut arguments = self.arguments.iter();
            arguments.any(|argument| argument.split('=').next() == Some(flag))
        };
        if given("--load") && given("--tag") && !given("--output") && !given("--push") {
            self.flag("output", "type=image");
        }
    }

    /// Where no cache is named, and the job has one, it is that of the service.
    fn cache(&mut self, env: &Env) {
        let named = ["cache-from", "cache-to"].map(|input| text(env, input));
        let service = ["ACTIONS_RESULTS_URL", "ACTIONS_RUNTIME_TOKEN"];
        let has = service.iter().all(|name| env.text(name).is_some());
        // A builder elsewhere has no job.
        let here = !text(env, "builder").contains("://");
        if here && has && named.iter().all(String::is_empty) {
            self.flag("cache-from", "type=gha");
            self.flag("cache-to", "type=gha,mode=max");
        }
    }

    /// An address goes on. A name is that of a builder that docker/setup-buildx-action made, and rbuild needs none.
    fn builder(&mut self, builder: &str) {
        match builder {
            "" => {}
            address if address.contains("://") => {
                self.flag("builder", address);
            }
            name => self.remarks.push(format!(
                "the input `builder` names `{name}`, a builder of buildx; rbuild needs none and builds on this machine"
            )),
        }
    }

    /// `secrets` are values, `secret-envs` variables, `secret-files` files. What has no key or no value is told and left
    /// out: a secret that a fork's pull request does not get is empty.
    fn secrets(&mut self, env: &Env, context: &str, runner: &Runner, wrong: &mut Vec<String>) {
        let mut authorised = false;
        for text in listed(env, "secrets", SECRETS, wrong) {
            let Some((id, value)) = self.secret("secrets", &text) else {
                continue;
            };
            if let Some(host) = id.strip_prefix(GIT_TOKEN) {
                authorised |= self.authorise(host, value, context, runner);
            }
            let variable = format!("RBUILD_ACTION_SECRET_{}", self.variables.len());
            self.arguments.push(secret_flag(id, "env", &variable));
            self.masked.push(value.to_owned());
            self.variables.push((variable, value.to_owned()));
        }
        for text in listed(env, "secret-envs", WORDS, wrong) {
            let Some((id, variable)) = self.secret("secret-envs", &text) else {
                continue;
            };
            match env.get(variable) {
                Some(_) => self.arguments.push(secret_flag(id, "env", variable)),
                None => self.remarks.push(format!(
                    "the input `secret-envs` gives `{id}` the value of `{variable}`, a variable that is not set"
                )),
            }
        }
        for text in listed(env, "secret-files", LINES, wrong) {
            if let Some((id, file)) = self.secret("secret-files", &text) {
                self.arguments.push(secret_flag(id, "src", file));
            }
        }
        let token = self::text(env, "github-token");
        if !token.is_empty() && !authorised {
            let server = runner.server.clone();
            self.header(&server, &token);
        }
    }

    fn secret<'a>(&mut self, input: &str, text: &'a str) -> Option<(&'a str, &'a str)> {
        match text.split_once('=') {
            Some((id, value)) if !id.is_empty() && !value.is_empty() => Some((id, value)),
            // What stands after a key may be a secret, and what has none may be the rest of one.
            Some((id, _)) if !id.is_empty() => {
                self.remarks.push(format!(
                    "the input `{input}` has no value for `{id}`, which is left out"
                ));
                None
            }
            _ => {
                self.remarks.push(format!(
                    "the input `{input}` has a line without a key, which is left out; \
                     a value of several lines is put in double quotes with its key: \"KEY=…\""
                ));
                None
            }
        }
    }

    /// `GIT_AUTH_TOKEN` is for the server of the context, `GIT_AUTH_TOKEN.host` for that host. Whether that is the server
    /// which the workflow's own token would be for.
    fn authorise(&mut self, host: &str, token: &str, context: &str, runner: &Runner) -> bool {
        let place = match host.strip_prefix('.') {
            Some(host) => format!("https://{host}"),
            None if host.is_empty() => {
                server_of(context).unwrap_or_else(|| runner.server.as_str().into())
            }
            None => return false,
        };
        let own = same_host(&place, &runner.server);
        let place = match own {
            true => runner.server.clone(),
            false => place,
        };
        self.header(&place, token);
        own
    }

    fn header(&mut self, place: &str, token: &str) {
        use base64::Engine as _;
        let basic =
            base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{token}"));
        self.masked.push(basic.clone());
        self.headers
            .push((place.to_owned(), format!("Authorization: Basic {basic}")));
    }
}

/// The scheme and host of a URL that is fetched by HTTP.
fn server_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    let host = host.rsplit('@').next()?;
    matches!(scheme, "http" | "https").then(|| format!("{scheme}://{host}"))
}

fn same_host(a: &str, b: &str) -> bool {
    let host = |url: &str| {
        url.split_once("://")
            .map(|(_, host)| host.trim_end_matches('/').to_owned())
    };
    host(a) == host(b)
}

/// `--secret=id=ID,env=NAME` with the quotes that commas and quotes take.
fn secret_flag(id: &str, key: &str, value: &str) -> String {
    let field = |text: String| match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    };
    let (id, source) = (field(format!("id={id}")), field(format!("{key}={value}")));
    format!("--secret={id},{source}")
}

/// An input as actions/toolkit reads it: without space around it.
fn text(env: &Env, name: &str) -> String {
    untrimmed(env, name).trim().to_owned()
}

fn untrimmed(env: &Env, name: &str) -> String {
    let name = format!("INPUT_{}", name.to_uppercase());
    env.text(&name).unwrap_or_default()
}

/// The words of YAML 1.2's core schema, which runners take; an input that is missing is false.
fn switch(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// `{{defaultContext}}:subdir`, with space or without in the braces.
fn with_context(text: &str, runner: &Runner) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, inner)) = rest.split_once("{{") {
        let name = inner.split_once("}}");
        let Some((_, after)) = name.filter(|(name, _)| name.trim() == DEFAULT_CONTEXT) else {
            break;
        };
        filled += before;
        filled += &runner.default_context();
        rest = after;
    }
    filled + rest
}

/// The values of a list input.
fn listed(env: &Env, input: &str, shape: Shape, wrong: &mut Vec<String>) -> Vec<String> {
    let given = match shape.trim {
        true => text(env, input),
        false => untrimmed(env, input),
    };
    list(&given, shape).unwrap_or_else(|why| {
        wrong.push(format!("the input `{input}` cannot be read: {why}"));
        Vec::new()
    })
}

/// Values by lines, and by commas where the input has it so. As csv-parse takes it with `relax_quotes`: a double quote that
/// begins a field holds it together up to the next one that a comma, a line end or nothing follows; others are text.
fn list(text: &str, shape: Shape) -> Result<Vec<String>, String> {
    let mut values = Vec::new();
    for record in records(text, shape.quotes)? {
        match (shape.commas, record.as_slice()) {
            (false, fields) => values.push(fields.join(",")),
            // Commas that quotes held together part a lone field all the same.
            (true, [one]) => values.extend(one.split(',').map(str::to_owned)),
            (true, _) => values.extend(record),
        }
    }
    values.retain(|value| !value.is_empty());
    if shape.trim {
        for value in &mut values {
            *value = value.trim().to_owned();
        }
    }
    Ok(values)
}

fn records(text: &str, quotes: bool) -> Result<Vec<Vec<String>>, String> {
    let mut records = Vec::new();
    let mut fields = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (field, after) = match rest.strip_prefix('"').filter(|_| quotes) {
            Some(inner) => quoted(inner)?,
            None => plain(rest, String::new()),
        };
        fields.push(field);
        rest = match after.strip_prefix(',') {
            // A comma at the very end has an empty field behind it.
            Some("") => {
                fields.push(String::new());
                ""
            }
            Some(more) => more,
            None => {
                let after = after.strip_prefix('\r').unwrap_or(after);
                let record = std::mem::take(&mut fields);
                if record != [""] {
                    records.push(record);
                }
                after.strip_prefix('\n').unwrap_or(after)
            }
        };
    }
    if !fields.is_empty() {
        records.push(fields);
    }
    Ok(records)
}

/// A field up to the next comma or line end, with what is known of it already.
fn plain(text: &str, mut field: String) -> (String, &str) {
    let end = text.find([',', '\n', '\r']).unwrap_or(text.len());
    field += &text[..end];
    (field, &text[end..])
}

/// A field whose opening quote has been read.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest
            .find('"')
            .ok_or("a value that begins with a double quote does not end with one")?;
        field += &rest[..end];
        rest = &rest[end + 1..];
        if let Some(more) = rest.strip_prefix('"') {
            field.push('"');
            rest = more;
        } else if rest.is_empty() || rest.starts_with([',', '\n', '\r']) {
            return Ok((field, rest));
        } else {
            // It held nothing together.
            return Ok(plain(rest, format!("\"{field}\"")));
        }
    }
}

/// Whether an input that is a switch of the environment is not `false`.
pub(super) fn is_on(env: &Env, name: &str) -> bool {
    env.text(name)
        .is_none_or(|value| values::boolean(&value) != Ok(false))
}

#[cfg(test)]
mod t {
    use super::*;
    use serde_json::Value;

    /// `testdata/ci/record.js` says how they were recorded.
    #[test]
    fn lists_are_read_as_build_push_action_reads_them() {
        let rows = include_str!("../../../testdata/ci/lists.json");
        let rows: Vec<Value> = serde_json::from_str(rows).unwrap();
        assert!(rows.len() > 20);
        for row in rows {
            let flag = |name: &str| row[name].as_bool().unwrap();
            let shape = Shape {
                commas: flag("commas"),
                quotes: flag("quotes"),
                trim: flag("trim"),
            };
            let got = list(row["input"].as_str().unwrap(), shape);
            match row["list"].as_array() {
                Some(want) => {
                    let want: Vec<&str> = want.iter().map(|v| v.as_str().unwrap()).collect();
                    assert_eq!(got.unwrap(), want, "{row}");
                }
                None => assert!(got.is_err(), "{row}: {got:?}"),
            }
        }
    }

    fn runner() -> Runner {
        Runner {
            server: "https://git.example".to_owned(),
            repository: "me/app".to_owned(),
            sha: "0123456789012345678901234567890123456789".to_owned(),
            ..Runner::default()
        }
    }

    fn read<const N: usize>(vars: [(&str, &str); N]) -> Inputs {
        Inputs::read(&Env::of(vars), &runner()).unwrap()
    }

    const COMMIT: &str = "https://git.example/me/app.git#0123456789012345678901234567890123456789";

    /// What build-push-action's own tests want of it (`__tests__/context.test.ts`), in our flags.
    #[test]
    fn inputs_become_flags() {
        for (given, want) in [
            (vec![("CONTEXT", ".")], vec!["--", "."]),
            (
                vec![(
                    "BUILD-ARGS",
                    "MY_ARG=val1,val2,val3\nARG=val\n\"MULTILINE=aaaa\nbbbb\nccc\"",
                )],
                vec![
                    "--build-arg=MY_ARG=val1,val2,val3",
                    "--build-arg=ARG=val",
                    "--build-arg=MULTILINE=aaaa\nbbbb\nccc",
                    "--",
                    COMMIT,
                ],
            ),
            (
                vec![("TAGS", "name/app:7.4, name/app:latest")],
                vec!["--tag=name/app:7.4", "--tag=name/app:latest", "--", COMMIT],
            ),
            (
                vec![("CONTEXT", "."), ("TAGS", "app"), ("LOAD", "true")],
                vec!["--tag=app", "--load", "--output=type=image", "--", "."],
            ),
            (
                vec![("CONTEXT", "."), ("PLATFORMS", "linux/amd64,linux/arm64")],
                vec!["--platform=linux/amd64,linux/arm64", "--", "."],
            ),
            (
                vec![
                    ("CONTEXT", "{{defaultContext}}:subdir"),
                    ("BUILD-CONTEXTS", "a={{ defaultContext }}:a\nb=./b"),
                ],
                vec![
                    "--build-context=a=https://git.example/me/app.git#0123456789012345678901234567890123456789:a",
                    "--build-context=b=./b",
                    "--",
                    "https://git.example/me/app.git#0123456789012345678901234567890123456789:subdir",
                ],
            ),
            (
                vec![
                    ("CONTEXT", "."),
                    ("FILE", "./test/Dockerfile"),
                    ("ADD-HOSTS", "docker:10.180.0.1,foo:10.0.0.1"),
                    ("CGROUP-PARENT", "foo"),
                    ("SHM-SIZE", "2g"),
                    ("ULIMIT", "nofile=1024:1024\nnproc=3"),
                    ("NETWORK", "host"),
                    ("PUSH", "true"),
                    ("NO-CACHE", "false"),
                ],
                vec![
                    "--add-host=docker:10.180.0.1",
                    "--add-host=foo:10.0.0.1",
                    "--ulimit=nofile=1024:1024",
                    "--ulimit=nproc=3",
                    "--cgroup-parent=foo",
                    "--file=./test/Dockerfile",
                    "--network=host",
                    "--shm-size=2g",
                    "--push",
                    "--",
                    ".",
                ],
            ),
            (
                vec![
                    ("CONTEXT", "."),
                    ("SECRET-ENVS", "MISSING=NOT_SET,ANOTHER=INPUT_CONTEXT"),
                    ("SECRET-FILES", "FILE=./a,b.txt"),
                ],
                vec![
                    "--secret=id=ANOTHER,env=INPUT_CONTEXT",
                    "--secret=id=FILE,\"src=./a,b.txt\"",
                    "--",
                    ".",
                ],
            ),
        ] {
            let mut env = Env::default();
            for (name, value) in &given {
                env.set(&format!("INPUT_{name}"), value);
            }
            let inputs = Inputs::read(&env, &runner()).unwrap();
            assert_eq!(inputs.arguments, want, "{given:?}");
        }
    }

    #[test]
    fn secrets_are_values_of_variables_and_masked() {
        let inputs = read([
            ("INPUT_CONTEXT", "."),
            (
                "INPUT_SECRETS",
                "TOKEN=abcdefghi,jklmno=0123456789\n\"LINES=aaaa\n\nbbbb\n\"\nEMPTY=\nrest of a key\n",
            ),
        ]);
        let values: Vec<&str> = inputs.variables.iter().map(|(_, v)| v.as_str()).collect();
        assert_eq!(values, ["abcdefghi,jklmno=0123456789", "aaaa\n\nbbbb\n"]);
        assert_eq!(inputs.masked, values);
        assert_eq!(
            inputs.arguments[..2],
            [
                "--secret=id=TOKEN,env=RBUILD_ACTION_SECRET_0",
                "--secret=id=LINES,env=RBUILD_ACTION_SECRET_1"
            ]
        );
        assert!(
            inputs.remarks[0].contains("no value for `EMPTY`"),
            "{inputs:?}"
        );
        assert!(inputs.remarks[1].contains("without a key"), "{inputs:?}");
        assert!(!inputs.remarks[1].contains("rest of"), "{inputs:?}");
    }

    #[test]
    fn git_gets_the_token_that_is_for_its_server() {
        // `printf x-access-token:T | base64`, and the same of `M`
        let own = "Authorization: Basic eC1hY2Nlc3MtdG9rZW46VA==";
        let mine = "Authorization: Basic eC1hY2Nlc3MtdG9rZW46TQ==";
        let server = |place: &str, header: &str| (place.to_owned(), header.to_owned());
        let of = |secrets: &str, context: &str| {
            read([
                ("INPUT_GITHUB-TOKEN", "T"),
                ("INPUT_SECRETS", secrets),
                ("INPUT_CONTEXT", context),
            ])
            .headers
        };
        assert_eq!(of("", ""), [server("https://git.example", own)]);
        assert_eq!(
            of("GIT_AUTH_TOKEN=M", ""),
            [server("https://git.example", mine)]
        );
        assert_eq!(
            of("GIT_AUTH_TOKEN=M", "https://other.example/a/b.git#main"),
            [
                server("https://other.example", mine),
                server("https://git.example", own)
            ]
        );
        assert_eq!(
            of("GIT_AUTH_TOKEN.third.example=M", "."),
            [
                server("https://third.example", mine),
                server("https://git.example", own)
            ]
        );
        assert_eq!(of("GIT_AUTH_TOKENS=M", ".").len(), 1);
    }

    #[test]
    fn a_builder_of_buildx_is_none() {
        let named = read([("INPUT_BUILDER", "builder-1"), ("INPUT_CONTEXT", ".")]);
        assert_eq!(named.arguments, ["--", "."]);
        assert!(named.remarks[0].contains("`builder-1`"));
        let address = read([
            ("INPUT_BUILDER", "tcp://b.example:1234"),
            ("INPUT_CONTEXT", "."),
        ]);
        assert!(
            address
                .arguments
                .contains(&"--builder=tcp://b.example:1234".to_owned())
        );
        assert_eq!(address.remarks, [""; 0]);
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let env = Env::of([("INPUT_PUSH", "yes"), ("INPUT_TAGS", "\"open")]);
        let wrong = Inputs::read(&env, &Runner::default()).unwrap_err();
        let begins: Vec<&str> = wrong
            .iter()
            .map(|w| &w[..w.find("is ").or(w.find("cannot")).unwrap()])
            .collect();
        assert_eq!(
            begins,
            [
                "the input `tags` ",
                "the input `push` ",
                "the input `context` "
            ]
        );
    }
}
