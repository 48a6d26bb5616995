//! The two calls, and what BuildKit's graphs do not show.

use rbuild_llb::config::RunConfig;
use rbuild_llb::frontend::NamedContext;
use rbuild_llb::op::GitSource;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::LocalSource;

use super::*;

fn image(reference: &str) -> SourceOp {
    SourceOp::Image(ImageSource {
        reference: reference.to_owned(),
        digest: None,
    })
}

fn local(name: &str, exclude: &[&str]) -> SourceOp {
    SourceOp::Local(LocalSource {
        name: name.to_owned(),
        include: Vec::new(),
        exclude: exclude.iter().map(|p| (*p).to_owned()).collect(),
        modes: Default::default(),
    })
}

fn sources(request: &FrontendRequest) -> Vec<(SourceOp, String)> {
    let outline = Dockerfile::default().outline(request).unwrap();
    let source = |r: SourceRequest| (r.source, r.platform.to_string());
    outline.sources.into_iter().map(source).collect()
}

fn names(request: &FrontendRequest) -> Vec<String> {
    let converted = build(None, request).unwrap();
    let steps = converted.definition.prune();
    steps.iter().map(|(_, v)| v.meta.name.clone()).collect()
}

#[test]
fn the_outline_has_what_the_target_needs_and_no_more() {
    let mut request = request(
        "FROM never AS unused\nRUN x\n\
         FROM --platform=$BUILDPLATFORM golang:1 AS build\nCOPY . .\nADD https://h/f /f\n\
         FROM alpine\nCOPY --from=build /a /a\nCOPY --from=busybox /b /b\nADD https://h/$X /x\n",
    );
    request.target_platform = Platform::new("linux", "arm64", "");
    request.ignore = Some(file(".dockerignore", "*.log\n"));
    let http = &sources(&request)[4];
    assert!(matches!(&http.0, SourceOp::Http(h) if h.url == "https://h/f" && h.filename == "f"));
    assert_eq!(
        sources(&request)[..4],
        [
            (image("docker.io/library/golang:1"), "linux/amd64".into()),
            (
                image("docker.io/library/alpine:latest"),
                "linux/arm64".into()
            ),
            (
                image("docker.io/library/busybox:latest"),
                "linux/arm64".into()
            ),
            (local("context", &["*.log"]), "linux/amd64".into()),
        ]
    );
    let outline = Dockerfile::default().outline(&request).unwrap();
    assert_eq!(outline.reachable, ["build", "stage-2"]);
}

#[test]
fn targets_go_by_name() {
    let mut request = request("FROM a AS Build\nRUN 1\nFROM b\nRUN 2\n");
    request.targets = vec!["BUILD".to_owned()];
    let converted = build(None, &request).unwrap();
    assert_eq!(converted.definition.outputs[0].name, "build");
    request.targets = vec!["0".to_owned()];
    build(None, &request).unwrap_err();
}

#[test]
fn missing_pins_are_asked_for() {
    let request = request("ARG V\nFROM a\nENV F=f\nADD https://h/$F /x\nADD git@h:r.git /y\n");
    let mut pins = Pins::default();
    let mut asked = Vec::new();
    loop {
        match Dockerfile::default().convert(&request, &pins).unwrap() {
            Conversion::Done(_) => break,
            Conversion::NeedsSources(more) => {
                asked.push(more.len());
                for source in more {
                    let pin = answer(None, &source);
                    pins.insert(source.source, source.platform, pin);
                }
            }
        }
    }
    // The image and the repository can be told at once; the URL only when the base is known.
    assert_eq!(asked, [2, 1]);
}

#[test]
fn the_commit_demanded_is_asked_for() {
    let request = request("FROM scratch\nADD --checksum=cccc git@h:r.git#v1 /y\n");
    let checksum = sources(&request)
        .into_iter()
        .map(|(source, _)| match source {
            SourceOp::Git(git) => git.checksum,
            other => panic!("{other:?}"),
        });
    assert_eq!(checksum.collect::<Vec<_>>(), [Some("cccc".to_owned())]);
}

#[test]
fn named_contexts_stand_in_for_stages_images_and_sources() {
    let mut request = request(
        "FROM golang AS build\nRUN make\nFROM alpine\nCOPY --from=build / /b\n\
         COPY --from=docs / /d\nRUN --mount=from=repo,target=/r x\n",
    );
    let git = SourceOp::Git(GitSource {
        remote: "https://h/r.git".into(),
        reference: "main".into(),
        subdir: String::new(),
        keep_git_dir: false,
        skip_submodules: false,
        checksum: None,
        commit: None,
    });
    request.contexts = BTreeMap::from([
        (
            "build".into(),
            NamedContext::Local {
                exclude: Vec::new(),
            },
        ),
        (
            "alpine".into(),
            NamedContext::Image(image("docker.io/me/alpine:1")),
        ),
        (
            "docs".into(),
            NamedContext::Local {
                exclude: Vec::new(),
            },
        ),
        ("repo".into(), NamedContext::Source(git.clone())),
    ]);
    assert_eq!(
        sources(&request),
        [
            (local("build", &[]), "linux/amd64".into()),
            (image("docker.io/me/alpine:1"), "linux/amd64".into()),
            (local("docs", &[]), "linux/amd64".into()),
            (git, "linux/amd64".into()),
        ]
    );
    let digest = format!("sha256:{}", "ab".repeat(32));
    let mut names = names(&request);
    names.sort();
    assert_eq!(
        names,
        [
            format!("[context alpine] docker.io/me/alpine:1@{digest}"),
            "[context build] load from client".into(),
            "[context docs] load from client".into(),
            "[context repo] https://h/r.git".into(),
            "[stage-1 1/4] COPY --from=build / /b".into(),
            "[stage-1 2/4] COPY --from=docs / /d".into(),
            "[stage-1 3/4] RUN --mount=from=repo,target=/r x".into(),
        ]
    );
}

