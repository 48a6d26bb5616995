//! Processes.

use rbuild_cache::CacheMountName;
use rbuild_cache::StoreError;
use rbuild_cache::wait::silently;
use rbuild_llb::op::CacheSharing;
use rbuild_llb::op::SecretEnv;
use rbuild_llb::op::Ulimit;

use super::*;

fn mount(input: Option<usize>, selector: &str, dest: &str, kind: MountKind) -> Mount {
    Mount {
        input,
        selector: selector.to_owned(),
        dest: dest.to_owned(),
        output: (dest == "/").then_some(0),
        readonly: false,
        kind,
    }
}

fn cache(id: &str, sharing: CacheSharing, mode: u32, uid: u32) -> MountKind {
    MountKind::Cache {
        id: id.to_owned(),
        sharing,
        mode,
        uid,
        gid: 0,
    }
}

fn secret(id: &str, mode: u32, optional: bool) -> MountKind {
    MountKind::Secret {
        id: id.to_owned(),
        uid: 0,
        gid: 0,
        mode,
        optional,
    }
}

/// A process with a mount of each kind.
fn process() -> Case {
    let words =
        |words: &[&str]| -> Vec<String> { words.iter().map(|&word| word.to_owned()).collect() };
    Case::of(Op::Exec(ExecOp {
        args: words(&["/bin/sh", "-c", "apt-get install curl"])
            .into_iter()
            .map(Into::into)
            .collect(),
        env: Arc::new(words(&["PATH=/bin", "VERSION=1.1", "API_TOKEN=hidden"])),
        cwd: "/".into(),
        user: String::new(),
        mounts: vec![
            mount(Some(0), "", "/", MountKind::Bind),
            mount(Some(1), "src", "/src", MountKind::Bind),
            mount(
                None,
                "",
                "/cache",
                cache("npm", CacheSharing::Shared, 0o755, 0),
            ),
            mount(None, "", "/tmp", MountKind::Tmpfs { size: 0 }),
            mount(
                None,
                "",
                "/run/secrets/token",
                secret("token", 0o400, false),
            ),
            mount(Some(0), "usr", "/usr2", MountKind::Bind),
        ],
        network: NetworkMode::Default,
        security: SecurityMode::Sandbox,
        secret_env: Vec::new(),
        hostname: String::new(),
        extra_hosts: vec![("db".to_owned(), "10.0.0.1".to_owned())],
        ulimits: Vec::new(),
        proxy_env: ProxyEnv::default(),
        limits: std::sync::Arc::default(),
    }))
}

#[test]
fn exec_its_own() {
    let mut rows = Rows::new();
    let case = process();
    let mut both = |said: &str, change: &dyn Fn(&mut ExecOp)| {
        rows.row(&case, Both, said, |case| change(case.exec()));
    };
    both(
        "command \"apt-get install curl\" → \"apt-get install curl jq\"",
        &|exec| exec.args[2].to_mut().push_str(" jq"),
    );
    both(
        "command \"/bin/sh -c apt-get install curl\" → \"/bin/bash -c apt-get install curl\"",
        &|exec| exec.args[0] = "/bin/bash".into(),
    );
    both("ARG VERSION 1.1 → 1.2", &|exec| {
        Arc::make_mut(&mut exec.env)[1] = "VERSION=1.2".to_owned();
    });
    both("ENV PATH /bin → \"/usr bin\"", &|exec| {
        Arc::make_mut(&mut exec.env)[0] = "PATH=/usr bin".to_owned();
    });
    both("ENV NEW=1 added; variable VERSION removed", &|exec| {
        Arc::make_mut(&mut exec.env)[1] = "NEW=1".to_owned();
    });
    both("ENV API_TOKEN changed (its value is not shown)", &|exec| {
        Arc::make_mut(&mut exec.env)[2] = "API_TOKEN=other".to_owned();
    });
    both("WORKDIR / → /src", &|exec| exec.cwd = "/src".to_owned());
    both("USER root → app", &|exec| exec.user = "app".to_owned());
    both("--network default → none", &|exec| {
        exec.network = NetworkMode::None
    });
    both("--network default → host", &|exec| {
        exec.network = NetworkMode::Host
    });
    both("--security sandbox → insecure", &|exec| {
        exec.security = SecurityMode::Insecure;
    });
    both("variable from a secret TOKEN=id added", &|exec| {
        exec.secret_env.push(SecretEnv {
            id: "id".to_owned(),
            name: "TOKEN".to_owned(),
            optional: false,
        });
    });
    both("host name builder added", &|exec| {
        exec.hostname = "builder".to_owned()
    });
    both("--add-host db removed; --add-host web added", &|exec| {
        exec.extra_hosts[0].0 = "web".to_owned();
    });
    both("--ulimit nofile=1:2 added", &|exec| {
        exec.ulimits.push(Ulimit {
            name: "nofile".to_owned(),
            soft: 1,
            hard: 2,
        });
    });
    rows.row(&case, Both, "platform linux/amd64 → linux/arm64", |case| {
        case.platform = Platform::new("linux", "arm64", "");
    });
}

