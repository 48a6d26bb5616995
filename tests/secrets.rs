//! Secrets are written nowhere: all of the store, and all that was said, is looked through for them.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use regex::bytes::Regex;

use crate::support::Base;
use crate::support::FileServer;
use crate::support::Output;
use crate::support::Registry;
use crate::support::TestEnv;
use crate::support::USER;

/// What must not be found, each with what it was: words that occur nowhere else.
const SECRETS: [(&str, &str); 8] = [
    ("a file that is mounted", "mountedQ7pLx2vN9sK4"),
    ("a variable that is mounted", "variableT3mZ8wRb5cHd"),
    (TOKEN, "argumentY6kJf1qWn0gE"),
    (KEY, "deployedR4gYc8uPz1oA"),
    (AUTHORISED, "authoriseE5nHs3vFk6iL"),
    (
        "a password in the URL of the context",
        "userinfoB9xVh2sDt7uM",
    ),
    ("a registry's password", USER.1),
    ("a registry's password as it is sent", AUTH),
];
/// Build arguments whose names say so.
const TOKEN: &str = "API_TOKEN";
const KEY: &str = "DEPLOY_KEY";
const AUTHORISED: &str = "NPM_AUTH";
const ARGUMENTS: [&str; 3] = [TOKEN, KEY, AUTHORISED];
/// `rebecca:geheim`
const AUTH: &str = "cmViZWNjYTpnZWhlaW0=";

/// What has been said so far, by which command.
struct Said(Vec<(String, Vec<u8>)>);

impl Said {
    fn note(&mut self, by: &str, output: &Output) {
        self.0
            .push((by.to_owned(), output.to_string().into_bytes()));
    }

    /// Everything in a directory, with what is compressed unpacked as well.
    fn read(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = path.display().to_string();
            self.0
                .push((format!("the name {name}"), name.clone().into_bytes()));
            if kind.is_dir() {
                self.read(&path);
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                self.0
                    .push((name, target.into_os_string().into_encoded_bytes()));
            } else if !kind.is_char_device() {
                self.unpack(&name, &fs::read(&path).unwrap());
            }
        }
    }

    /// The bytes, and what comes of every frame of zstd and every member of gzip in them, wherever it begins: several tree
    /// objects are one file, layers are in archives.
    fn unpack(&mut self, name: &str, bytes: &[u8]) {
        for begin in Regex::new(r"(?-u)\x28\xb5\x2f\xfd|\x1f\x8b\x08")
            .unwrap()
            .find_iter(bytes)
        {
            let (packed, mut unpacked) = (&bytes[begin.start()..], Vec::new());
            // What only looks like the beginning of one, or is cut off, gives what it gives.
            let read = match packed[0] {
                0x1f => flate2::read::GzDecoder::new(packed).read_to_end(&mut unpacked),
                _ => zstd::Decoder::with_buffer(packed)
                    .and_then(|frame| frame.single_frame().read_to_end(&mut unpacked)),
            };
            drop(read);
            if !unpacked.is_empty() {
                self.unpack(&format!("{name}, unpacked"), &unpacked);
            }
        }
        self.0.push((name.to_owned(), bytes.to_owned()));
    }

    /// Where something is, by the names of the commands and files.
    fn places_of(&self, wanted: &str) -> Vec<&str> {
        let wanted = Regex::new(&regex::escape(wanted)).unwrap();
        let places = self.0.iter().filter(|(_, bytes)| wanted.is_match(bytes));
        places.map(|(name, _)| name.as_str()).collect()
    }
}

const DOCKERFILE: &str = r#"FROM busybox
ARG API_TOKEN
ARG DEPLOY_KEY
ARG NPM_AUTH
RUN test -n "$API_TOKEN$DEPLOY_KEY$NPM_AUTH" && echo public-of-argument > /argument
RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=PASS \
    cat /run/secrets/file; echo "$PASS" >&2; printf '%.6s' "$PASS"; printf '%s\n' "${PASS#??????}"; echo public-of-step
COPY note /
COPY deep/ /deep/
"#;

