//! Plans against Dockerfiles that say the same, and the laws of the language.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_dockerfile::Dockerfile;
use rbuild_llb::Diagnostic;
use rbuild_llb::Frontend;
use rbuild_llb::ImageConfig;
use rbuild_llb::OciDigest;
use rbuild_llb::Op;
use rbuild_llb::Platform;
use rbuild_llb::SourceFile;
use rbuild_llb::frontend::Conversion;
use rbuild_llb::frontend::Converted;
use rbuild_llb::frontend::FrontendRequest;
use rbuild_llb::frontend::Pin;
use rbuild_llb::frontend::Pins;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::SourceOp;

use crate::Plan;

mod examples;
mod fuzz;
mod laws;
mod reference;

pub(crate) fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

pub(crate) fn source(name: &str, text: &str) -> Arc<SourceFile> {
    Arc::new(SourceFile {
        name: name.to_owned(),
        text: text.to_owned(),
        language: "TOML",
    })
}

pub(crate) fn request(text: &str) -> FrontendRequest {
    FrontendRequest {
        target_platform: amd64(),
        build_platform: amd64(),
        ..FrontendRequest::new(source("rbuild.toml", text))
    }
}

/// Outlines, pins with answers of its own, and converts, as the pipeline does.
pub(crate) fn build(
    frontend: &dyn Frontend,
    request: &FrontendRequest,
) -> Result<Converted, Vec<Diagnostic>> {
    let mut wanted = frontend.outline(request)?.sources;
    let mut pins = Pins::default();
    for _ in 0..5 {
        for one in &wanted {
            let pin = match &one.source {
                SourceOp::Local(_) => continue,
                SourceOp::Git(_) => Pin::Git {
                    commit: "c".repeat(40),
                },
                SourceOp::Http(_) => Pin::Http {
                    checksum: OciDigest::from_bytes([0xcd; 32]),
                },
                SourceOp::Image(_) | SourceOp::OciLayout(_) => {
                    let mut config = ImageConfig::scratch(&one.platform);
                    config.config.env.push("PATH=/base/bin".to_owned());
                    config.rootfs.diff_ids.push(OciDigest::from_bytes([1; 32]));
                    Pin::Image {
                        digest: OciDigest::from_bytes([0xab; 32]),
                        config: Box::new(config),
                    }
                }
            };
            pins.insert(one.source.clone(), one.platform.clone(), pin);
        }
        match frontend.convert(request, &pins)? {
            Conversion::Done(converted) => return Ok(converted),
            Conversion::NeedsSources(more) => wanted = more,
        }
    }
    panic!("sources are asked for again and again")
}

