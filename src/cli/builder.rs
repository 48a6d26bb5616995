//! `rbuild builder`: BuildKit daemons by name, several as one. The flags are those of `docker buildx create` and its like.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use rbuild_llb::Diagnostic;
use rbuild_llb::Platform;
use serde_json::Value;
use serde_json::json;

use super::Session;
use super::builders;
use super::builders::Builders;
use super::builders::DEFAULT;
use super::builders::Endpoint;
use super::builders::Named;
use super::builders::Native;
use super::images::Format;
use super::values;
use super::values::invalid;
use super::values::problem;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::nodes;
use crate::pipeline::nodes::Found;
use crate::request::Node;
use crate::request::Place;
use crate::ui;

#[derive(Debug, Args)]
pub(crate) struct BuilderFlags {
    #[command(subcommand)]
    command: BuilderCommand,
}

#[derive(Debug, Subcommand)]
enum BuilderCommand {
    /// List builders and their nodes, as they are written down
    Ls(ListFlags),
    /// Give a daemon a name, or add a node to a builder that is there
    Create(CreateFlags),
    /// Ask the nodes of a builder what they are, and what they lack
    Inspect(InspectFlags),
    /// Forget builders; their daemons are not touched
    Rm(RemoveFlags),
    /// Choose the builder that builds go to without `--builder`; `default` is this machine
    Use(UseFlags),
}

#[derive(Debug, Args)]
struct ListFlags {
    /// How to print them: `table`, `json` (one object a line), or a template: `{{.Name}}`
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true
    )]
    format: String,
}

#[derive(Debug, Args)]
struct CreateFlags {
    /// The builder's name, unless `--name` says it; then where the daemon is: an address as `--builder` takes it, or `local`
    /// for this machine
    #[arg(value_name = "[NAME] ADDRESS", num_args = 0..=2)]
    words: Vec<String>,
    /// The builder's name
    #[arg(long)]
    name: Option<String>,
    /// Add a node to a builder that is there
    #[arg(long)]
    append: bool,
    /// Take the node away that `--node` names
    #[arg(long, conflicts_with = "append")]
    leave: bool,
    /// The node's name [default: the builder's with a number]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// What the node is native to: `linux/arm64,linux/arm/v7`; else the daemon says it
    #[arg(long, value_name = "PLATFORMS")]
    platform: Vec<String>,
    /// Files for TLS: `cacert=ca.pem,cert=me.pem,key=me-key.pem,servername=name`
    #[arg(long, value_name = "OPTIONS")]
    driver_opt: Vec<String>,
    /// How the daemon is reached; buildx' word for an address is `remote`
    #[arg(long, value_name = "DRIVER", hide = true)]
    driver: Option<String>,
    /// Have builds go there without `--builder`
    #[arg(long = "use")]
    make_current: bool,
    /// Ask the nodes, and fail if one is not there
    #[arg(long)]
    bootstrap: bool,
}

#[derive(Debug, Args)]
struct InspectFlags {
    /// The builder [default: the one that builds go to]
    name: Option<String>,
    /// Fail if a node is not there
    #[arg(long)]
    bootstrap: bool,
    /// How to print it: `table`, `json`, or a template: `{{.Name}}`
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true
    )]
    format: String,
}

