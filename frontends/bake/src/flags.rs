//! The values of a target that have a form of their own, `type=local,dest=out`: what `docker buildx build` takes behind
//! `--output`, `--cache-to`, `--secret`, `--ssh`, `--attest` and `--policy`.
//!
//! Errors are messages without a place; who calls knows where the text stands.

use std::collections::BTreeMap;

/// Attributes of an entry, sorted as buildx prints them.
pub type Attributes = BTreeMap<String, String>;

/// A cache to read from or to write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// `registry`, `local`, `gha`, ….
    pub kind: String,
    /// All others.
    pub attributes: Attributes,
}

/// Where the result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// `image`, `local`, `oci`, ….
    pub kind: String,
    /// `dest`, empty if it is not given.
    pub destination: String,
    /// All others.
    pub attributes: Attributes,
}

/// An attestation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest {
    /// `provenance` or `sbom`.
    pub kind: String,
    /// Whether it is not wanted.
    pub disabled: bool,
    /// All others.
    pub attributes: Attributes,
}

/// A secret. Fields that are not given are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Secret {
    /// The name by which a `RUN --mount=type=secret` asks for it.
    pub id: String,
    /// The file that has its value.
    pub source: String,
    /// The environment variable that has its value.
    pub env: String,
}

/// An ssh agent or keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ssh {
    /// The name by which a `RUN --mount=type=ssh` asks for it.
    pub id: String,
    /// A socket or key files; empty for the agent of the environment.
    pub paths: Vec<String>,
}

/// How sources are to be judged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The policy files.
    pub files: Vec<String>,
    /// Whether policies given before do not count.
    pub reset: bool,
    /// Whether nothing is judged.
    pub disabled: bool,
    /// Whether what cannot be judged is an error.
    pub strict: Option<bool>,
    /// The level of messages, by its name.
    pub log_level: Option<String>,
}

/// Limits of the steps' processes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Bytes, with a unit.
    pub memory: Option<String>,
    /// Bytes of memory and swap, with a unit.
    pub memory_swap: Option<String>,
    /// The share of the processors, relative to 1024.
    pub cpu_shares: Option<i64>,
    /// The length of a period in microseconds.
    pub cpu_period: Option<i64>,
    /// The time in a period in microseconds.
    pub cpu_quota: Option<i64>,
    /// The processors.
    pub cpuset_cpus: Option<String>,
    /// The memory nodes.
    pub cpuset_mems: Option<String>,
}

type Result<T> = std::result::Result<T, String>;

/// The fields of a line of CSV. A quote stands only at the start of a field; inside quotes, two quotes are one.
pub(crate) fn csv(text: &str) -> Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text.trim_end_matches(['\r', '\n']);
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = match rest.split_once(',') {
                Some((field, after)) => (field, Some(after)),
                None => (rest, None),
            };
            if field.contains('"') {
                return Err(format!(
                    "in `{text}`: a quote stands inside a field that has none at its start"
                ));
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut inside = quoted;
        rest = loop {
            let Some((part, after)) = inside.split_once('"') else {
                return Err(format!("in `{text}`: a quote has no end"));
            };
            field.push_str(part);
            match after.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    inside = more;
                }
                None => break after,
            }
        };
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.is_empty() => return Ok(fields),
            None => return Err(format!("in `{text}`: something follows a closing quote")),
        }
    }
}

/// The words that buildx takes for a bool.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn pair(field: &str) -> Result<(&str, &str)> {
    field
        .split_once('=')
        .ok_or_else(|| format!("`{field}` is not of the form `key=value`"))
}

fn take(attributes: &mut Attributes, name: &str) -> String {
    attributes.remove(name).unwrap_or_default()
}

impl CacheEntry {
    /// Reads `type=registry,ref=x`, or `x` for that. What has no `=` may be several.
    pub(crate) fn parse(text: &str) -> Result<Vec<Self>> {
        let fields = csv(text)?;
        if !text.contains('=') {
            return Ok(fields
                .into_iter()
                .map(|reference| Self {
                    kind: "registry".to_owned(),
                    attributes: BTreeMap::from([("ref".to_owned(), reference)]),
                })
                .collect());
        }
        let mut attributes = BTreeMap::new();
        for field in &fields {
            let (key, value) = pair(field)?;
            attributes.insert(key.to_lowercase(), value.to_owned());
        }
        Ok(vec![Self::from_attributes(attributes)?])
    }

