use super::*;
use crate::cli::Cmd;
use crate::cli::config;
use crate::cli::flags::GlobalFlags;
use crate::cli::parse;
use crate::request::Compression;
use crate::request::ImageOutput;
use crate::request::NamedContextSource;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::request::Push;
use crate::ui::Terminal;
use rbuild_llb::op::SourceOp;
use snapbox::assert_data_eq;
use snapbox::str;
use std::cell::OnceCell;

/// The request of `rbuild ARGS…`; `args` are split at spaces.
fn try_prepare(args: &str, env: Env) -> Result<Prepared, String> {
    let argv = ["rbuild"].into_iter().chain(args.split(' '));
    let cli = parse(argv.map(Into::into).collect()).map_err(|error| error.to_string())?;
    let Cmd::Build(flags) = cli.command else {
        panic!("`{args}` is another command");
    };
    let terminal = Terminal {
        tty: false,
        color: false,
    };
    let (settings, _) = config::settings(&GlobalFlags::default(), &env).unwrap();
    let session = Session {
        settings,
        env,
        docker_proxies: OnceCell::new(),
        terminal,
        stdout_is_terminal: args.starts_with("-o - "),
        debug: false,
        of_steps_here: cli.global.of_steps_here(),
    };
    prepare(&flags, &session).map_err(|problems| {
        let rendered = problems.iter().map(|p| ui::render(p, false) + "\n");
        rendered.collect()
    })
}

fn home() -> Env {
    Env::of([("HOME", "/home/nobody")])
}

fn request(args: &str) -> BuildRequest {
    try_prepare(args, home()).unwrap().request
}

fn refusal(args: &str) -> String {
    try_prepare(args, home()).map(|p| p.request).unwrap_err()
}

#[test]
fn every_flag_reaches_the_request() {
    let request = request(
        "-f Dockerfile.dev -t app -t ghcr.io/me/app:1 --target web --build-arg A=1=2 --build-arg=B= \
         --label x=y --label z --build-context base=docker-image://alpine --platform linux/arm64,amd64 \
         --platform arm64 --no-cache-filter a,b --pull --network none --add-host db:10.0.0.1 \
         --add-host=v6=[::1] --ulimit nofile=1:2 --ulimit cpu=1 --ulimit nofile=3 --iidfile id --metadata-file m.json \
         --jobs 3 --allow security.insecure -o type=image,name=third:3 -o out --push /",
    );
    assert_eq!(request.context, ContextSource::Directory("/".into()));
    assert_eq!(request.file, Some(PlanFile::Path("Dockerfile.dev".into())));
    let tags: Vec<&str> = request.tags.iter().map(|tag| &*tag.name).collect();
    assert_eq!(
        tags,
        [
            "docker.io/library/app:latest",
            "ghcr.io/me/app:1",
            "docker.io/library/third:3"
        ]
    );
    assert_eq!(request.targets, ["web"]);
    let pairs = |map: &BTreeMap<String, String>| {
        let pairs = map.iter().map(|(k, v)| format!("{k}={v}"));
        pairs.collect::<Vec<_>>()
    };
    assert_eq!(pairs(&request.build_args), ["A=1=2", "B="]);
    assert_eq!(pairs(&request.labels), ["x=y", "z="]);
    let NamedContextSource::Image(SourceOp::Image(image)) = &request.named_contexts["base"] else {
        panic!("{:?}", request.named_contexts);
    };
    assert_eq!(image.reference, "docker.io/library/alpine:latest");
    let platforms: Vec<String> = request.platforms.iter().map(ToString::to_string).collect();
    assert_eq!(platforms, ["linux/arm64", "linux/amd64"]);
    assert_eq!(
        request.no_cache,
        NoCache::Stages(["a".to_owned(), "b".to_owned()].into())
    );
    assert!(request.pull && !request.offline);
    assert_eq!(request.network, NetworkMode::None);
    assert_eq!(
        request.extra_hosts,
        [
            ("db".to_owned(), "10.0.0.1".to_owned()),
            ("v6".to_owned(), "::1".to_owned())
        ]
    );
    let limits: Vec<_> = request
        .ulimits
        .iter()
        .map(|l| (&*l.name, l.soft, l.hard))
        .collect();
    assert_eq!(limits, [("cpu", 1, 1), ("nofile", 3, 3)]);
    assert_eq!(request.iidfile, Some("id".into()));
    assert_eq!(request.metadata_file, Some("m.json".into()));
    assert_eq!(request.jobs, Some(3));
    assert_eq!(
        request.allow,
        Entitlements {
            network_host: false,
            security_insecure: true
        }
    );
    let kinds: Vec<&OutputKind> = request.outputs.iter().map(|o| &o.kind).collect();
    assert_eq!(
        kinds,
        [
            &OutputKind::Image(ImageOutput::with_push(Push::ByName)),
            &OutputKind::Local {
                dest: "out".into(),
                split: None,
                delete: false,
            }
        ]
    );
}

