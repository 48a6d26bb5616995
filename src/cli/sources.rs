//! What goes into a build from outside: the context, named contexts, secrets and ssh agents.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::str::FromStr as _;

use rbuild_llb::Diagnostic;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::OciLayoutSource;
use rbuild_llb::op::SourceOp;

use super::env::Env;
use super::flags::BuildFlags;
use super::values;
use super::values::invalid;
use super::values::problem;
use crate::registry::Reference;
use crate::request::BuildRequest;
use crate::request::ContextSource;
use crate::request::NamedContextSource;
use crate::request::PlanFile;
use crate::request::Secret;
use crate::request::SecretSource;
use crate::request::SshSource;
use crate::request::Tag;
use crate::ui;

/// The name of a plan.
const PLAN: &str = "rbuild.toml";

/// BuildKit's limit (session/secrets/secretsprovider, `MaxSecretSize`).
const MAX_SECRET: u64 = 500 * 1024;

/// A name as registries know it: `app` is `docker.io/library/app:latest`. It is that of a flag, or a `name` without one.
pub(crate) fn image_name(flag: &str, text: &str) -> Result<String, Diagnostic> {
    let reference = Reference::from_str(text).map_err(|error| match flag {
        "name" => problem(error.to_string()),
        flag => problem(format!("`--{flag}`: {error}")),
    })?;
    if flag == "tag" && reference.digest.is_some() {
        let why = "an image that is not built yet has no digest to be named by";
        return Err(invalid(flag, text, why));
    }
    Ok(reference.to_string())
}

/// Whether a `-t` says a tag: `app` does not, though its tag is `latest`.
pub(crate) fn has_tag(text: &str) -> bool {
    let name = text.split_once('=').map_or(text, |(_, name)| name);
    let last = name.rsplit('/').next().unwrap_or(name);
    last.contains(':')
}

/// A `-t`: a name, or `target=name` for one of several targets.
pub(crate) fn tag(text: &str) -> Result<Tag, Diagnostic> {
    let (target, name) = match text.split_once('=') {
        Some((target, name)) => (Some(target.to_owned()), name),
        None => (None, text),
    };
    let name = image_name("tag", name)?;
    Ok(Tag { target, name })
}

/// The words that are no flags: the context, then what is to be built. Where the working directory has a plan, or `-f`
/// names one, the context may be left out.
pub(crate) fn places(flags: &BuildFlags) -> Result<(ContextSource, Vec<String>), Diagnostic> {
    let named = flags.file.as_ref().and_then(|file| file.extension());
    let plan_here = named.is_some_and(|extension| extension == "toml")
        || (flags.file.is_none() && Path::new(PLAN).is_file());
    let here = || ContextSource::Directory(PathBuf::from("."));
    if flags.llb.is_some() && flags.words.is_empty() {
        return Ok((here(), Vec::new()));
    }
    let words = |list: &[PathBuf]| {
        let list = list.iter().map(|word| word.to_string_lossy().into_owned());
        list.collect::<Vec<String>>()
    };
    match flags.words.split_first() {
        None if plan_here => Ok((here(), Vec::new())),
        None => Err(problem("no build context is named").hint("for this directory: `rbuild .`")),
        Some((first, _)) if plan_here && !is_context(first) => Ok((here(), words(&flags.words))),
        Some((first, rest)) => Ok((context(first)?, words(rest))),
    }
}

/// Whether what is built can be a plan.
pub(crate) fn may_be_plan(request: &BuildRequest) -> bool {
    match (&request.file, &request.context) {
        (Some(PlanFile::Path(path)), _) => path
            .extension()
            .is_some_and(|extension| extension == "toml"),
        (None, ContextSource::Directory(dir)) => dir.join(PLAN).is_file(),
        _ => false,
    }
}

/// Whether a word is a context even where it could be an output of a plan.
fn is_context(word: &Path) -> bool {
    let text = word.to_string_lossy();
    let plan = |name| word.join(name).is_file();
    matches!(&*text, "-" | "." | "..")
        || text.contains('/')
        || is_remote(&text)
        || [PLAN, "Dockerfile", "Containerfile"].into_iter().any(plan)
}