    pub(crate) fn from_attributes(mut attributes: Attributes) -> Result<Self> {
        let kind = take(&mut attributes, "type");
        if kind.is_empty() {
            return Err("a cache needs a `type`, such as `type=registry,ref=NAME`".to_owned());
        }
        Ok(Self { kind, attributes })
    }

    pub(crate) fn to_attributes(&self) -> Attributes {
        let mut all = self.attributes.clone();
        all.insert("type".to_owned(), self.kind.clone());
        all
    }
}

impl Output {
    /// Reads `type=local,dest=out`; `out` is that, `-` is `type=tar,dest=-`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let fields = csv(text)?;
        if fields.len() == 1 && fields[0] == text && !text.starts_with("type=") {
            let kind = if text == "-" { "tar" } else { "local" };
            return Ok(Self {
                kind: kind.to_owned(),
                destination: text.to_owned(),
                attributes: BTreeMap::new(),
            });
        }
        let mut attributes = BTreeMap::new();
        for field in &fields {
            let (key, value) = pair(field)?;
            attributes.insert(key.trim().to_lowercase(), value.to_owned());
        }
        Self::from_attributes(attributes)
    }

    pub(crate) fn from_attributes(mut attributes: Attributes) -> Result<Self> {
        let kind = take(&mut attributes, "type");
        if kind.is_empty() {
            return Err("an output needs a `type`, such as `type=local,dest=out`".to_owned());
        }
        Ok(Self {
            kind,
            destination: take(&mut attributes, "dest"),
            attributes,
        })
    }

    pub(crate) fn to_attributes(&self) -> Attributes {
        let mut all = self.attributes.clone();
        all.insert("type".to_owned(), self.kind.clone());
        if !self.destination.is_empty() {
            all.insert("dest".to_owned(), self.destination.clone());
        }
        all
    }
}

impl Attest {
    /// Reads `type=provenance,mode=max`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut attributes = BTreeMap::new();
        for field in &csv(text)? {
            let (key, value) = pair(field)?;
            match key.trim().to_lowercase().as_str() {
                known @ ("type" | "disabled") => {
                    attributes.insert(known.to_owned(), value.to_owned())
                }
                _ => attributes.insert(key.to_owned(), value.to_owned()),
            };
        }
        let attest = Self::from_attributes(attributes)?;
        match attest.kind.is_empty() {
            true => Err("an attestation needs a `type`, such as `type=sbom`".to_owned()),
            false => Ok(attest),
        }
    }

    pub(crate) fn from_attributes(mut attributes: Attributes) -> Result<Self> {
        let disabled = match attributes.remove("disabled") {
            Some(text) => parse_bool(&text)
                .ok_or_else(|| format!("`disabled={text}` is neither true nor false"))?,
            None => false,
        };
        Ok(Self {
            kind: take(&mut attributes, "type"),
            disabled,
            attributes,
        })
    }

    pub(crate) fn to_attributes(&self) -> Attributes {
        let mut all = self.attributes.clone();
        all.insert("type".to_owned(), self.kind.clone());
        if self.disabled {
            all.insert("disabled".to_owned(), "true".to_owned());
        }
        all
    }
}

/// What `--sbom=VALUE` and `--provenance=VALUE` are as an attestation: `true`, `false`, or attributes.
pub fn attest_text(kind: &str, value: &str) -> String {
    match parse_bool(value) {
        Some(wanted) => format!("type={kind},disabled={}", !wanted),
        None => format!("type={kind},{value}"),
    }
}