fn with_triggers(triggers: &[&str]) -> Pin {
    Pin::Image {
        digest: OciDigest::from_bytes([0xab; 32]),
        config: Box::new(ImageConfig {
            config: RunConfig {
                on_build: triggers.iter().map(|t| (*t).to_owned()).collect(),
                ..RunConfig::default()
            },
            rootfs: rbuild_llb::config::RootFs {
                diff_ids: vec![OciDigest::from_bytes([1; 32])],
                ..Default::default()
            },
            ..ImageConfig::scratch(&amd64())
        }),
    }
}

#[test]
fn triggers_of_a_base_run_first_and_may_name_sources() {
    let request = request("FROM node:onbuild\nRUN after\n");
    let mut pins = Pins::default();
    let pin = with_triggers(&["COPY --from=tools:1 /t /t", "RUN <<EOT\nbuild\nEOT"]);
    pins.insert(image("docker.io/library/node:onbuild"), amd64(), pin);
    let Conversion::NeedsSources(more) = Dockerfile::default().convert(&request, &pins).unwrap()
    else {
        panic!("the trigger's image is not known yet");
    };
    assert_eq!(more[0].source, image("docker.io/library/tools:1"));
    assert_eq!(more[0].span.as_ref().unwrap().text(), "node:onbuild");
    pins.insert(more[0].source.clone(), amd64(), with_triggers(&[]));
    let Conversion::Done(converted) = Dockerfile::default().convert(&request, &pins).unwrap()
    else {
        panic!("all is pinned");
    };
    let steps = converted.definition.prune();
    let names: Vec<&str> = steps.iter().map(|(_, v)| v.meta.name.as_str()).collect();
    assert_eq!(
        names[2..],
        [
            "[2/4] ONBUILD COPY --from=tools:1 /t /t",
            "[3/4] ONBUILD RUN <<EOT (build)",
            "[4/4] RUN after",
        ]
    );
    assert!(steps.outputs[0].config.config.on_build.is_empty());
}

#[test]
fn problems_of_a_trigger_are_shown_where_the_base_is_named() {
    let request = request("FROM bad\n");
    let mut pins = Pins::default();
    let base = image("docker.io/library/bad:latest");
    pins.insert(base, amd64(), with_triggers(&["CPOY a b"]));
    let errors = Dockerfile::default().convert(&request, &pins).unwrap_err();
    assert_eq!(errors[0].message, "unknown instruction `CPOY`");
    assert_eq!(errors[0].labels[0].span.text(), "bad");
    assert_eq!(
        errors[0].labels[0].text,
        "a trigger of this base (`ONBUILD`)"
    );
}

#[test]
fn proxies_are_not_in_the_environment_unless_declared() {
    let mut request = request("FROM a\nRUN x\nARG http_proxy\nRUN y\n");
    request.build_args.insert("http_proxy".into(), "p".into());
    let converted = build(None, &request).unwrap();
    let envs: Vec<bool> = converted
        .definition
        .iter()
        .filter_map(|(_, v)| match &v.op {
            rbuild_llb::Op::Exec(op) => {
                assert_eq!(op.proxy_env.env, ["HTTP_PROXY=p", "http_proxy=p"]);
                Some(op.env.contains(&"http_proxy=p".to_owned()))
            }
            _ => None,
        })
        .collect();
    assert_eq!(envs, [false, true]);
}

#[test]
fn a_base_without_layers_is_an_empty_file_system() {
    let request = request("FROM empty\nLABEL a=b\n");
    let mut pins = Pins::default();
    let config = ImageConfig::scratch(&amd64());
    let pin = Pin::Image {
        digest: OciDigest::from_bytes([2; 32]),
        config: Box::new(config),
    };
    pins.insert(image("docker.io/library/empty:latest"), amd64(), pin);
    let Conversion::Done(converted) = Dockerfile::default().convert(&request, &pins).unwrap()
    else {
        panic!("all is pinned");
    };
    assert_eq!(converted.definition.outputs[0].root, None);
    assert!(converted.definition.is_empty());
}

#[test]
fn history_has_an_entry_with_a_layer_for_each_step() {
    for case in cases() {
        let converted = build(Some(&case), &case_request(&case)).unwrap();
        let output = &converted.definition.outputs[0];
        let made = |entry: &&History| entry.comment == "buildkit.dockerfile.v0";
        let layers = output.config.history.iter().filter(made);
        let layers = layers.filter(|entry| !entry.empty_layer).count();
        // The chain of file systems under the root, down to the base.
        let (mut steps, mut at) = (0, output.root);
        while let Some(vertex) = at.and_then(|edge| converted.definition.get(&edge.vertex)) {
            at = match &vertex.op {
                rbuild_llb::Op::Exec(op) => op.mounts[0].input.map(|i| vertex.inputs[i]),
                rbuild_llb::Op::File(op) => match op.actions[0].input {
                    rbuild_llb::op::FileInput::Input(i) => Some(vertex.inputs[i]),
                    _ => None,
                },
                _ => break,
            };
            steps += 1;
        }
        assert_eq!(steps, layers, "{}", case.display());
    }
}

#[test]
fn every_step_points_at_its_instruction() {
    let (definition, _) = convert("FROM a\nRUN <<E\nx\nE\nCOPY \\\n a b\n");
    let spans: Vec<&str> = definition
        .iter()
        .map(|(_, v)| v.meta.spans[0].text())
        .collect();
    assert_eq!(
        spans,
        ["FROM a", "RUN <<E\nx\nE", "COPY \\\n a b", "COPY \\\n a b"]
    );
}
