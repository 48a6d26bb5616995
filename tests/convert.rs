//! Dockerfiles as plans, and plans as Dockerfiles: what one built, the other finds in the cache, and the image is the same.

use snapbox::str;

use crate::support::Base;
use crate::support::FileServer;
use crate::support::TestEnv;

/// Builds with a file, into an archive. What ran, and the digest of the image.
fn build(env: &TestEnv, file: &str) -> (Vec<String>, String) {
    let archive = format!("{}.tar", env.outside(file).display());
    let output = format!("type=oci,dest={archive}");
    let built = env
        .rbuild(["-f", file, "--progress=plain", "-o", &output, "."])
        .success();
    let archive = format!("oci-archive:{archive}");
    let inspected = env
        .tool("skopeo", ["inspect", "--format={{.Digest}}", &archive])
        .success();
    // The context is looked at in each build; that is no step of it.
    let mut ran = built.ran();
    ran.retain(|step| step != "load from client");
    (ran, inspected.stdout)
}

/// Dockerfiles of different kinds, for a context with `a.txt`, `dir/b.txt` and `dir/b.log`.
const KINDS: [(&str, &str); 8] = [
    (
        "plain",
        "FROM busybox\nENV A=1 B=\"x y\"\nWORKDIR /app\nCOPY a.txt .\nRUN echo \"$A $B\" > out && \\\n    cat a.txt >> out\nEXPOSE 80\nCMD [\"cat\", \"out\"]\n",
    ),
    (
        "stages",
        "ARG TAG=latest\nFROM busybox:$TAG AS build\nARG WHO=world\nRUN echo hello $WHO > /greeting\nFROM busybox AS unused\nRUN false\nFROM scratch\nCOPY --from=build --chown=7:8 --chmod=640 /greeting /etc/\nCOPY --link dir /dir\nENTRYPOINT [\"/x\"]\n",
    ),
    (
        "variables",
        "FROM busybox\nARG V=1\nENV V2=$V\nARG DIR=/opt/${V2}\nENV V=3\nWORKDIR $DIR\nRUN pwd > /pwd && echo $V $V2 > /values\nLABEL v=\"$V\" \"a b\"=c\nUSER app\nRUN id > id || id > /tmp/id\n",
    ),
    (
        "mounts",
        "FROM busybox\nRUN --mount=type=cache,target=/c,id=twin-mounts --mount=type=tmpfs,target=/t,size=1m --mount=target=/ctx echo x > /c/x && cp /ctx/a.txt /a && touch /t/y\nRUN --network=none --mount=from=busybox,source=/bin,target=/b ls /b/sh > /list\n",
    ),
    (
        "documents",
        "FROM busybox\nRUN <<END\necho one > /1\n  echo two > /2\nEND\nCOPY <<\"END\" /conf/\n$not \\expanded \"q\" 'r'\nEND\nRUN <<EOF\n#!/bin/sh\necho $0 > /3\nEOF\n",
    ),
    (
        "config",
        "FROM busybox\nMAINTAINER A B <a@example.org>\nSHELL [\"/bin/ash\", \"-c\"]\nCMD echo {args.x} {{platform}}\nENTRYPOINT [\"/bin/sh\"]\nHEALTHCHECK --interval=1m30s --retries=3 CMD true\nVOLUME /data /more\nSTOPSIGNAL SIGINT\nONBUILD RUN true\nRUN echo '{env.HOME}' > /braces\nUSER 7:8\n",
    ),
    (
        "patterns",
        "FROM scratch\nCOPY --exclude=*.log dir* /d/\nCOPY --parents dir/./b.* /p/\nADD dir/b.txt a.txt /add/\nCOPY [\"a.txt\", \"/with blank/a b\"]\n",
    ),
    (
        "chained",
        "FROM busybox AS one\nARG A=1\nENV B=2\nCMD [\"c\"]\nFROM one AS two\nARG C=3\nRUN echo $A $B $C > /abc\nENTRYPOINT [\"e\"]\nFROM two\nRUN cat /abc\nENV A=$A-$C\n",
    ),
];

fn context() -> TestEnv {
    TestEnv::new()
        .bases([Base::Busybox])
        .file("a.txt", "a\n")
        .file("dir/b.txt", "b\n")
        .file("dir/b.log", "log\n")
        .file(".dockerignore", "# nothing of this\n*.toml\nDockerfile*\n")
}