pub(crate) fn plan(text: &str) -> Converted {
    build(&Plan::default(), &request(text)).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

pub(crate) fn errors(text: &str) -> Vec<String> {
    let errors = build(&Plan::default(), &request(text)).expect_err("the plan is wrong");
    errors.into_iter().map(|error| error.message).collect()
}

/// What a graph does, whatever its local sources are called and its steps are shown as.
pub(crate) fn essence(converted: Converted) -> Vec<String> {
    let pruned = converted.definition.prune();
    let mut names: BTreeMap<_, String> = BTreeMap::new();
    let mut lines = Vec::new();
    for (id, vertex) in pruned.iter() {
        let mut op = vertex.op.clone();
        if let Op::Source(SourceOp::Local(LocalSource { name, .. })) = &mut op {
            name.clear();
        }
        let inputs = vertex
            .inputs
            .iter()
            .map(|edge| format!("{}.{}", names[&edge.vertex], edge.output));
        let line = format!(
            "{op:?} of [{}] for {}",
            inputs.collect::<Vec<_>>().join(", "),
            vertex.platform
        );
        // An id that holds all that is below.
        names.insert(id, line.clone());
        lines.push(line);
    }
    lines.sort();
    lines.dedup();
    for output in &pruned.outputs {
        let root = output.root.map(|edge| names[&edge.vertex].clone());
        lines.push(format!("= {root:?} {:?}", output.config));
    }
    lines
}

/// A Dockerfile's graph, with all of the context but what is excluded.
fn dockerfile(text: &str) -> Converted {
    let mut request = request("");
    request.source = Arc::new(SourceFile {
        name: "Dockerfile".to_owned(),
        text: text.to_owned(),
        language: "Dockerfile",
    });
    build(&Dockerfile::default(), &request).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

const HEAD: &str = r#"
schema = 1
[inputs]
base = { image = "alpine:3" }
tools = { image = "alpine:3", platform = "build" }
ctx = { local = ".", modes = "exact" }
"#;

#[test]
fn a_plan_makes_the_steps_of_a_dockerfile_that_says_the_same() {
    for (docker, body) in [
        (
            "FROM alpine:3\nENV A=1 B='x y'\nWORKDIR /app\nUSER app:app\nCOPY a b* ./\nRUN make $A\nCMD [\"x\"]\n",
            r#"
[step.s]
from = "base"
env = { A = "1", B = "x y" }
workdir = "/app"
user = "app:app"
shell = ["/bin/sh", "-c"]
network = true
copy = [{ from = "ctx", path = ["a", "b*"], to = "./" }]
run = ["make $A"]
image = { cmd = ["x"] }
[output.o]
step = "s"
"#,
        ),
        (
            "FROM alpine:3 AS b\nRUN --network=none [\"make\"]\nFROM scratch\nCOPY --from=b --chown=1:2 --chmod=755 --link --exclude=*.o /out /out\nCOPY --parents x/./y/*.c /src/\n",
            r#"
[step.b]
from = "base"
run = [["make"]]
[step.s]
from = "scratch"
copy = [
  { from = "b", path = "/out", to = "/out", owner = "1:2", mode = "755", link = true, exclude = ["*.o"] },
  { from = "ctx", path = "x", include = ["y/*.c"], to = "/src/" },
]
[output.o]
step = "s"
"#,
        ),
        (
            "FROM alpine:3\nARG V=1.2\nARG TARGETARCH\nRUN --mount=type=bind,from=alpine:3,source=/etc,target=/e,rw --mount=type=cache,id=c,target=/c,sharing=locked,uid=5 --mount=type=secret,id=s,required=true --mount=type=secret,id=t,env=T,target=/t --mount=type=tmpfs,target=/m,size=1k --network=host --security=insecure go\n",
            r#"
[args]
V = "1.2"
[caches.c]
path = "/c"
sharing = "locked"
uid = 5
[step.s]
from = "base"
args = ["V", "TARGETARCH"]
shell = ["/bin/sh", "-c"]
network = "host"
security = "insecure"
mounts = [
  { from = "base", path = "/etc", to = "/e", write = true },
  { cache = "c" },
  { secret = "s" },
  { secret = { id = "t", env = "T", target = "/t", required = false } },
  { tmpfs = "/m", size = "1k" },
]
run = ["go"]
[output.o]
step = "s"
"#,
        ),
        (
            "FROM alpine:3\nADD --checksum=sha256:cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd --chmod=755 https://example.org/f /bin/\nADD --keep-git-dir=true https://example.org/r.git#v1:sub /r\nADD a.tar /a\n",
            r#"
[inputs.f]
url = "https://example.org/f"
sha256 = "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
mode = "755"
[inputs.r]
git = "https://example.org/r.git"
ref = "v1"
subdir = "sub"
keep-git-dir = true
[step.s]
from = "base"
copy = [
  { from = "f", to = "/bin/" },
  { from = "r", to = "/r" },
  { from = "ctx", path = "a.tar", to = "/a", unpack = true },
]
[output.o]
step = "s"
"#,
        ),
        (
            "FROM alpine:3\nMAINTAINER me\nSHELL [\"/bin/bash\",\"-c\"]\nENV P=\"/x:$PATH\"\nLABEL b=2 a=1\nLABEL c=3\nWORKDIR /w\nUSER u\nSTOPSIGNAL SIGINT\nEXPOSE 80 53/udp\nVOLUME /a /b\nENTRYPOINT [\"e\"]\nCMD [\"c\"]\nHEALTHCHECK --interval=30s --retries=3 CMD true\nONBUILD RUN x\n",
            r#"
[step.s]
from = "base"
[output.o]
step = "s"
[output.o.image]
author = "me"
shell = ["/bin/bash", "-c"]
env = { P = "/x:{env.PATH}" }
labels = [["b=2", "a=1"], "c=3"]
workdir = "/w"
user = "u"
stop-signal = "SIGINT"
expose = ["80", "53/udp"]
volumes = ["/a", "/b"]
entrypoint = ["e"]
cmd = ["c"]
healthcheck = { cmd = "true", interval = "30s", retries = 3 }
onbuild = ["RUN x"]
"#,
        ),
        (
            "FROM --platform=$BUILDPLATFORM alpine:3 AS t\nFROM alpine:3\nCOPY --from=t /x /x\nCOPY <<'f.txt' /etc/\nhello $X\nf.txt\nRUN <<EOF\n#!/usr/bin/env python\nprint(1)\nEOF\nCOPY opt.cf[g] /etc/\n",
            r##"
[step.s]
from = "base"
network = true
copy = [
  { from = "tools", path = "/x", to = "/x" },
  { text = "hello $X\n", name = "f.txt", to = "/etc/" },
]
run = ["#!/usr/bin/env python\nprint(1)\n"]
[step.s2]
from = "s"
copy = [{ from = "ctx", path = "opt.cfg", to = "/etc/", optional = true }]
[output.o]
step = "s2"
"##,
        ),
    ] {
        let ours = essence(plan(&format!("{HEAD}{body}")));
        let theirs = essence(dockerfile(docker));
        assert_eq!(ours, theirs, "{docker}");
    }
}

#[test]
fn a_dockerfile_is_an_input_and_a_step_is_its_named_context() {
    let docker = "FROM base AS builder\nARG V\nRUN make $V\nCOPY . /src\nFROM scratch\n";
    let file = Arc::new(SourceFile {
        name: "sub/Dockerfile".to_owned(),
        text: docker.to_owned(),
        language: "Dockerfile",
    });
    let ignore = Arc::new(SourceFile {
        name: "sub/.dockerignore".to_owned(),
        text: "*.o\n".to_owned(),
        language: "Dockerfile",
    });
    let text = r#"
schema = 1
[inputs]
alpine = { image = "alpine:3" }
old = { dockerfile = "sub/Dockerfile", target = "builder", args = { V = "2" }, contexts = { base = "tools" } }
[step.tools]
from = "alpine"
run = [["install"]]
[step.app]
from = "scratch"
copy = [{ from = "old", path = "/src", to = "/" }]
[output.o]
step = "app"
"#;
    let needs = Plan::default().needs(&source("rbuild.toml", text), "", &[]);
    let paths: Vec<&str> = needs.iter().map(|need| need.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "sub/Dockerfile.dockerignore",
            "sub/.dockerignore",
            "sub/Dockerfile"
        ]
    );
    let mut request = request(text);
    request.files = Arc::new(BTreeMap::from([
        ("sub/Dockerfile".to_owned(), file),
        ("sub/.dockerignore".to_owned(), ignore),
    ]));
    let converted = build(&Plan::default(), &request).unwrap();
    let names: Vec<String> = converted
        .definition
        .prune()
        .iter()
        .map(|(_, vertex)| match &vertex.op {
            Op::Source(SourceOp::Local(local)) => {
                assert_eq!((&*local.name, &*local.exclude.concat()), ("sub", "*.o"));
                "context".to_owned()
            }
            _ => vertex.meta.name.clone(),
        })
        .collect();
    assert_eq!(
        names,
        [
            "[tools 1/2] FROM docker.io/library/alpine:3@sha256:abababababababababababababababababababababababababababababababab",
            "[tools 2/2] RUN install",
            "[builder 1/2] RUN make 2",
            "context",
            "[builder 2/2] COPY . /src",
            "[app 1/1] COPY --from=old /src /",
        ]
    );
}