impl Secret {
    /// Reads `id=x,src=file`, `id=x,env=NAME`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut secret = Self::default();
        let mut from_env = false;
        for field in &csv(text)? {
            let (key, value) = pair(field)?;
            match key.to_lowercase().as_str() {
                "type" if value == "file" || value == "env" => from_env = value == "env",
                "type" => {
                    return Err(format!(
                        "a secret cannot have the type `{value}`: it is `file` or `env`"
                    ));
                }
                "id" => secret.id = value.to_owned(),
                "source" | "src" => secret.source = value.to_owned(),
                "env" => secret.env = value.to_owned(),
                _ => {
                    return Err(format!(
                        "a secret has no `{key}`: it has `id`, `src`, `env` and `type`"
                    ));
                }
            }
        }
        if from_env && secret.env.is_empty() {
            secret.env = std::mem::take(&mut secret.source);
        }
        Ok(secret)
    }
}

impl Ssh {
    /// Reads `default`, `id=path,path`.
    pub(crate) fn parse(text: &str) -> Self {
        match text.split_once('=') {
            Some((id, paths)) => Self {
                id: id.to_owned(),
                paths: paths.split(',').map(str::to_owned).collect(),
            },
            None => Self {
                id: text.to_owned(),
                paths: Vec::new(),
            },
        }
    }
}

impl Policy {
    /// Reads `filename=x,strict=true`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let fields = csv(text)?;
        let pairs = fields
            .iter()
            .map(|field| pair(field))
            .collect::<Result<Vec<_>>>()?;
        Self::from_pairs(&pairs)
    }

    pub(crate) fn from_pairs(pairs: &[(&str, &str)]) -> Result<Self> {
        let mut policy = Self::default();
        for (key, value) in pairs {
            let flag = || {
                parse_bool(value)
                    .ok_or_else(|| format!("`{key}={value}` is neither true nor false"))
            };
            match key.trim().to_lowercase().as_str() {
                "filename" if !value.is_empty() => policy.files.push((*value).to_owned()),
                "reset" => policy.reset = flag()?,
                "disabled" => policy.disabled = flag()?,
                "strict" => policy.strict = Some(flag()?),
                "log-level" => policy.log_level = Some(log_level(value)?),
                _ => return Err(format!("`{key}={value}` is nothing that a policy has")),
            }
        }
        Ok(policy)
    }
}

fn log_level(text: &str) -> Result<String> {
    let level = text.to_lowercase();
    match level.as_str() {
        "panic" | "fatal" | "error" | "info" | "debug" | "trace" => Ok(level),
        "warn" | "warning" => Ok("warning".to_owned()),
        _ => Err(format!("`{text}` is no log level")),
    }
}

impl Resources {
    /// The names of the limits.
    pub const NAMES: [&str; 7] = [
        "memory",
        "memory-swap",
        "cpu-shares",
        "cpu-period",
        "cpu-quota",
        "cpuset-cpus",
        "cpuset-mems",
    ];

    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let number = || {
            value
                .parse()
                .map(Some)
                .map_err(|_| format!("`{name}` needs a whole number, not `{value}`"))
        };
        let text = Some(value.to_owned());
        match name {
            "memory" => self.memory = text,
            "memory-swap" => self.memory_swap = text,
            "cpu-shares" => self.cpu_shares = number()?,
            "cpu-period" => self.cpu_period = number()?,
            "cpu-quota" => self.cpu_quota = number()?,
            "cpuset-cpus" => self.cpuset_cpus = text,
            "cpuset-mems" => self.cpuset_mems = text,
            _ => {
                let known = Self::NAMES.join(", ");
                return Err(format!("there is no limit `{name}`: there are {known}"));
            }
        }
        Ok(())
    }

    /// The limit of that name, as it is written.
    pub fn get(&self, name: &str) -> Option<String> {
        let number = |value: Option<i64>| value.map(|value| value.to_string());
        match name {
            "memory" => self.memory.clone(),
            "memory-swap" => self.memory_swap.clone(),
            "cpu-shares" => number(self.cpu_shares),
            "cpu-period" => number(self.cpu_period),
            "cpu-quota" => number(self.cpu_quota),
            "cpuset-cpus" => self.cpuset_cpus.clone(),
            "cpuset-mems" => self.cpuset_mems.clone(),
            _ => None,
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for name in Self::NAMES {
            if let Some(value) = other.get(name) {
                self.set(name, &value)
                    .expect("a value of this field fits it");
            }
        }
    }
}