/// The CONTEXT argument.
pub(crate) fn context(path: &Path) -> Result<ContextSource, Diagnostic> {
    let text = path.to_string_lossy();
    if text == "-" {
        return Ok(ContextSource::Stdin);
    }
    if is_remote(&text) {
        return Ok(ContextSource::Remote(text.into_owned()));
    }
    if path.is_dir() {
        return Ok(ContextSource::Directory(path.to_owned()));
    }
    let what = if path.exists() {
        "is not a directory"
    } else {
        "does not exist"
    };
    let problem = problem(format!("the build context `{text}` {what}"));
    Err(
        match super::commands().iter().find(|name| is_close(name, &text)) {
            Some(name) => problem.hint(format!("did you mean the command `{name}`?")),
            None if matches!(&*text, "compose" | "docker-compose") => {
                problem.hint("`rbuild bake` builds the services of a compose file")
            }
            None if path.is_file() => problem.hint(format!(
                "for a Dockerfile of another name: `-f {text} DIRECTORY`"
            )),
            // As it would be the name of an output where there is a plan.
            None if !path.exists() && !text.contains('/') => {
                problem.hint("there is no `rbuild.toml` here whose output it could be")
            }
            None => problem,
        },
    )
}

/// As docker tells URLs from directories (moby/buildkit, util/gitutil and docker's own short forms).
pub(crate) fn is_remote(text: &str) -> bool {
    const SCHEMES: [&str; 6] = [
        "http://",
        "https://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
    ];
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

/// Whether it is what a server is asked for a file by.
pub(crate) fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// One letter more, less, other, or two swapped.
fn is_close(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let start = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[start..], &b[start..]);
    let skip = |letters: &[char], n: usize| letters.get(n..).map(<[char]>::to_vec);
    let rest = |n, m| skip(a, n).is_some() && skip(a, n) == skip(b, m);
    let swapped = a.len() > 1 && b.len() > 1 && a[0] == b[1] && a[1] == b[0] && rest(2, 2);
    rest(1, 1) || rest(1, 0) || rest(0, 1) || swapped
}

/// `--build-context name=…`, with the name in its familiar form: without docker.io and `:latest`.
pub(crate) fn named_context(text: &str) -> Result<(String, NamedContextSource), Diagnostic> {
    let invalid = |why: String| invalid("build-context", text, why);
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| invalid("wanted `name=source`".into()))?;
    let name = Reference::from_str(name).map_err(|error| invalid(error.to_string()))?;
    let name = ui::familiar(&name.to_string()).to_owned();
    if let Some(image) = value.strip_prefix("docker-image://") {
        let reference = Reference::from_str(image).map_err(|error| invalid(error.to_string()))?;
        let source = SourceOp::Image(ImageSource {
            reference: reference.to_string(),
            digest: None,
        });
        return Ok((name, NamedContextSource::Image(source)));
    }
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        let (path, reference) = oci_layout(layout);
        let source = SourceOp::OciLayout(OciLayoutSource {
            path,
            reference,
            digest: None,
        });
        return Ok((name, NamedContextSource::Image(source)));
    }
    if value.starts_with("target:") {
        return Err(invalid(
            "`target:` means something to `docker buildx bake` only".into(),
        ));
    }
    if is_remote(value) {
        return Ok((name, NamedContextSource::Remote(value.to_owned())));
    }
    if !Path::new(value).is_dir() {
        return Err(invalid(format!("`{value}` is not a directory")));
    }
    Ok((name, NamedContextSource::Directory(value.into())))
}

/// `dir[:tag][@digest]`; the digest wins, as it says more.
fn oci_layout(text: &str) -> (String, Option<String>) {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.to_owned())),
        None => (text, None),
    };
    match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => {
            (path.to_owned(), digest.or(Some(tag.to_owned())))
        }
        _ => (rest.to_owned(), digest),
    }
}

/// The secrets of a build by id, and their values, which must not be shown.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    pub(crate) sources: BTreeMap<String, SecretSource>,
    pub(crate) values: Vec<Vec<u8>>,
}

