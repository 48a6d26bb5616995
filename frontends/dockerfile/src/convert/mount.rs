//! `RUN --mount`.

use rbuild_llb::Diagnostic;
use rbuild_llb::Edge;
use rbuild_llb::op::CacheSharing;
use rbuild_llb::op::Mount;
use rbuild_llb::op::MountKind;
use rbuild_llb::op::SecretEnv;

use super::Building;
use super::Converted;
use super::Converter;
use super::Inputs;
use crate::ast;
use crate::ast::Head;
use crate::ast::MountField;
use crate::ast::Run;
use crate::paths;
use crate::words::parse_bool;
use rbuild_llb::suggest::nearest;

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// The types that a mount can have.
const KINDS: [&str; 5] = [BIND, "cache", "tmpfs", "secret", "ssh"];
/// The type of a mount that names none.
const BIND: &str = "bind";

/// Keys that mean `true` without a value.
const FLAGS: [&str; 5] = ["readonly", "ro", "readwrite", "rw", "required"];

/// The mounts of a step so far.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) list: Vec<Mount>,
    pub(super) secret_env: Vec<SecretEnv>,
}

impl Mounts {
    /// Where the first agent's socket is.
    pub(super) fn ssh_socket(&self) -> Option<String> {
        self.ssh().next().map(|mount| mount.dest.clone())
    }

    fn ssh(&self) -> impl Iterator<Item = &Mount> {
        let ssh = |mount: &&Mount| matches!(mount.kind, MountKind::Ssh { .. });
        self.list.iter().filter(ssh)
    }
}

/// A mount's fields, expanded.
#[derive(Default)]
struct Fields {
    /// One of [`KINDS`].
    kind: &'static str,
    source: String,
    target: String,
    readonly: Option<bool>,
    id: String,
    sharing: Option<CacheSharing>,
    required: bool,
    size: u64,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

/// The type that a word means, however it is written.
fn kind(word: &str) -> Option<&'static str> {
    let same = |kind: &&str| kind.eq_ignore_ascii_case(word);
    KINDS.into_iter().find(same)
}

/// Reports keys that no mount has, which can be told before variables are known.
pub(crate) fn check(run: &Run) -> impl Iterator<Item = Diagnostic> {
    let fields = run.mounts.iter().flat_map(|mount| &mount.fields);
    fields.filter_map(|field| {
        let key = field.key.as_ref();
        if key.is_empty() && field.value.is_none() {
            let error = Diagnostic::error("a mount has an empty field", field.span.clone(), "");
            return Some(error.hint("write `--mount=type=TYPE,target=DIRECTORY`, without blanks"));
        }
        if !KEYS.contains(&key) {
            let message = format!("unexpected key `{key}` in a mount");
            let error = Diagnostic::error(message, field.span.clone(), "");
            return Some(match nearest(key, KEYS) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint(format!("the keys are `{}`", KEYS.join("`, `"))),
            });
        }
        if field.value.is_none() && !FLAGS.contains(&key) {
            let message = format!("`{key}` of a mount needs a value");
            let label = format!("write `{key}=…`");
            return Some(Diagnostic::error(message, field.span.clone(), label));
        }
        None
    })
}

/// Whether a mount shows the build context. Types that are variables count as if they did.
pub(crate) fn needs_context(run: &Run) -> bool {
    let other = |field: &MountField| {
        let value = field.value.as_deref().unwrap_or_default();
        field.key == "type" && kind(value).is_some_and(|kind| kind != BIND)
    };
    let mut mounts = run.mounts.iter();
    mounts.any(|mount| mount.from().is_none() && !mount.fields.iter().any(other))
}