#[test]
fn a_bare_request_has_docker_s_defaults() {
    let request = request("/");
    assert!(request.outputs.is_empty() && request.tags.is_empty() && request.platforms.is_empty());
    assert_eq!((request.file, request.targets), (None, Vec::new()));
    assert_eq!(
        (request.no_cache, request.network),
        (NoCache::Off, NetworkMode::Default)
    );
    assert_eq!(request.jobs, None);
    assert_eq!(request.allow, Entitlements::default());
    assert_eq!(request.source_date_epoch, None);
}

#[test]
fn switches_take_a_value_only_with_an_equals_sign() {
    let request =
        request("--pull --no-cache=false --push=0 --load -q --rm --force-rm=true --compress /");
    assert!(request.pull);
    assert_eq!(request.no_cache, NoCache::Off);
    assert_eq!(
        request.outputs,
        [OutputSpec::plain(OutputKind::Load { context: None })]
    );
    assert!(
        try_prepare("--pull=maybe /", home())
            .unwrap_err()
            .contains("`maybe` is neither")
    );
}

#[test]
fn the_last_of_a_repeated_flag_counts() {
    let request = request("--jobs 1 --jobs 2 --progress plain --progress tty /");
    assert_eq!(request.jobs, Some(2));
}

#[test]
fn several_targets_are_built_in_one_go() {
    let request = request("--target a --target= --target b --target a --also-run t -t a=x -t y /");
    assert_eq!(request.targets, ["a", "b"]);
    assert_eq!(request.also_run, ["t"]);
    let tags = request.tags.iter();
    let tags: Vec<_> = tags
        .map(|tag| (tag.target.as_deref(), &*tag.name))
        .collect();
    let name = |name| format!("docker.io/library/{name}:latest");
    assert_eq!(tags, [(Some("a"), &*name("x")), (None, &*name("y"))]);
}

#[test]
fn push_and_load_add_to_outputs() {
    let outputs = |args: &str| -> Vec<OutputKind> {
        let outputs = request(args).outputs;
        outputs.into_iter().map(|o| o.kind).collect()
    };
    let push = OutputKind::Image(ImageOutput::with_push(Push::ByName));
    let load = || OutputKind::Load { context: None };
    assert_eq!(outputs("-t a --push /"), std::slice::from_ref(&push));
    assert_eq!(outputs("-t a --push --load /"), [push, load()]);
    assert_eq!(outputs("--load -o type=docker /"), [load()]);
    // All of them, as buildx does, and by digest what is so already.
    let all = request("-t a --push -o type=image -o type=registry,push-by-digest=true /").outputs;
    let pushes: Vec<bool> = all.iter().map(|output| output.kind.pushes()).collect();
    assert_eq!(pushes, [true, true]);
    assert!(matches!(&all[1].kind, OutputKind::Image(image) if image.push == Push::ByDigest));
    let kept = request("-t a --push -o type=image,compression=zstd /");
    assert_eq!(kept.outputs.len(), 1);
    assert_eq!(kept.outputs[0].compression, Compression::Zstd(None));
}