/// Where one `--secret` is: `id=name,src=file`, `id=name,env=VARIABLE`, `type=env,id=name,src=VARIABLE`; with an id
/// alone the variable of that name, else the file.
pub(crate) fn secret(text: &str, env: &Env) -> Result<(String, SecretSource, Vec<u8>), Diagnostic> {
    let invalid = |why: String| invalid("secret", text, why);
    let (mut kind, mut id, mut file, mut variable) = (None, None, None, None);
    for (key, value) in values::options("secret", text)? {
        let slot = match key.as_str() {
            "type" if matches!(&*value, "file" | "env") => &mut kind,
            "type" => {
                return Err(invalid(format!("there is no type `{value}`"))
                    .hint("the types are `file` and `env`"));
            }
            "id" => &mut id,
            "src" | "source" => &mut file,
            "env" => &mut variable,
            key => {
                return Err(invalid(format!("there is no option `{key}`"))
                    .hint("the options are `id`, `src`, `env` and `type`"));
            }
        };
        *slot = Some(value);
    }
    let id = id
        .filter(|id| !id.is_empty())
        .ok_or_else(|| invalid("`id=` is missing".into()))?;
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = file.take();
    }
    if file.is_none() && variable.is_none() {
        match env.get(&id) {
            Some(_) => variable = Some(id.clone()),
            None => file = Some(id.clone()),
        }
    }
    match (variable, file) {
        (Some(name), _) => {
            let value = env
                .get(&name)
                .ok_or_else(|| invalid(format!("the environment variable `{name}` is not set")))?;
            let value = value.as_encoded_bytes().to_vec();
            Ok((id, SecretSource::Value(Secret(value.clone())), value))
        }
        (None, file) => {
            let path = PathBuf::from(file.unwrap_or_default());
            let (value, is_regular) = read_secret(&path).map_err(invalid)?;
            // A pipe, as of `src=<(command)`, gives its bytes only once.
            let source = match is_regular {
                true => SecretSource::File(path),
                false => SecretSource::Value(Secret(value.clone())),
            };
            Ok((id, source, value))
        }
    }
}

fn read_secret(path: &Path) -> Result<(Vec<u8>, bool), String> {
    let cannot = |error: std::io::Error| format!("cannot read `{}`: {error}", path.display());
    let file = File::open(path).map_err(cannot)?;
    let is_regular = file.metadata().map_err(cannot)?.is_file();
    let mut value = Vec::new();
    file.take(MAX_SECRET + 1)
        .read_to_end(&mut value)
        .map_err(cannot)?;
    if value.len() as u64 > MAX_SECRET {
        return Err(format!(
            "`{}` is larger than {}",
            path.display(),
            ui::size(MAX_SECRET)
        ));
    }
    Ok((value, is_regular))
}

/// `--ssh default`, `--ssh id=socket`, `--ssh id=key,key`; without a path SSH_AUTH_SOCK.
pub(crate) fn ssh(text: &str, env: &Env) -> Result<(String, SshSource), Diagnostic> {
    let (id, paths) = match text.split_once('=') {
        Some((id, paths)) => (id, paths),
        None => (text, ""),
    };
    let id = if id.is_empty() { "default" } else { id };
    if paths.is_empty() {
        let socket = env.path("SSH_AUTH_SOCK").ok_or_else(|| {
            let why = "there is no ssh agent: SSH_AUTH_SOCK is not set";
            invalid("ssh", text, why).hint(format!(
                "start one and add a key: `eval $(ssh-agent); ssh-add`; or name the key's file: `--ssh {id}=FILE`"
            ))
        })?;
        return Ok((id.to_owned(), SshSource::Agent(socket)));
    }
    let mut sockets = Vec::new();
    let mut keys = Vec::new();
    for path in paths.split(',') {
        let path = PathBuf::from(path);
        let kind = fs::metadata(&path).map_err(|error| {
            let why = format!("cannot read `{}`: {error}", path.display());
            invalid("ssh", text, why)
        })?;
        match kind.file_type() {
            kind if kind.is_socket() => sockets.push(path),
            kind if kind.is_file() => keys.push(std::path::absolute(&path).unwrap_or(path)),
            _ => {
                let why = format!(
                    "`{}` is neither a key nor an agent's socket",
                    path.display()
                );
                return Err(invalid("ssh", text, why));
            }
        }
    }
    match (sockets.pop(), sockets.is_empty() && keys.is_empty()) {
        (None, _) => Ok((id.to_owned(), SshSource::Keys(keys))),
        (Some(socket), true) => Ok((id.to_owned(), SshSource::Agent(socket))),
        (Some(_), false) => Err(invalid(
            "ssh",
            text,
            "an id is one agent's socket, or files of keys",
        )),
    }
}

#[cfg(test)]
mod t {
    use super::*;
    use snapbox::assert_data_eq;
    use snapbox::str;