#[test]
fn secrets_are_in_no_file_of_the_store_and_in_no_output() {
    let secret = |wanted: &str| {
        let mut all = SECRETS.iter();
        all.find(|(what, _)| *what == wanted).unwrap().1
    };
    let [file, variable, ..] = SECRETS.map(|(_, secret)| secret);
    let userinfo = secret("a password in the URL of the context");
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", DOCKERFILE)
        .file("note", "public-of-context\n")
        .file("deep/er/public-of-tree", "");
    fs::write(env.outside("file"), format!("{file}\n")).unwrap();
    let mut said = Said(Vec::new());
    let build = |more: &[&str]| {
        let mut build = env.rbuild_command(more);
        build.args([
            "--secret=id=variable,env=VARIABLE",
            "--build-arg=API_TOKEN",
            "--build-arg=DEPLOY_KEY",
            "--build-arg=NPM_AUTH",
            &format!("--secret=id=file,src={}", env.outside("file").display()),
        ]);
        env.run(
            build
                .env("VARIABLE", variable)
                .envs(ARGUMENTS.map(|name| (name, secret(name)))),
        )
    };
    for more in [
        &["--progress=plain", "-t", "one", "."][..],
        &[
            "--progress=rawjson",
            "--no-cache",
            "-t",
            "two",
            "-o",
            "type=oci,dest=../state/out.tar",
            ".",
        ],
        &["--progress=plain", "--metadata-file=../state/metadata", "."],
    ] {
        said.note(&more.join(" "), &build(more).success());
    }

    // Steps that print their secrets and fail, and ones that miss.
    env.write(
        "Dockerfile",
        DOCKERFILE.replace("public-of-step", "other; exit 3"),
    );
    for progress in ["--progress=plain", "--progress=rawjson", "--progress=tty"] {
        said.note("a step that fails", &build(&[progress, "."]).code(1));
    }
    env.write(
        "Dockerfile",
        DOCKERFILE.replace("ARG API_TOKEN", "ARG API_TOKEN=none\nARG OTHER"),
    );
    said.note(
        "a step that misses",
        &build(&["--progress=plain", "."]).success(),
    );
    // What the arguments were is known to this build from its records alone.
    let mut without = env.rbuild_command(["--progress=plain", "."]);
    without.args(ARGUMENTS.map(|name| format!("--build-arg={name}=another")));
    said.note("secrets that are missing", &env.run(&mut without).success());

    // What tells of builds afterwards.
    for words in [
        &["explain"][..],
        &["explain", "--format=json"],
        &["du", "--verbose"],
        &["history", "--no-trunc", "one"],
        &["inspect", "one"],
        &["plan", "--format=json", "."],
        &["debug", "dump-llb", "--format=json", "."],
        &["debug", "fsck"],
    ] {
        said.note(&words.join(" "), &env.rbuild(words));
    }

    // A context by URL, and one that is refused.
    let www = env.outside("www");
    fs::create_dir(&www).unwrap();
    let tar = ["-C", ".", "-cf", "../www/context.tar", "Dockerfile", "note"];
    env.write("Dockerfile", "FROM busybox\nCOPY note /\n");
    env.tool("tar", tar).success();
    let server = FileServer::start(www);
    for path in ["context.tar", "nothing.tar"] {
        let url = server
            .url(path)
            .replace("http://", &format!("http://user:{userinfo}@"));
        let built = env.rbuild(["--progress=plain", &url]);
        assert_eq!(built.status.success(), path == "context.tar", "{built}");
        said.note("a context with a password", &built);
    }
    let asked = server.asked();
    assert!(
        asked[0].starts_with("Basic "),
        "the password was sent: {asked:?}"
    );

    // A registry that wants a password: one that is right, and one that is not.
    let registry = Registry::closed();
    let image = format!("{}/me/one", registry.host());
    for auth in [AUTH, "cmViZWNjYTpnZWhlaW0hCg=="] {
        let config = format!(
            "{{\"auths\": {{\"{}\": {{\"auth\": \"{auth}\"}}}}}}",
            registry.host()
        );
        let path = env.outside("home/.docker");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("config.json"), config).unwrap();
        let pushed = env.rbuild(["--progress=plain", "-t", &image, "--push", "."]);
        assert_eq!(pushed.status.success(), auth == AUTH, "{pushed}");
        said.note("a push", &pushed);
        said.note("a pull", &env.rbuild(["pull", &image]));
    }

    said.read(&env.store());
    for public in ["public-of-context", "public-of-argument", "public-of-step"] {
        assert!(
            !said.places_of(public).is_empty(),
            "{public} should be found"
        );
    }
    // Where a secret would be hard to find: in one of several objects of a file, in a compressed layer of an archive.
    for (public, hidden) in [
        ("public-of-tree", "/trees/"),
        ("public-of-context", "/out.tar"),
    ] {
        let places = said.places_of(public);
        let found = |place: &&str| place.contains(hidden) && place.ends_with(", unpacked");
        assert!(places.iter().any(found), "{public}: {places:?}");
    }
    // A build argument is in the history of the image, as with BuildKit, whose lint says so.
    let history = |place: &str| {
        let config = place.contains("/blobs/") || place.ends_with("/out.tar");
        place.starts_with("history ") || config && !place.contains(", unpacked")
    };
    let found: Vec<(&str, Vec<&str>)> = SECRETS
        .iter()
        .map(|(what, secret)| {
            let places = said.places_of(secret).into_iter();
            let expected = |place: &&str| ARGUMENTS.contains(what) && history(place);
            (
                *what,
                places.filter(|place| !expected(place)).collect::<Vec<_>>(),
            )
        })
        .filter(|(_, places)| !places.is_empty())
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}