#[test]
fn the_environment_fills_in() {
    let env = Env::of([
        ("HOME", "/home/nobody"),
        ("FROM_ENV", "value"),
        ("SOURCE_DATE_EPOCH", "1700000000"),
        ("DOCKER_DEFAULT_PLATFORM", "linux/arm64"),
        ("http_proxy", "http://proxy"),
    ]);
    let request = try_prepare("--build-arg FROM_ENV --build-arg UNSET /", env.clone())
        .unwrap()
        .request;
    assert_eq!(request.build_args["FROM_ENV"], "value");
    assert!(!request.build_args.contains_key("UNSET"));
    assert_eq!(request.build_args["SOURCE_DATE_EPOCH"], "1700000000");
    assert_eq!(request.source_date_epoch, Some(1_700_000_000));
    assert_eq!(request.platforms[0].arch, "arm64");
    assert_eq!(request.proxy_args["http_proxy"], "http://proxy");
    let flags_win = "--build-arg SOURCE_DATE_EPOCH=1 --platform amd64 /";
    let request = try_prepare(flags_win, env).unwrap().request;
    assert_eq!(request.source_date_epoch, Some(1));
    assert_eq!(request.platforms[0].arch, "amd64");
}

#[test]
fn what_is_said_and_what_is_printed() {
    let talk = |args: &str, progress: &str| {
        let env = Env::of([("HOME", "/home/nobody"), ("BUILDKIT_PROGRESS", progress)]);
        let talk = try_prepare(&format!("{args} /"), env).map(|p| p.talk);
        talk.map(|talk| (talk.mode, talk.print_id))
    };
    for (args, variable, want) in [
        ("--progress=auto", "", (ProgressMode::Auto, false)),
        ("--progress=auto", "plain", (ProgressMode::Plain, false)),
        ("--progress tty", "plain", (ProgressMode::Tty, false)),
        ("--progress rawjson", "", (ProgressMode::RawJson, false)),
        ("--progress quiet", "", (ProgressMode::Quiet, true)),
        ("--progress none", "", (ProgressMode::Quiet, false)),
        ("-q", "", (ProgressMode::Quiet, true)),
        ("-q", "plain", (ProgressMode::Quiet, true)),
        ("-q --progress quiet", "", (ProgressMode::Quiet, true)),
    ] {
        assert_eq!(talk(args, variable), Ok(want), "{args} {variable}");
    }
    assert_eq!(
        talk("-q --progress plain", ""),
        Err("error: `--progress plain` and `--quiet` cannot be used together\n".to_owned())
    );
    let words = "wanted `auto`, `tty`, `plain`, `rawjson`, `quiet` or `none`";
    let refused = Err(format!("error: `--progress fancy`: {words}\n"));
    assert_eq!(talk("--progress fancy", ""), refused);
    assert_eq!(talk("--progress auto", "fancy"), refused);
}

#[test]
fn secrets_are_kept_for_the_mask() {
    let env = Env::of([("HOME", "/home/nobody"), ("TOKEN", "swordfish")]);
    let prepared = try_prepare("--secret id=t,env=TOKEN /", env).unwrap();
    assert_eq!(prepared.secrets, [b"swordfish".to_vec()]);
    assert!(!format!("{:?}", prepared.request).contains("swordfish"));
}