    fn error<T: std::fmt::Debug>(result: Result<T, Diagnostic>) -> String {
        ui::render(&result.unwrap_err(), false) + "\n"
    }

    #[test]
    fn contexts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("Dockerfile");
        fs::write(&file, "").unwrap();
        assert_eq!(context(Path::new("-")).unwrap(), ContextSource::Stdin);
        assert_eq!(
            context(dir.path()).unwrap(),
            ContextSource::Directory(dir.path().to_owned())
        );
        for url in ["https://h/a/b.git#main", "github.com/a/b", "git@h:a"] {
            let remote = ContextSource::Remote(url.to_owned());
            assert_eq!(context(Path::new(url)).unwrap(), remote);
        }
        let paths = ["imgaes", "rn", "compose", "nowhere/at/all"];
        let mut text: String = paths
            .iter()
            .map(|path| error(context(Path::new(path))))
            .collect();
        let of_file = error(context(&file));
        text.push_str(&of_file.replace(&*dir.path().to_string_lossy(), "DIR"));
        assert_data_eq!(
            text,
            str![[r#"
error: the build context `imgaes` does not exist
hint: did you mean the command `images`?
error: the build context `rn` does not exist
hint: did you mean the command `run`?
error: the build context `compose` does not exist
hint: `rbuild bake` builds the services of a compose file
error: the build context `nowhere/at/all` does not exist
error: the build context `DIR/Dockerfile` is not a directory
hint: for a Dockerfile of another name: `-f DIR/Dockerfile DIRECTORY`

"#]]
        );
    }

    #[test]
    fn named_contexts() {
        let image = |reference: &str| {
            NamedContextSource::Image(SourceOp::Image(ImageSource {
                reference: reference.to_owned(),
                digest: None,
            }))
        };
        let layout = |path: &str, reference: Option<&str>| {
            NamedContextSource::Image(SourceOp::OciLayout(OciLayoutSource {
                path: path.to_owned(),
                reference: reference.map(str::to_owned),
                digest: None,
            }))
        };
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, name, want) in [
            ("src=/", "src", NamedContextSource::Directory("/".into())),
            (
                "docker.io/library/alpine:latest=docker-image://ghcr.io/me/alpine",
                "alpine",
                image("ghcr.io/me/alpine:latest"),
            ),
            (
                "alpine:3=docker-image://alpine:edge",
                "alpine:3",
                image("docker.io/library/alpine:edge"),
            ),
            (
                "base=oci-layout:///tmp/a:b/c",
                "base",
                layout("/tmp/a:b/c", None),
            ),
            (
                "base=oci-layout://./l:1.0",
                "base",
                layout("./l", Some("1.0")),
            ),
            (
                &format!("base=oci-layout://l:1@{digest}"),
                "base",
                layout("l", Some(&digest)),
            ),
        ] {
            assert_eq!(
                named_context(text).unwrap(),
                (name.to_owned(), want),
                "{text}"
            );
        }
        let wrong = [
            "src",
            "a=target:b",
            "a=/nowhere",
            "UP:x y=/",
            "a=docker-image://A",
        ];
        let text: String = wrong
            .iter()
            .map(|text| error(named_context(text)))
            .collect();
        assert_data_eq!(
            text,
            str![[r#"
error: `--build-context src`: wanted `name=source`
error: `--build-context a=target:b`: `target:` means something to `docker buildx bake` only
error: `--build-context a=/nowhere`: `/nowhere` is not a directory
error: `--build-context UP:x y=/`: `UP:x y` is not an image reference: a tag is up to 128 letters, digits, `_`, `.` and `-`, and begins with none of `.` and `-`
error: `--build-context a=docker-image://A`: `A` is not an image reference: a repository is written in lower case

"#]]
        );
    }

    #[test]
    fn secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "s3cr3t\n").unwrap();
        let path_text = path.to_str().unwrap();
        let env = Env::of([("TOKEN", "from env"), ("EMPTY", "")]);
        let value = |text: &str| SecretSource::Value(Secret(text.as_bytes().to_vec()));
        for (text, id, want, bytes) in [
            (
                format!("id=a,src={path_text}"),
                "a",
                SecretSource::File(path.clone()),
                "s3cr3t\n",
            ),
            (
                format!("type=file,id=a,source={path_text}"),
                "a",
                SecretSource::File(path.clone()),
                "s3cr3t\n",
            ),
            ("id=a,env=TOKEN".into(), "a", value("from env"), "from env"),
            (
                "type=env,id=a,src=TOKEN".into(),
                "a",
                value("from env"),
                "from env",
            ),
            ("id=TOKEN".into(), "TOKEN", value("from env"), "from env"),
            ("id=a,env=EMPTY".into(), "a", value(""), ""),
            ("id=null,src=/dev/null".into(), "null", value(""), ""),
        ] {
            let got = secret(&text, &env).unwrap();
            assert_eq!(
                got,
                (id.to_owned(), want, bytes.as_bytes().to_vec()),
                "{text}"
            );
        }
        let big = dir.path().join("big");
        fs::write(&big, vec![0; 500 * 1024 + 1]).unwrap();
        let wrong = [
            "src=x".to_owned(),
            "id=a,type=pipe".to_owned(),
            "id=a,mode=0400".to_owned(),
            "id=a,env=UNSET".to_owned(),
            "id=a,src=/nowhere".to_owned(),
            "id=alone".to_owned(),
            "id".to_owned(),
            format!("id=a,src={}", big.display()),
        ];
        let text: String = wrong.iter().map(|text| error(secret(text, &env))).collect();
        let text = text.replace(&*dir.path().to_string_lossy(), "DIR");
        assert_data_eq!(
            text,
            str![[r#"
error: `--secret src=x`: `id=` is missing
error: `--secret id=a,type=pipe`: there is no type `pipe`
hint: the types are `file` and `env`
error: `--secret id=a,mode=0400`: there is no option `mode`
hint: the options are `id`, `src`, `env` and `type`
error: `--secret id=a,env=UNSET`: the environment variable `UNSET` is not set
error: `--secret id=a,src=/nowhere`: cannot read `/nowhere`: No such file or directory (os error 2)
error: `--secret id=alone`: cannot read `alone`: No such file or directory (os error 2)
error: `--secret id`: `id` is not of the form `key=value`
error: `--secret id=a,src=DIR/big`: `DIR/big` is larger than 512.00kB

"#]]
        );
    }

    #[test]
    fn ssh_agents() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let env = Env::of([("SSH_AUTH_SOCK", "/agent")]);
        assert_eq!(
            ssh("default", &env).unwrap(),
            ("default".into(), SshSource::Agent("/agent".into()))
        );
        let text = format!("git={}", socket.display());
        let agent = SshSource::Agent(socket.clone());
        assert_eq!(ssh(&text, &Env::default()).unwrap(), ("git".into(), agent));
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        for key in [&one, &two] {
            fs::write(key, "a key").unwrap();
        }
        let text = format!("git={},{}", one.display(), two.display());
        let keys = SshSource::Keys(vec![one.clone(), two]);
        assert_eq!(ssh(&text, &Env::default()).unwrap(), ("git".into(), keys));
        let both = format!("git={},{}", one.display(), socket.display());
        assert!(error(ssh(&both, &Env::default())).contains("one agent's socket, or files"));
        let text: String = ["default", "k=/dev/null", "k=/nowhere"]
            .iter()
            .map(|text| error(ssh(text, &Env::default())))
            .collect();
        assert_data_eq!(
            text,
            str![[r#"
error: `--ssh default`: there is no ssh agent: SSH_AUTH_SOCK is not set
hint: start one and add a key: `eval $(ssh-agent); ssh-add`; or name the key's file: `--ssh default=FILE`
error: `--ssh k=/dev/null`: `/dev/null` is neither a key nor an agent's socket
error: `--ssh k=/nowhere`: cannot read `/nowhere`: No such file or directory (os error 2)

"#]]
        );
    }

    #[test]
    fn image_names() {
        assert_eq!(
            image_name("tag", "app").unwrap(),
            "docker.io/library/app:latest"
        );
        assert_eq!(
            image_name("tag", "ghcr.io/me/app:1").unwrap(),
            "ghcr.io/me/app:1"
        );
        let pinned = format!("app@sha256:{}", "0".repeat(64));
        assert!(image_name("tag", &pinned).is_err());
        assert!(image_name("image", &pinned).is_ok());
        assert!(
            error(image_name("tag", "App"))
                .starts_with("error: `--tag`: `App` is not an image reference: ")
        );
    }
}