#[test]
fn a_plan_finds_all_of_its_dockerfile_in_the_cache_and_makes_the_same_image() {
    for (kind, text) in KINDS {
        let env = context().file("Dockerfile", text);
        let converted = env
            .rbuild(["convert", "--strict", "Dockerfile", "-o", "rbuild.toml"])
            .success();
        assert_eq!(converted.stderr, "", "{kind}");
        let (ran, digest) = build(&env, "Dockerfile");
        assert!(!ran.is_empty(), "{kind}: nothing was built");
        let plan = std::fs::read_to_string(env.path("rbuild.toml")).unwrap();
        assert_eq!(
            build(&env, "rbuild.toml"),
            (Vec::new(), digest.clone()),
            "{kind}\n{plan}"
        );

        // And the way back; a plan says how times count, a Dockerfile does not.
        env.rbuild(["convert", "rbuild.toml", "-o", "Dockerfile.back"])
            .success();
        let back = std::fs::read_to_string(env.path("Dockerfile.back")).unwrap();
        env.write("Dockerfile.back.dockerignore", "*.toml\nDockerfile*\n");
        assert_eq!(
            build(&env, "Dockerfile.back"),
            (Vec::new(), digest),
            "{kind}\n{back}"
        );
    }
}

#[test]
fn files_of_servers_are_the_same_in_both() {
    let env = context();
    let served = env.outside("served");
    std::fs::create_dir(&served).unwrap();
    std::fs::write(served.join("f.txt"), "from a server\n").unwrap();
    let server = FileServer::start(served);
    let url = server.url("f.txt");
    env.write(
        "Dockerfile",
        format!("FROM scratch\nARG DIR=/srv\nADD --chmod=640 {url} $DIR/\n"),
    );
    env.rbuild(["convert", "--strict", "Dockerfile", "-o", "rbuild.toml"])
        .success();
    let (ran, digest) = build(&env, "Dockerfile");
    assert_eq!(ran.len(), 1);
    assert_eq!(build(&env, "rbuild.toml"), (Vec::new(), digest));
}

#[test]
fn what_the_other_language_cannot_say_is_named() {
    let env = context().file(
        "Dockerfile",
        "FROM busybox\nARG V=none\nLABEL v=${V%e}\nCOPY <<a <<b /dst/\n1\na\n2\nb\n",
    );
    let converted = env.rbuild(["convert", "Dockerfile"]).success();
    converted.is(str![[r#"
schema = 1

[args]
V = "none"

[inputs]
busybox = { image = "busybox" }

[step.app]
from = "busybox"
args = ["V"]

[step.app.image]
labels = { v = "non" }

[[step.app.then]]
copy = [{ to = "/dst/", name = "a", text = "1/n" }, { to = "/dst/", name = "b", text = "2/n" }]

[output.app]
step = "app"
times = "keep"
---- stderr ----
warning: a plan cannot say this: `${V%e}`
 --> Dockerfile:3:9
  |
3 | LABEL v=${V%e}
  |         ^^^^^^ it is written as what it is now: `non`
warning: a plan cannot say this: several here-documents or kinds of sources at once
 --> Dockerfile:4:1
  |
4 | / COPY <<a <<b /dst/
5 | | 1
6 | | a
7 | | 2
8 | | b
  | |_^ each is a copy of its own in the plan, and a layer of its own

"#]]);
    let strict = env.rbuild(["convert", "--strict", "Dockerfile"]).code(2);
    assert_eq!(strict.stdout, "");
    assert_eq!(strict.stderr, converted.stderr);
}

#[test]
fn a_file_that_is_wrong_or_not_there_is_not_converted() {
    let env = context()
        .file("Dockerfile", "FROM busybox\nRUNN true\n")
        .file(
            "wrong.toml",
            "schema = 1\n[step.a]\nfrom = \"b\"\n[output.a]\nstep = \"a\"\n",
        );
    env.rbuild(["convert", "Dockerfile"])
        .code(2)
        .says("unknown instruction `RUNN`");
    env.rbuild(["convert", "wrong.toml"])
        .code(2)
        .says("there is no step or input `b`");
    env.rbuild(["convert", "nothing"])
        .code(2)
        .says("`nothing` does not exist");
}