#[test]
fn all_problems_are_told_at_once() {
    assert_data_eq!(
        refusal("-t App --ulimit x --network bridge --platform a/b/c/d --allow device /nowhere"),
        str![[r#"
error: the build context `/nowhere` does not exist
error: `--tag`: `App` is not an image reference: a repository is written in lower case
error: `--network bridge`: wanted `default`, `host` or `none`
error: `--platform a/b/c/d`: `a/b/c/d` is not a platform: wanted OS/ARCH[/VARIANT], such as `linux/amd64` or `linux/arm/v7`
error: `--ulimit x`: wanted `name=soft` or `name=soft:hard`
error: `--allow device`: there is nothing of that name to allow
hint: what can be allowed is `network.host`, `security.insecure` and `buildx.local.delete`

"#]]
    );
}

#[test]
fn contradictions() {
    let text: String = [
        "-f - -",
        "--pull --offline /",
        "--push /",
        "--push -t a --offline /",
        "-t a:1 -o type=registry,push-by-digest=true /",
        "-o type=docker,dest=x --platform amd64,arm64 /",
        "-o type=oci,dest=x,rewrite-timestamp=true /",
        "--iidfile x -o out /",
        "--annotation a --annotation layer:a=b --annotation manifest[x/y/z/a],index:b=c --annotation :x=y /",
        "-o type=local,dest=Cargo.toml -o type=oci,dest=src /",
        "-o type=local,dest=.,mode=delete /",
        "-o type=local,dest=/tmp,mode=delete /",
        "-o type=local,dest=nowhere/../..,mode=delete /",
        "-o type=oci -o - /",
        "-o - /",
        "-q -o - /",
        "-f git@example.org:x.git /",
        "--build-arg SOURCE_DATE_EPOCH=context --build-arg BUILDKIT_MULTI_PLATFORM=maybe /",
        "-o type=docker,dest=x --build-arg BUILDKIT_MULTI_PLATFORM=1 /",
    ]
    .iter()
    .map(|args| refusal(args))
    .collect();
    assert_data_eq!(
        text,
        str![[r#"
error: standard input cannot be both the context and the Dockerfile
hint: name one of them
error: `--pull` asks the network, `--offline` does not
error: there is no name to push the image under
hint: add `-t registry.example.org/name:tag`
error: `--offline` does not push
error: `a:1` has a tag, and is to be pushed by its digest alone
hint: leave the tag out, or `push-by-digest`
error: docker's archive holds one platform only, and no index
hint: use `-o type=oci,dest=FILE`, push, or build one platform at a time
error: `rewrite-timestamp=true` has no time to rewrite to
hint: set SOURCE_DATE_EPOCH, to `$(git log -1 --format=%ct)` perhaps
error: `--iidfile` wants an image id, and no image is made
hint: add an output that is an image, such as `-o type=image`
error: `--annotation a`: wanted `key=value` or `level:key=value`
error: `--annotation layer:a=b`: `layer` carries no annotations: what does is `manifest`, `manifest-descriptor`, `index` and `index-descriptor`
error: `--annotation manifest[x/y/z/a],index:b=c`: `x/y/z/a` is not a platform: wanted OS/ARCH[/VARIANT], such as `linux/amd64` or `linux/arm/v7`
error: `--annotation :x=y`: `` carries no annotations: what does is `manifest`, `manifest-descriptor`, `index` and `index-descriptor`
error: `Cargo.toml` is to be a directory, and is a file
hint: name another with `dest=`
error: `src` is to be a file, and is a directory
hint: name a file in it with `dest=`
error: `mode=delete` would delete what else is in `.`, which is not below the working directory
hint: allow it with `--allow buildx.local.delete`
error: `mode=delete` would delete what else is in `/tmp`, which is not below the working directory
hint: allow it with `--allow buildx.local.delete`
error: `mode=delete` would delete what else is in `nowhere/../..`, which is not below the working directory
hint: allow it with `--allow buildx.local.delete`
error: only one output can be written to standard output
error: a tar is not written to a terminal
hint: redirect standard output, or add `dest=FILE`
error: standard output cannot hold both a tar and the image id
hint: use `--progress none`, or add `dest=FILE`
error: `--file git@example.org:x.git`: a Dockerfile can be had from `http://` and `https://` alone
hint: a repository can be the context: `-f` then names a file in it
error: SOURCE_DATE_EPOCH is `context`: wanted seconds since 1970, a whole number
error: BUILDKIT_MULTI_PLATFORM: `maybe` is neither `true` nor `false`
error: docker's archive holds one platform only, and no index
hint: use `-o type=oci,dest=FILE`, push, or build one platform at a time

"#]]
    );
}

#[test]
fn what_is_not_supported_is_refused() {
    let text: String = [
        "--attest type=sbom /",
        "--provenance=mode=max /",
        "--sbom true /",
        "--policy x --squash --security-opt x /",
    ]
    .iter()
    .map(|args| refusal(args))
    .collect();
    assert_data_eq!(
        text,
        str![[r#"
error: `--attest` is not supported
hint: leave it out or set it to `false`; an SBOM can be made from the finished image
error: `--provenance` is not supported
hint: leave it out or set it to `false`; an SBOM can be made from the finished image
error: `--sbom` is not supported
hint: leave it out or set it to `false`; an SBOM can be made from the finished image
error: `--policy` is not supported
hint: leave it out
error: `--security-opt` is not supported
hint: write `RUN --security=insecure` and allow it with `--allow security.insecure`
error: `--squash` is not supported
hint: copy the result into one layer: `FROM scratch` and `COPY --from=stage / /`

"#]]
    );
    for harmless in [
        "--attest type=sbom,disabled=true /",
        "--provenance=false --sbom=false /",
        "--builder= --builder default /",
        "--call build --check=false --shm-size 0 --squash=false /",
    ] {
        request(harmless);
    }
}

#[test]
fn a_daemon_writes_the_cache_into_the_image_that_an_argument_asks_for() {
    let to = |args: &str| {
        let request = try_prepare(&format!("{args} ."), Env::default())
            .unwrap()
            .request;
        let to = request.builder.unwrap().cache_to.into_iter();
        to.map(|cache| cache.kind).collect::<Vec<_>>()
    };
    let builder = "--builder unix:///b.sock --build-arg BUILDKIT_INLINE_CACHE";
    assert_eq!(to(&format!("{builder}=1")), ["inline"]);
    assert_eq!(to(&format!("{builder}=0")), [""; 0]);
}

#[test]
fn caches_are_for_this_machine_too_if_it_is_one_of_the_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rbuild/builders.toml");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let node = |name: &str, nth: usize, endpoint: &str| {
        format!("[[builder.{name}]]\nname = '{nth}'\nendpoint = '{endpoint}'\n")
    };
    let text = node("far", 0, "unix:///b.sock")
        + &node("far", 1, "unix:///c.sock")
        + &node("mixed", 0, "unix:///b.sock")
        + &node("mixed", 1, "local");
    std::fs::write(path, text).unwrap();
    let env = || Env::of([("XDG_CONFIG_HOME", dir.path().to_str().unwrap())]);
    let caches = "--cache-from r.example/c --cache-to type=registry,ref=r.example/c,mode=max";
    for (builder, here) in [("far", 0), ("mixed", 1), ("default", 1)] {
        let args = format!("--builder {builder} {caches} .");
        let request = try_prepare(&args, env()).unwrap().request;
        let ours = [request.cache_from.len(), request.cache_to.len()];
        assert_eq!(ours, [here; 2], "{builder}");
        let theirs = request
            .builder
            .map(|own| [own.cache_from.len(), own.cache_to.len()]);
        let want = (builder != "default").then_some([1; 2]);
        assert_eq!(theirs, want, "{builder}");
    }
    let refused = try_prepare("--builder mixed --cache-to type=x .", env()).unwrap_err();
    assert_eq!(refused.matches("error:").count(), 1, "{refused}");
}

#[test]
fn flags_of_steps_here_are_idle_where_none_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rbuild/builders.toml");
    let mixed = "[[builder.mixed]]\nname = '0'\nendpoint = 'unix:///b.sock'\n\
                 [[builder.mixed]]\nname = '1'\nendpoint = 'local'\n";
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    std::fs::write(path, mixed).unwrap();
    let idle = |args: &str| {
        let env = Env::of([("XDG_CONFIG_HOME", dir.path().to_str().unwrap())]);
        let request = try_prepare(args, env).unwrap().request;
        request.builder.unwrap().idle_flags
    };
    let far = "--builder unix:///b.sock";
    assert_eq!(idle(&format!("{far} .")), [""; 0]);
    let flags = "--jobs 2 --keep-failed never --stacker link --min-rung 1 --isolation chroot \
                 --nested-namespaces=false --emulator arm64=/e";
    let mut all = idle(&format!("{far} {flags} ."));
    all.sort_unstable();
    let want = [
        "--emulator",
        "--isolation",
        "--jobs",
        "--keep-failed",
        "--min-rung",
        "--nested-namespaces",
        "--stacker",
    ];
    assert_eq!(all, want);
    // Of what this machine builds they are true.
    assert_eq!(idle(&format!("--builder mixed {flags} .")), [""; 0]);
}