impl Converter<'_> {
    /// Adds a mount; `from` is the file system its `from` names, if it names one.
    pub(super) fn mount(
        &mut self,
        mount: &ast::Mount,
        from: Option<Option<Edge>>,
        head: &Head,
        to: &Building,
        inputs: &mut Inputs,
        mounts: &mut Mounts,
    ) -> Converted<()> {
        let fields = self.fields(mount, head, to)?;
        let error =
            |message: &str| Err(Box::new(Diagnostic::error(message, mount.span.clone(), "")));
        let dest = match fields.target.is_empty() {
            true => String::new(),
            false => paths::absolute(&to.state.dir, &fields.target),
        };
        match fields.kind {
            "secret" => {
                if from.is_some() || fields.sharing.is_some() {
                    return error("a secret mount has neither `from` nor `sharing`");
                }
                if fields.env.as_deref() == Some("") {
                    return error("`env` of a secret mount names no variable");
                }
                if !fields.source.is_empty() && !fields.id.is_empty() {
                    return error("both `source` and `id` of a secret mount can't be set");
                }
                return secret(fields, dest, mounts).map_or_else(
                    || error("one of `id` and `target` of a secret mount is required"),
                    Ok,
                );
            }
            "ssh" if !fields.source.is_empty() => return error("an ssh mount has no `source`"),
            "ssh" => {
                ssh(fields, dest, mounts);
                return Ok(());
            }
            _ => {}
        }
        // Without a target it is the working directory.
        let dest = match dest.is_empty() {
            true => paths::absolute("/", &to.state.dir),
            false => dest,
        };
        if dest == "/" {
            return error("a mount needs a `target` other than `/`");
        }
        let kind = match fields.kind {
            "cache" => MountKind::Cache {
                id: self.cache_id(&fields),
                sharing: fields.sharing.unwrap_or(CacheSharing::Shared),
                mode: fields.mode.unwrap_or(0o755),
                uid: fields.uid.unwrap_or(0),
                gid: fields.gid.unwrap_or(0),
            },
            "tmpfs" => MountKind::Tmpfs { size: fields.size },
            _ => MountKind::Bind,
        };
        let source = match (&kind, from) {
            (MountKind::Tmpfs { .. }, _) | (MountKind::Cache { .. }, None) => None,
            (_, Some(source)) => source,
            (_, None) => Some(self.context(&head.span)),
        };
        let selector = paths::absolute("/", &fields.source);
        let selector = if selector == "/" {
            String::new()
        } else {
            selector
        };
        mounts.list.push(Mount {
            input: source.map(|edge| inputs.add(edge)),
            selector,
            dest,
            output: None,
            readonly: fields.readonly.unwrap_or(kind == MountKind::Bind),
            kind,
        });
        Ok(())
    }

    fn cache_id(&self, fields: &Fields) -> String {
        let id = match fields.id.as_str() {
            "" => paths::clean(&fields.target),
            id => id.to_owned(),
        };
        match self.build_arg("BUILDKIT_CACHE_MOUNT_NS") {
            "" => id,
            namespace => format!("{namespace}/{id}"),
        }
    }

    fn fields(&mut self, mount: &ast::Mount, head: &Head, to: &Building) -> Converted<Fields> {
        let mut fields = Fields {
            kind: BIND,
            ..Fields::default()
        };
        for field in &mount.fields {
            let text = field.value.as_deref().unwrap_or("true");
            let value = self.expand_with(self.shell, text, &field.span, head, to)?;
            fields.set(field, value)?;
            // These two BuildKit wants after the type.
            if matches!(field.key.as_ref(), "required" | "size") {
                fields.fits(field)?;
            }
        }
        for field in &mount.fields {
            fields.fits(field)?;
        }
        Ok(fields)
    }
}

fn secret(fields: Fields, dest: String, mounts: &mut Mounts) -> Option<()> {
    let id = match (fields.source.as_str(), fields.id.as_str()) {
        ("", "") if dest.is_empty() => return None,
        ("", "") => paths::base(&dest).to_owned(),
        ("", id) => id.to_owned(),
        (source, _) => source.to_owned(),
    };
    let optional = !fields.required;
    let as_file = fields.env.is_none() || !dest.is_empty();
    if let Some(name) = fields.env {
        mounts.secret_env.push(SecretEnv {
            id: id.clone(),
            name,
            optional,
        });
    }
    if as_file {
        let default = format!("/run/secrets/{}", paths::base(&id));
        mounts.list.push(Mount {
            input: None,
            selector: String::new(),
            dest: non_empty(dest, &default),
            output: None,
            readonly: true,
            kind: MountKind::Secret {
                id,
                uid: fields.uid.unwrap_or(0),
                gid: fields.gid.unwrap_or(0),
                mode: fields.mode.unwrap_or(0o400),
                optional,
            },
        });
    }
    Some(())
}