#[derive(Debug, Args)]
struct RemoveFlags {
    /// Their names
    #[arg(required = true)]
    names: Vec<String>,
    /// Pass over what is not there
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
struct UseFlags {
    /// The builder
    name: String,
}

pub(crate) fn run(flags: &BuilderFlags, session: &Session) -> Result<(), BuildError> {
    let path = builders::path(&session.env).ok_or_else(|| {
        let message = "there is no directory for `builders.toml`";
        refuse(problem(message).hint("set HOME or XDG_CONFIG_HOME"))
    })?;
    match &flags.command {
        BuilderCommand::Ls(flags) => ls(flags, &path, session),
        BuilderCommand::Create(flags) => create(flags, &path, session),
        BuilderCommand::Inspect(flags) => inspect(flags, &path, session),
        BuilderCommand::Rm(flags) => rm(flags, &path),
        BuilderCommand::Use(flags) => make_current(&flags.name, &path),
    }
}

fn refuse(problem: Diagnostic) -> BuildError {
    BuildError::request(vec![problem])
}

fn ls(flags: &ListFlags, path: &Path, session: &Session) -> Result<(), BuildError> {
    let format = Format::parse(&flags.format)?;
    let builders = Builders::read(path).map_err(refuse)?;
    let current = builders.current.as_deref().unwrap_or(DEFAULT);
    let here = Named {
        name: DEFAULT.to_owned(),
        endpoint: Endpoint {
            text: "local".to_owned(),
            place: Place::Here,
        },
        platforms: Vec::new(),
    };
    let own = (DEFAULT.to_owned(), vec![here]);
    let all: Vec<_> = std::iter::once(own)
        .chain(builders.builder.clone())
        .collect();
    let rows: Vec<Value> = all
        .iter()
        .map(|(name, nodes)| {
            let nodes = nodes.iter().map(|node| {
                json!({
                    "Name": node.name,
                    "Endpoint": node.endpoint.text,
                    "Platforms": node.platforms,
                })
            });
            json!({
                "Name": name,
                "Current": name == current,
                "Nodes": nodes.collect::<Vec<_>>(),
            })
        })
        .collect();
    let table = || {
        let mut lines = vec![
            ["NAME/NODE", "ENDPOINT", "PLATFORMS"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (name, nodes) in &all {
            let mark = if name == current { "*" } else { "" };
            lines.push(vec![format!("{name}{mark}"), String::new(), String::new()]);
            for node in nodes {
                lines.push(vec![
                    format!(" \\_ {}", node.name),
                    node.endpoint.place.to_string(),
                    list(node.platforms.iter().map(|own| &own.0)),
                ]);
            }
        }
        ui::table(&lines, 3)
    };
    super::print_text(&format.print(&rows, "ID", table)?, session)
}

fn list<'a>(platforms: impl Iterator<Item = &'a Platform>) -> String {
    let list: Vec<String> = platforms.map(ToString::to_string).collect();
    list.join(", ")
}

fn create(flags: &CreateFlags, path: &Path, session: &Session) -> Result<(), BuildError> {
    let asked = Asked::of(flags).map_err(refuse)?;
    let name = asked.name.clone();
    let nodes = builders::change(path, |builders| {
        asked.write(builders)?;
        if flags.make_current {
            builders.current = Some(name.clone());
        }
        let nodes = builders.builder.get(&name).into_iter().flatten();
        Ok(nodes.map(Named::node).collect::<Vec<Node>>())
    });
    let nodes = nodes.map_err(refuse)?;
    super::print(format!("{name}\n").as_bytes())?;
    if flags.bootstrap {
        let found = nodes::ask(&nodes)?;
        super::print_text(&tell(&name, &nodes, &found), session)?;
        all_there(&name, &nodes, &found)?;
    }
    Ok(())
}

/// What is to be written down.
struct Asked {
    name: String,
    node: Option<String>,
    change: Change,
}

enum Change {
    /// A builder with this node; one more, with `append`.
    Node {
        endpoint: Endpoint,
        platforms: Vec<Native>,
        append: bool,
    },
    Leave,
}

impl Asked {
    fn of(flags: &CreateFlags) -> Result<Self, Diagnostic> {
        let (name, address) =
            match (&flags.name, flags.words.as_slice()) {
                (Some(name), []) => (name, None),
                (Some(name), [address]) => (name, Some(address)),
                (None, [name, address]) => (name, Some(address)),
                (None, [name]) if flags.leave => (name, None),
                (None, [only]) if is_address(only) => {
                    return Err(problem("the builder has no name")
                        .hint(format!("rbuild builder create NAME {only}")));
                }
                (None, [name]) => {
                    return Err(problem(format!("it is not said where `{name}` is")).hint(
                        format!("rbuild builder create {name} unix:///run/buildkit/buildkitd.sock"),
                    ));
                }
                _ => {
                    return Err(problem("wanted a name and an address")
                        .hint("rbuild builder create NAME unix:///run/buildkit/buildkitd.sock"));
                }
            };
        for (name, what) in [(Some(name), "builder"), (flags.node.as_ref(), "node")] {
            if let Some(name) = name.filter(|name| !is_name(name)) {
                let why = "a name has letters, digits, `.`, `_` and `-`, and begins with a letter";
                return Err(problem(format!(
                    "`{name}` cannot be the name of a {what}: {why}"
                )));
            }
        }
        if [DEFAULT, "local"].contains(&name.as_str()) {
            return Err(problem(format!(
                "`{name}` is this machine, and no name for others"
            )));
        }
        if let Some(driver) = flags.driver.as_deref().filter(|driver| *driver != "remote") {
            let why = "builders are daemons that run already";
            return Err(invalid("driver", driver, why)
                .hint("start a buildkitd, and name its address; one in a container is `docker-container://NAME`"));
        }
        let change = match (flags.leave, address) {
            (true, _) if flags.node.is_none() => {
                return Err(problem("`--leave` takes the node's name").hint("add `--node NAME`"));
            }
            (true, _) => Change::Leave,
            (false, None) => {
                return Err(problem(format!("it is not said where `{name}` is"))
                    .hint("an address follows: `unix:///run/buildkit/buildkitd.sock`"));
            }
            (false, Some(address)) => Change::Node {
                endpoint: endpoint(address, &flags.driver_opt)?,
                platforms: platforms(&flags.platform)?,
                append: flags.append,
            },
        };
        Ok(Self {
            name: name.clone(),
            node: flags.node.clone(),
            change,
        })
    }

    fn write(self, builders: &mut Builders) -> Result<(), Diagnostic> {
        let Self { name, node, change } = self;
        let there = builders.builder.contains_key(&name);
        match change {
            Change::Leave => {
                if !there {
                    return Err(builders.unknown(&name));
                }
                let nodes = builders.builder.entry(name.clone()).or_default();
                let wanted = node.unwrap_or_default();
                let before = nodes.len();
                nodes.retain(|node| node.name != wanted);
                match nodes.len() {
                    len if len == before => {
                        Err(problem(format!("`{name}` has no node `{wanted}`")))
                    }
                    0 => Err(problem(format!("`{wanted}` is the only node of `{name}`"))
                        .hint(format!("rbuild builder rm {name}"))),
                    _ => Ok(()),
                }
            }
            Change::Node {
                endpoint,
                platforms,
                append,
            } => {
                match (there, append) {
                    (true, false) => {
                        return Err(problem(format!("there is a builder `{name}` already")).hint(
                            "add a node to it with `--append`, or remove it first: `rbuild builder rm`",
                        ));
                    }
                    (false, true) => return Err(builders.unknown(&name)),
                    _ => {}
                }
                let nodes = builders.builder.entry(name.clone()).or_default();
                let is_taken = |own: &String| nodes.iter().any(|node| node.name == *own);
                let node = node.unwrap_or_else(|| {
                    let mut free = (0..).map(|nth| format!("{name}{nth}"));
                    free.find(|own| !is_taken(own))
                        .expect("numbers do not end before nodes do")
                });
                let named = Named {
                    name: node,
                    endpoint,
                    platforms,
                };
                match nodes.iter_mut().find(|node| node.name == named.name) {
                    Some(before) => *before = named,
                    None => nodes.push(named),
                }
                Ok(())
            }
        }
    }
}

fn is_address(text: &str) -> bool {
    text == "local" || text.contains("://")
}

fn is_name(text: &str) -> bool {
    let mut letters = text.chars();
    letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// An address with its options, whose files are found from everywhere.
fn endpoint(address: &str, driver_opt: &[String]) -> Result<Endpoint, Diagnostic> {
    const FILES: [&str; 3] = ["cacert", "cert", "key"];
    let mut fields = address.split(',');
    let mut text = fields.next().unwrap_or_default().to_owned();
    let given = driver_opt.iter().flat_map(|given| given.split(','));
    for option in fields.chain(given.filter(|option| !option.is_empty())) {
        let option = match option.split_once('=') {
            Some((key, file)) if FILES.contains(&key) => {
                let whole = std::path::absolute(file).unwrap_or_else(|_| PathBuf::from(file));
                if !whole.is_file() {
                    let why = format!("`{}` is no file", whole.display());
                    return Err(invalid("driver-opt", option, why));
                }
                if whole.to_string_lossy().contains(',') {
                    let why = "a path with a comma cannot be written down";
                    return Err(invalid("driver-opt", option, why));
                }
                format!("{key}={}", whole.display())
            }
            _ => option.to_owned(),
        };
        text.push(',');
        text.push_str(&option);
    }
    Endpoint::try_from(text).map_err(problem)
}

fn platforms(flags: &[String]) -> Result<Vec<Native>, Diagnostic> {
    let mut all = Vec::new();
    for text in flags.iter().filter(|text| !text.is_empty()) {
        for platform in values::platforms(text)? {
            let native = Native(platform);
            if !all.contains(&native) {
                all.push(native);
            }
        }
    }
    Ok(all)
}

fn inspect(flags: &InspectFlags, path: &Path, session: &Session) -> Result<(), BuildError> {
    let format = Format::parse(&flags.format)?;
    let builders = Builders::read(path).map_err(refuse)?;
    let current = builders.current.as_deref().unwrap_or(DEFAULT);
    let name = flags.name.as_deref().unwrap_or(current);
    let nodes: Vec<Node> = match name {
        DEFAULT => vec![Node {
            name: DEFAULT.to_owned(),
            place: Place::Here,
            platforms: Vec::new(),
        }],
        name => {
            let nodes = builders.nodes(name).map_err(refuse)?;
            nodes.iter().map(Named::node).collect()
        }
    };
    let found = nodes::ask(&nodes)?;
    let rows = [json!({
        "Name": name,
        "Current": name == current,
        "Nodes": nodes.iter().zip(&found).map(|(node, found)| row(node, found)).collect::<Vec<_>>(),
    })];
    let printed = format.print(&rows, "ID", || tell(name, &nodes, &found))?;
    super::print_text(&printed, session)?;
    match flags.bootstrap {
        true => all_there(name, &nodes, &found),
        false => Ok(()),
    }
}

fn row(node: &Node, found: &Result<Found, String>) -> Value {
    let texts = |platforms: &[Platform]| -> Vec<String> {
        platforms.iter().map(ToString::to_string).collect()
    };
    let mut row = json!({
        "Name": node.name,
        "Endpoint": node.place.to_string(),
        "Declared": texts(&node.platforms),
    });
    let more = match found {
        Ok(found) => {
            let lacks = found.lacks.iter();
            let lacks =
                lacks.map(|(capability, what)| json!({"Capability": capability, "For": what}));
            json!({
                "Status": "running",
                "Version": found.version,
                "Platforms": texts(&found.platforms),
                "Lacks": lacks.collect::<Vec<_>>(),
            })
        }
        Err(why) => json!({"Status": "unreachable", "Error": why}),
    };
    if let (Some(row), Value::Object(more)) = (row.as_object_mut(), more) {
        row.extend(more);
    }
    row
}

/// All of it in words. What is declared has a star, as buildx gives it.
fn tell(name: &str, nodes: &[Node], found: &[Result<Found, String>]) -> String {
    let mut lines = vec![("Name", name.to_owned())];
    for (node, found) in nodes.iter().zip(found) {
        lines.push(("", String::new()));
        lines.push(("Node", node.name.clone()));
        lines.push(("Endpoint", node.place.to_string()));
        let declared = node.platforms.iter().map(|own| format!("{own}*"));
        let mut platforms: Vec<String> = declared.collect();
        match found {
            Err(why) => lines.push(("Status", format!("unreachable: {why}"))),
            Ok(found) => {
                lines.push(("Status", "running".to_owned()));
                let version = match (&node.place, &found.version) {
                    (Place::Here, _) => format!("rbuild {}", env!("CARGO_PKG_VERSION")),
                    (_, Some(version)) => format!("BuildKit {version}"),
                    (_, None) => "BuildKit, older than 0.11".to_owned(),
                };
                lines.push(("Version", version));
                let others = found.platforms.iter();
                let others = others.filter(|own| !node.platforms.contains(own));
                platforms.extend(others.map(ToString::to_string));
                for (capability, what) in &found.lacks {
                    lines.push(("Lacks", format!("{what} ({capability})")));
                }
            }
        }
        if !platforms.is_empty() {
            lines.push(("Platforms", platforms.join(", ")));
        }
    }
    let lines = lines.into_iter().map(|(head, text)| match head {
        "" => "\n".to_owned(),
        head => format!("{:<11}{text}\n", format!("{head}:")),
    });
    lines.collect()
}

fn all_there(
    name: &str,
    nodes: &[Node],
    found: &[Result<Found, String>],
) -> Result<(), BuildError> {
    let gone = nodes.iter().zip(found).filter(|(_, found)| found.is_err());
    let gone: Vec<String> = gone.map(|(node, _)| format!("`{}`", node.name)).collect();
    match gone.is_empty() {
        true => Ok(()),
        false => {
            let gone = gone.join(", ");
            let error = anyhow::anyhow!("of the builder `{name}` cannot be reached: {gone}");
            Err(BuildError::new(ErrorKind::Environment, error))
        }
    }
}

fn rm(flags: &RemoveFlags, path: &Path) -> Result<(), BuildError> {
    let removed = builders::change(path, |builders| {
        let mut removed = Vec::new();
        for name in &flags.names {
            match builders.builder.remove(name) {
                Some(_) => removed.push(name),
                None if flags.force => {}
                None => return Err(builders.unknown(name)),
            }
        }
        let is_gone = |current: &String| !builders.builder.contains_key(current);
        if builders.current.as_ref().is_some_and(is_gone) {
            builders.current = None;
        }
        Ok(removed)
    });
    for name in removed.map_err(refuse)? {
        super::print(format!("removed {name}\n").as_bytes())?;
    }
    Ok(())
}

fn make_current(name: &str, path: &Path) -> Result<(), BuildError> {
    let changed = builders::change(path, |builders| {
        builders.current = match name {
            DEFAULT => None,
            name => {
                builders.nodes(name)?;
                Some(name.to_owned())
            }
        };
        Ok(())
    });
    changed.map_err(refuse)
}

#[cfg(test)]
mod t {
    use clap::Parser;
    use snapbox::assert_data_eq;
    use snapbox::str;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: CreateFlags,
    }

    fn create(builders: &mut Builders, words: &str) -> Result<(), Diagnostic> {
        let words = ["create"].into_iter().chain(words.split_whitespace());
        let line = Line::try_parse_from(words).unwrap();
        Asked::of(&line.flags)?.write(builders)
    }

    #[test]
    fn nodes_come_and_go() {
        let mut builders = Builders::default();
        for words in [
            "farm tcp://amd.example:1",
            "farm --append --node arm --platform linux/arm64,arm/v7 --platform linux/arm64 tcp://arm.example:1",
            // As buildx has it.
            "--name farm --append --driver remote --driver-opt servername=b tcp://more.example:1",
            "farm --append local",
            "farm --append --node arm unix:///arm.sock",
            "farm --leave --node farm1",
        ] {
            create(&mut builders, words).unwrap();
        }
        let text = toml::to_string(&builders).unwrap();
        assert_data_eq!(
            text,
            str![[r#"
[[builder.farm]]
name = "farm0"
endpoint = "tcp://amd.example:1"

[[builder.farm]]
name = "arm"
endpoint = "unix:///arm.sock"

[[builder.farm]]
name = "farm2"
endpoint = "local"

"#]]
        );
    }

    #[test]
    fn mistakes_are_told() {
        let mut builders = Builders::default();
        create(&mut builders, "farm unix:///b.sock").unwrap();
        let mut text = String::new();
        for words in [
            "unix:///b.sock",
            "other",
            "",
            "farm unix:///b.sock",
            "fram --append unix:///b.sock",
            "0 unix:///b.sock",
            "default unix:///b.sock",
            "b host:1",
            "b --driver kubernetes unix:///b.sock",
            "b --driver-opt cacert=/no/such/ca.pem tcp://h:1",
            "b --driver-opt network=host tcp://h:1",
            "b --platform pdp11/x/y/z unix:///b.sock",
            "farm --leave",
            "farm --leave --node other",
            "farm --leave --node farm0",
        ] {
            let error = create(&mut builders.clone(), words).unwrap_err();
            text += &crate::ui::render(&error, false);
            text.push('\n');
        }
        assert_data_eq!(
            text,
            str![[r#"
error: the builder has no name
hint: rbuild builder create NAME unix:///b.sock
error: it is not said where `other` is
hint: rbuild builder create other unix:///run/buildkit/buildkitd.sock
error: wanted a name and an address
hint: rbuild builder create NAME unix:///run/buildkit/buildkitd.sock
error: there is a builder `farm` already
hint: add a node to it with `--append`, or remove it first: `rbuild builder rm`
error: there is no builder `fram`
hint: did you mean `farm`?
error: `0` cannot be the name of a builder: a name has letters, digits, `.`, `_` and `-`, and begins with a letter
error: `default` is this machine, and no name for others
error: `host:1` is no address of a builder: wanted `unix://PATH`, `tcp://HOST:PORT`, `docker-container://NAME`, `podman-container://NAME` or `docker://`
error: `--driver kubernetes`: builders are daemons that run already
hint: start a buildkitd, and name its address; one in a container is `docker-container://NAME`
error: `--driver-opt cacert=/no/such/ca.pem`: `/no/such/ca.pem` is no file
error: `tcp://h:1,network=host` is no address of a builder: `network=host` is none of `cacert=`, `cert=`, `key=` and `servername=`, which `tcp://` may have
error: `--platform pdp11/x/y/z`: `pdp11/x/y/z` is not a platform: wanted OS/ARCH[/VARIANT], such as `linux/amd64` or `linux/arm/v7`
error: `--leave` takes the node's name
hint: add `--node NAME`
error: `farm` has no node `other`
error: `farm0` is the only node of `farm`
hint: rbuild builder rm farm

"#]]
        );
    }

    #[test]
    fn what_nodes_are_is_told() {
        let node = |name: &str, place: &str, platforms: &[&str]| Node {
            name: name.to_owned(),
            place: place.parse().unwrap(),
            platforms: platforms.iter().map(|p| p.parse().unwrap()).collect(),
        };
        let nodes = [
            node("amd", "unix:///b.sock", &[]),
            node("arm", "tcp://h:1,cacert=/ca.pem", &["linux/arm64"]),
            node("mine", "local", &[]),
        ];
        let found = [
            Ok(Found {
                version: Some("v0.29.0".to_owned()),
                platforms: vec!["linux/amd64".parse().unwrap(), "linux/386".parse().unwrap()],
                lacks: vec![("diffop", "the difference of two file systems")],
            }),
            Err("cannot connect".to_owned()),
            Ok(Found {
                version: None,
                platforms: vec!["linux/amd64".parse().unwrap()],
                lacks: Vec::new(),
            }),
        ];
        let told = tell("farm", &nodes, &found);
        let told = told.replace(env!("CARGO_PKG_VERSION"), "[VERSION]");
        assert_data_eq!(
            told,
            str![[r#"
Name:      farm

Node:      amd
Endpoint:  unix:///b.sock
Status:    running
Version:   BuildKit v0.29.0
Lacks:     the difference of two file systems (diffop)
Platforms: linux/amd64, linux/386

Node:      arm
Endpoint:  tcp://h:1
Status:    unreachable: cannot connect
Platforms: linux/arm64*

Node:      mine
Endpoint:  local
Status:    running
Version:   rbuild [VERSION]
Platforms: linux/amd64

"#]]
        );
        let row = row(&nodes[1], &found[1]);
        assert_eq!(row["Error"], "cannot connect");
        assert_eq!(row["Declared"][0], "linux/arm64");
    }
}