#[test]
fn exec_its_mounts() {
    let mut rows = Rows::new();
    let case = process();
    let mut both = |said: &str, at: usize, change: &dyn Fn(&mut Mount)| {
        rows.row(&case, Both, said, |case| change(case.mount(at)));
    };
    let at = "--mount target=/cache";
    both(&format!("{at} id npm → \"npm 2\""), 2, &|mount| {
        mount.kind = cache("npm 2", CacheSharing::Shared, 0o755, 0);
    });
    both(&format!("{at} sharing shared → locked"), 2, &|mount| {
        mount.kind = cache("npm", CacheSharing::Locked, 0o755, 0);
    });
    both(&format!("{at} mode 755 → 700"), 2, &|mount| {
        mount.kind = cache("npm", CacheSharing::Shared, 0o700, 0);
    });
    both(&format!("{at} uid:gid 0:0 → 7:0"), 2, &|mount| {
        mount.kind = cache("npm", CacheSharing::Shared, 0o755, 7);
    });
    both(&format!("{at} writable → read-only"), 2, &|mount| {
        mount.readonly = true
    });
    both(
        "--mount type=cache,target=/else,id=npm added; --mount type=cache,target=/cache,id=npm removed",
        2,
        &|mount| mount.dest = "/else".to_owned(),
    );
    both("--mount target=/tmp size 0 → 64", 3, &|mount| {
        mount.kind = MountKind::Tmpfs { size: 64 };
    });
    let at = "--mount target=/run/secrets/token";
    both(&format!("{at} id token → key"), 4, &|mount| {
        mount.kind = secret("key", 0o400, false);
    });
    both(&format!("{at} mode 400 → 444"), 4, &|mount| {
        mount.kind = secret("token", 0o444, false);
    });
    both(&format!("{at} optional false → true"), 4, &|mount| {
        mount.kind = secret("token", 0o400, true);
    });
    both(
        &format!("{at} type secret → ssh; {at} id token → agent"),
        4,
        &|mount| {
            mount.kind = MountKind::Ssh {
                id: "agent".to_owned(),
                uid: 0,
                gid: 0,
                mode: 0o400,
                optional: false,
            };
        },
    );
    both("other inputs", 1, &|mount| mount.output = Some(1));
    // What a mount shows counts, and not where in its input that is, once that is known.
    let source = "--mount target=/usr2 source usr → copy";
    rows.row(&case, ByDefinition, source, |case| {
        case.mount(5).selector = "copy".to_owned();
    });
    rows.row(&case, ByDefinition, "other inputs", |case| case.base = 2);
    let files = "in what it runs on: 1 of 3 files changed: usr/lib (content); \
                 --mount target=/usr2: 1 of 1 file changed: lib (content)";
    rows.row(&case, Content, files, |case| case.base_files = "rebuilt");
    let layers = "the layers it runs on changed";
    rows.row(&case, Content, layers, |case| case.base_layers = 2);
    let files = "--mount target=/src: 1 of 2 files changed: a.py (content)";
    rows.row(&case, Both, files, |case| case.context = "edited");
    let files = "--mount target=/src: 1 of 2 files changed: b.py (removed)";
    rows.row(&case, Both, files, |case| {
        case.excluded = vec!["**/b.py".to_owned()]
    });
}

#[test]
fn exec_what_is_in_no_key() {
    let mut rows = Rows::new();
    let case = process();
    let mut none = |change: &dyn Fn(&mut Case)| rows.row(&case, Neither, "", change);
    none(&|case| case.secret = "another");
    none(&|case| case.exec().extra_hosts[0].1 = "10.0.0.2".to_owned());
    none(&|case| case.exec().proxy_env.env = vec!["HTTP_PROXY=http://proxy".to_owned()]);
    none(&|case| std::sync::Arc::make_mut(&mut case.exec().limits).memory = Some(1 << 30));
    none(&|case| case.name = "[build 7/9] something else".to_owned());
    none(&|case| case.args.clear());
    none(&|case| case.ignore_cache = true);
    none(&|case| case.context = "elsewhere");
    none(&|case| case.context = "unselected");
    none(&|case| case.epoch = Some(1));
    let cancel = CancelToken::new();
    let store = &rows.world.store;
    let name = CacheMountName {
        id: "npm".to_owned(),
        domain: "test".to_owned(),
        begins: String::new(),
    };
    let begin = |dir: &Path| {
        fs::create_dir(dir).unwrap();
        Ok::<_, StoreError>(())
    };
    let shared = CacheSharing::Shared;
    let cached = store.cache_mount(&name, shared, &begin, &cancel, &mut silently);
    let before = rows.records(&case);
    fs::write(cached.unwrap().unwrap().path().join("package"), "x").unwrap();
    assert_eq!(rows.records(&case), before);
}