fn ssh(fields: Fields, dest: String, mounts: &mut Mounts) {
    let default = format!("/run/buildkit/ssh_agent.{}", mounts.ssh().count());
    mounts.list.push(Mount {
        input: None,
        selector: String::new(),
        dest: non_empty(dest, &default),
        output: None,
        readonly: false,
        kind: MountKind::Ssh {
            id: non_empty(fields.id, "default"),
            uid: fields.uid.unwrap_or(0),
            gid: fields.gid.unwrap_or(0),
            mode: fields.mode.unwrap_or(0o600),
            optional: !fields.required,
        },
    });
}

fn non_empty(text: String, default: &str) -> String {
    match text.is_empty() {
        true => default.to_owned(),
        false => text,
    }
}

impl Fields {
    fn set(&mut self, field: &MountField, value: String) -> Converted<()> {
        let key = field.key.as_ref();
        let invalid = |wanted: &str| {
            let message = format!("invalid value `{value}` for `{key}` of a mount");
            Box::new(Diagnostic::error(message, field.span.clone(), wanted))
        };
        let boolean = || parse_bool(&value).ok_or_else(|| invalid("`true` or `false`"));
        let number = || Some(value.parse().map_err(|_| invalid("a number"))).transpose();
        match key {
            "type" => {
                self.kind = kind(&value).ok_or_else(|| {
                    let error = invalid(&format!("one of `{}`", KINDS.join("`, `")));
                    match nearest(&value, KINDS) {
                        Some(near) => Box::new(error.hint(format!("did you mean `{near}`?"))),
                        None => error,
                    }
                })?;
            }
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => self.readonly = Some(boolean()?),
            "readwrite" | "rw" => self.readonly = Some(!boolean()?),
            "id" => self.id = value,
            "sharing" => {
                self.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => CacheSharing::Shared,
                    "private" => CacheSharing::Private,
                    "locked" => CacheSharing::Locked,
                    _ => return Err(invalid("one of `shared`, `private`, `locked`")),
                });
            }
            "required" => self.required = boolean()?,
            "size" => self.size = size(&value).ok_or_else(|| invalid("such as `64m` or `1g`"))?,
            "mode" => {
                let mode = u32::from_str_radix(&value, 8);
                self.mode = Some(mode.map_err(|_| invalid("an octal number"))?);
            }
            "uid" => self.uid = number()?,
            "gid" => self.gid = number()?,
            "env" => self.env = Some(value),
            // `from` was resolved with the stages; other keys were refused with them.
            _ => {}
        }
        Ok(())
    }

    /// Refuses a key that the type has no use for.
    fn fits(&self, field: &MountField) -> Converted<()> {
        let kind = self.kind;
        let kinds: &[&str] = match field.key.as_ref() {
            "mode" | "uid" | "gid" => &["secret", "ssh", "cache"],
            "required" => &["secret", "ssh"],
            "size" => &["tmpfs"],
            "sharing" => &["cache"],
            _ => return Ok(()),
        };
        if kinds.contains(&kind) {
            return Ok(());
        }
        let message = format!("unexpected key `{}` for mount type `{kind}`", field.key);
        let label = format!("goes after `type={}`", kinds.join("` or `type="));
        Err(Box::new(Diagnostic::error(
            message,
            field.span.clone(),
            label,
        )))
    }
}

/// A number of bytes with a binary unit: `64m`, `1.5GiB`, `100`.
fn size(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let unit = unit.strip_suffix('b').unwrap_or(unit);
    let unit = unit.strip_suffix('i').unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    Some((number * 1024f64.powi(power)) as u64)
}

#[cfg(test)]
mod t {
    #[test]
    fn sizes_are_binary() {
        for (text, want) in [
            ("100", Some(100)),
            ("64m", Some(64 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("2 kb", Some(2048)),
            ("", None),
            ("m", None),
            ("1x", None),
            ("-1", None),
        ] {
            assert_eq!(super::size(text), want, "{text}");
        }
    }
}
