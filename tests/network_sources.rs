//! ADD of URLs and git repositories, and contexts that are such. Modes, owners, times and names are what a current
//! BuildKit makes of the same Dockerfile; a git check-out's times are its commit's.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;

use snapbox::str;

use crate::support::FileServer;
use crate::support::GitServer;
use crate::support::Output;
use crate::support::TestEnv;
use crate::support::list_tar;

/// SHA-256 of `data\n`, by sha256sum.
const DATA: &str = "sha256:6667b2d1aab6a00caa5aee5af8ad9f1465e567abf1c209d15727d57b3e8f6e5f";

/// What `-o type=tar` holds: mode, owner, path, link.
fn listing(env: &TestEnv) -> Vec<String> {
    list_tar(&env.path("../out.tar"))
        .iter()
        .map(|entry| {
            let link = entry
                .link
                .as_ref()
                .map_or_else(String::new, |link| format!(" {link}"));
            format!("{} {} {}{link}", entry.mode, entry.owner, entry.path)
        })
        .collect()
}

/// The time GNU tar tells of a path in the result.
fn time(env: &TestEnv, path: &str) -> String {
    let archive = env.path("../out.tar");
    let args = [
        "-tvf",
        archive.to_str().unwrap(),
        "--full-time",
        "--utc",
        path,
    ];
    let output = env.tool("tar", args).success().stdout;
    let fields: Vec<&str> = output.split_whitespace().collect();
    format!("{} {}", fields[3], fields[4])
}

fn build(env: &TestEnv, context: &str) -> Output {
    env.rbuild(["-o", "type=tar,dest=../out.tar", context])
}

fn served() -> (TestEnv, FileServer) {
    let env = TestEnv::new();
    let dir = env.path("../www");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), "data\n").unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/Dockerfile"), "FROM scratch\nCOPY . /all/\n").unwrap();
    env.tool(
        "tar",
        [
            "-C",
            "../www/sub",
            "--owner=7",
            "--group=8",
            "--numeric-owner",
            "-czf",
            "../www/context.tgz",
            ".",
        ],
    )
    .success();
    let server = FileServer::start(dir);
    (env, server)
}

#[test]
fn files_by_url() {
    let (env, server) = served();
    let (file, archive) = (server.url("file"), server.url("context.tgz"));
    let env = env.file(
        "Dockerfile",
        format!(
            "FROM scratch\nADD {file} /plain\nADD --chmod=750 --chown=5:6 {file} /dir/\nADD --unpack {archive} /unpacked/\n\
             ADD {archive} /\nADD {} /moved\n",
            server.url("moved?a=b")
        ),
    );
    build(&env, ".").success();
    assert_eq!(
        listing(&env),
        [
            "-rw------- 0/0 context.tgz",
            "drwxr-x--- 5/6 dir",
            "-rwxr-x--- 5/6 dir/file",
            "-rw------- 0/0 moved",
            "-rw------- 0/0 plain",
            "drwxr-xr-x 0/0 unpacked",
            "-rw-r--r-- 7/8 unpacked/Dockerfile",
        ]
    );
    assert_eq!(time(&env, "plain"), "2021-02-03 04:05:06");
    let mut asked = server.asked();
    asked.sort();
    assert_eq!(
        asked,
        [
            "GET /context.tgz 200",
            "GET /file 200",
            "GET /file 200",
            "GET /moved?a=b 302"
        ]
    );

    build(&env, ".").success();
    let mut asked = server.asked();
    asked.sort();
    let again = [
        "GET /context.tgz 304",
        "GET /file 304",
        "GET /file 304",
        "GET /moved?a=b 302",
    ];
    assert_eq!(asked, again, "each is asked whether it has changed");
    env.rbuild(["--offline", "."]).success();
    assert_eq!(server.asked(), [""; 0]);

    fs::write(env.path("../www/file"), "other data\n").unwrap();
    let output = build(&env, ".").success().to_string();
    assert_eq!(output.matches("CACHED").count(), 3, "{output}");
}

#[test]
fn a_checksum_is_asked_for_once() {
    let (env, server) = served();
    let env = env.file(
        "Dockerfile",
        format!(
            "FROM scratch\nADD --checksum={DATA} {} /\n",
            server.url("file")
        ),
    );
    build(&env, ".").success();
    assert_eq!(server.asked(), ["GET /file 200"]);
    build(&env, ".").success();
    env.rbuild(["--no-cache", "-o", "type=tar,dest=../out.tar", "."])
        .success();
    assert_eq!(server.asked(), [""; 0]);
}

#[test]
fn what_cannot_be_had_is_told_at_its_line() {
    let (env, server) = served();
    let env = env.file(
        "Dockerfile",
        format!("FROM scratch\nADD {} /\n", server.url("none?token=s3cret")),
    );
    build(&env, ".").code(3).fails_with(str![[r#"
error: `127.0.0.1` has no `http://127.0.0.1:[PORT]/none`
 --> Dockerfile:2:5
  |
2 | ADD http://127.0.0.1:[PORT]/none?token=s3cret /
  |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
[exit status: 3]

"#]]);
    let wrong = DATA.replace("6667", "0000");
    env.write(
        "Dockerfile",
        format!(
            "FROM scratch\nADD --checksum={wrong} {} /\n",
            server.url("file")
        ),
    );
    let output = build(&env, ".").code(3).to_string();
    let message = format!("should have digest {wrong}, but has {DATA}");
    assert!(output.contains(&message), "{output}");
    assert!(output.contains(" --> Dockerfile:2:"), "{output}");
    env.write(
        "Dockerfile",
        format!("FROM scratch\nADD {} /\n", server.url("file")),
    );
    build(&env, ".").success();
}

#[test]
fn user_and_password_go_to_the_server_and_nowhere_else() {
    let (env, server) = served();
    let url = server.url("file").replace("//", "//user:s3cret@");
    let env = env.file("Dockerfile", format!("FROM scratch\nADD {url} /\n"));
    build(&env, ".").success();
    // Of `user:s3cret`, by base64(1).
    assert_eq!(server.asked(), ["Basic dXNlcjpzM2NyZXQ= GET /file 200"]);
}

#[test]
fn contexts_by_url() {
    let (env, server) = served();
    for _ in 0..2 {
        build(&env, &server.url("context.tgz")).success();
        assert_eq!(
            listing(&env),
            ["drwxr-xr-x 0/0 all", "-rw-r--r-- 7/8 all/Dockerfile"]
        );
    }
    assert_eq!(
        server.asked(),
        ["GET /context.tgz 200", "GET /context.tgz 304"]
    );
    fs::write(
        env.path("../www/alone"),
        "FROM scratch\nCOPY <<E /made\nE\n",
    )
    .unwrap();
    build(&env, &server.url("alone")).success();
    assert_eq!(listing(&env), ["-rw-r--r-- 0/0 made"]);

    fs::write(
        env.path("../www/plan"),
        "FROM scratch\nCOPY here /\nCOPY --from=url / /url/\n",
    )
    .unwrap();
    let env = env.file("here", "");
    let (plan, named) = (server.url("plan"), format!("url={}", server.url("file")));
    let args = [
        "-f",
        &plan,
        "--build-context",
        &named,
        "-o",
        "type=tar,dest=../out.tar",
        ".",
    ];
    env.rbuild(args).success();
    assert_eq!(
        listing(&env),
        [
            "-rw-r--r-- 0/0 here",
            "drwxr-xr-x 0/0 url",
            "-rw------- 0/0 url/context"
        ]
    );
}

/// A repository `r.git` with two commits on `main`, the first tagged `v1`, a branch `feature`, and a submodule.
fn repository() -> (TestEnv, GitServer, String) {
    let env = TestEnv::new();
    let root = env.path("../git");
    fs::create_dir_all(root.join("r/dir")).unwrap();
    fs::create_dir_all(root.join("sub")).unwrap();
    let git = |dir: &str, args: &[&str]| -> String {
        let mut command = env.tool_command("git");
        let date = match dir {
            "sub" => "2019-01-02T03:04:05Z",
            _ => "2020-01-02T03:04:05Z",
        };
        command
            .current_dir(root.join(dir))
            .envs([
                ("GIT_AUTHOR_NAME", "a"),
                ("GIT_AUTHOR_EMAIL", "a@example.org"),
                ("GIT_COMMITTER_NAME", "a"),
                ("GIT_COMMITTER_EMAIL", "a@example.org"),
                ("GIT_AUTHOR_DATE", date),
                ("GIT_COMMITTER_DATE", date),
            ])
            .args([
                "-c",
                "init.defaultBranch=main",
                "-c",
                "protocol.file.allow=always",
            ])
            .args(args);
        env.run(&mut command).success().stdout
    };
    git("sub", &["init", "-q"]);
    fs::write(root.join("sub/inner"), "inner\n").unwrap();
    git("sub", &["add", "."]);
    git("sub", &["commit", "-qm", "sub"]);
    git(".", &["clone", "-q", "--bare", "sub", "sub.git"]);

    git("r", &["init", "-q"]);
    let write = |path: &str, text: &str| fs::write(root.join("r").join(path), text).unwrap();
    write("a", "one $Format:%H$\n");
    write("dir/b", "two\n");
    fs::set_permissions(root.join("r/dir/b"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("a", root.join("r/link")).unwrap();
    write(".gitattributes", "a export-subst\ndir export-ignore\n");
    write("Dockerfile", "FROM scratch\nCOPY . /ctx/\n");
    git("r", &["add", "."]);
    git("r", &["commit", "-qm", "first"]);
    git("r", &["tag", "-m", "tag", "v1"]);
    git("r", &["submodule", "--quiet", "add", "../sub.git", "mod"]);
    git("r", &["commit", "-qm", "second"]);
    git("r", &["checkout", "-q", "-b", "feature"]);
    write("dir/c", "three\n");
    git("r", &["add", "."]);
    git("r", &["commit", "-qm", "third"]);
    git("r", &["checkout", "-q", "main"]);
    git(".", &["clone", "-q", "--bare", "r", "r.git"]);
    let first = git("r", &["rev-parse", "v1^{commit}"]).trim().to_owned();
    let server = GitServer::start(root);
    (env, server, first)
}

const FIRST: [&str; 6] = [
    "-rw-r--r-- 0/0 x/.gitattributes",
    "-rw-r--r-- 0/0 x/Dockerfile",
    "-rw-r--r-- 0/0 x/a",
    "drwxr-xr-x 0/0 x/dir",
    "-rwxr-xr-x 0/0 x/dir/b",
    "lrwxrwxrwx 0/0 x/link -> a",
];

#[test]
fn git_repositories() {
    let (env, server, first) = repository();
    let add = |flags: &str, reference: &str| {
        let url = server.url("r.git");
        env.write(
            "Dockerfile",
            format!("FROM scratch\nADD {flags} {url}{reference} /x/\n"),
        );
        build(&env, ".").success();
        listing(&env).into_iter().skip(1).collect::<Vec<_>>()
    };
    let main = [
        &FIRST[..1],
        &["-rw-r--r-- 0/0 x/.gitmodules"],
        &FIRST[1..],
        &["drwxr-xr-x 0/0 x/mod", "-rw-r--r-- 0/0 x/mod/inner"],
    ]
    .concat();
    assert_eq!(add("", ""), main);
    assert_eq!(time(&env, "x/a"), "2020-01-02 03:04:05");
    env.tool("tar", ["-C", "..", "-xf", "../out.tar"]).success();
    let text = fs::read_to_string(env.path("../x/a")).unwrap();
    assert_eq!(text, "one $Format:%H$\n", "it is no release");

    assert_eq!(add("", "?mtime=commit"), main);
    for path in ["x/a", "x/dir", "x/dir/b", "x/mod/inner"] {
        assert_eq!(time(&env, path), "2020-01-02 03:04:05", "{path}");
    }
    let mut without = main.clone();
    without.pop();
    assert_eq!(add("", "?submodules=false"), without);
    assert_eq!(add("", "?submodules=true"), main);

    assert_eq!(add("", "#v1"), FIRST);
    assert_eq!(add("", "?tag=v1"), FIRST);
    assert_eq!(add("", "?ref=v1"), FIRST);
    assert_eq!(add("", &format!("?ref=v1&commit={first}")), FIRST);
    assert_eq!(add("", &format!("?tag=v1&checksum={}", &first[..8])), FIRST);
    // The tag is an object of its own, and may be what is demanded.
    let tag = fs::read_to_string(env.path("../git/r/.git/refs/tags/v1")).unwrap();
    assert_eq!(add(&format!("--checksum={}", tag.trim()), "#v1"), FIRST);
    // No server is asked what `elsewhere` is.
    let fetched = format!("?ref=elsewhere&checksum={first}&fetch-by-commit");
    assert_eq!(add("", &fetched), FIRST);
    assert_eq!(
        add("", &format!("?ref={first}&fetch-by-commit=true")),
        FIRST
    );
    assert_eq!(add("", &format!("#{first}")), FIRST);
    assert_eq!(add(&format!("--checksum={first}"), "#v1"), FIRST);
    assert_eq!(
        add("", "#feature:dir"),
        ["-rwxr-xr-x 0/0 x/b", "-rw-r--r-- 0/0 x/c"]
    );
    assert_eq!(time(&env, "x/b"), "2020-01-02 03:04:05");
    assert_eq!(add("", "?branch=feature&subdir=dir").len(), 2);
    assert_eq!(add("", "#heads/feature:dir").len(), 2);
    assert_eq!(add("", "#refs/tags/v1"), FIRST);

    add("--keep-git-dir=true", "#feature");
    env.tool("tar", ["-C", "..", "-xf", "../out.tar"]).success();
    let git = |args: &[&str]| {
        let mut command = env.tool_command("git");
        command.current_dir(env.path("../x")).args(args);
        env.run(&mut command).success().stdout
    };
    assert_eq!(git(&["log", "--format=%s"]), "third\n");
    assert_eq!(git(&["status", "--short", "--ignore-submodules"]), "");
    assert_eq!(
        git(&["remote", "get-url", "origin"]).trim(),
        server.url("r.git")
    );
}

#[test]
fn the_users_filters_change_nothing() {
    let (env, server, _) = repository();
    let home = env.path("../home");
    fs::create_dir_all(&home).unwrap();
    let config = "[filter \"up\"]\nsmudge = tr a-z A-Z\nrequired = true\n";
    fs::write(home.join(".gitconfig"), config).unwrap();
    let repository = env.path("../git/r");
    fs::write(repository.join(".git/info/attributes"), "").unwrap();
    fs::write(repository.join(".gitattributes"), "* filter=up\n").unwrap();
    let git = |args: &[&str]| {
        let mut command = env.tool_command("git");
        command
            .current_dir(&repository)
            .args([
                "-c",
                "user.name=a",
                "-c",
                "user.email=a@b",
                "-c",
                "filter.up.required=false",
            ])
            .args(["-c", "filter.up.smudge="])
            .args(args);
        env.run(&mut command).success();
    };
    git(&["add", ".gitattributes"]);
    git(&["commit", "-qm", "filtered"]);
    git(&["push", "-q", "../r.git", "main"]);
    let url = server.url("r.git");
    let env = env.file("Dockerfile", format!("FROM scratch\nADD {url}#main /\n"));
    env.rbuild(["-o", "out", "."]).success();
    assert_eq!(fs::read_to_string(env.path("out/dir/b")).unwrap(), "two\n");
}

#[test]
fn a_commit_is_fetched_once() {
    let (env, server, first) = repository();
    let env = env.file(
        "Dockerfile",
        format!("FROM scratch\nADD {}#{first} /x/\n", server.url("r.git")),
    );
    build(&env, ".").success();
    let output = env.rbuild(["--offline", "."]).success().to_string();
    assert_eq!(output.matches("CACHED").count(), 2, "{output}");
    env.rbuild([
        "--offline",
        "--no-cache",
        "-o",
        "type=tar,dest=../out.tar",
        ".",
    ])
    .success();
    assert_eq!(listing(&env)[1..], FIRST);
}

#[test]
fn a_repository_over_a_server_that_only_has_files() {
    let (env, _, first) = repository();
    env.tool("git", ["-C", "../git/r.git", "update-server-info"])
        .success();
    env.tool("git", ["-C", "../git/sub.git", "update-server-info"])
        .success();
    let server = FileServer::start(env.path("../git"));
    let env = env.file(
        "Dockerfile",
        format!("FROM scratch\nADD {}#{first} /x/\n", server.url("r.git")),
    );
    build(&env, ".").success();
    assert_eq!(listing(&env)[1..], FIRST);
}

/// A plan in a repository is the plan of a check-out: it knows the commit, and has the same result.
#[test]
fn a_plan_in_a_repository() {
    let (env, server, first) = repository();
    let plan = "schema = 1\n[inputs]\nsrc = { local = \".\", include = [\"a\", \"dir\"] }\n[step.app]\nfrom = \"scratch\"\n\
                copy = [{ from = \"src\", to = \"/x/\" }]\n[output.web]\nstep = \"app\"\n\
                tags = [\"web:{git.tag}\"]\nimage = { labels = { commit = \"{git.sha}\" } }\n";
    let root = env.path("../git");
    let git = |dir: &str, args: &[&str]| {
        let mut command = env.tool_command("git");
        command.current_dir(root.join(dir)).args([
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@example.org",
        ]);
        env.run(command.args(args)).success().stdout
    };
    git("r", &["checkout", "-q", "--detach", &first]);
    fs::write(root.join("r/rbuild.toml"), plan).unwrap();
    git("r", &["add", "."]);
    git("r", &["commit", "-qm", "plan"]);
    git("r", &["tag", "v2"]);
    git("r", &["push", "-q", "../r.git", "v2"]);
    let commit = git("r", &["rev-parse", "HEAD"]);
    let url = format!("{}#v2", server.url("r.git"));
    env.rbuild(["build", &url]).success().says("web:v2");
    let format = "{{index .Config.Labels \"commit\"}}";
    let label = env
        .rbuild(["inspect", "--format", format, "web:v2"])
        .success();
    assert_eq!(label.stdout, commit);
    let id = |context: &str| env.rbuild(["build", "-q", context]).success().stdout;
    assert_eq!(id(&url), id(root.join("r").to_str().unwrap()));
}

#[test]
fn what_git_cannot_get_is_told_at_its_line() {
    let (env, server, first) = repository();
    let fails = |line: &str| {
        env.write("Dockerfile", format!("FROM scratch\n{line}\n"));
        build(&env, ".")
    };
    let url = server.url("r.git");
    fails(&format!("ADD {url}#nope /x/")).fails_with(str![[r#"
error: `git://127.0.0.1:[PORT]/r.git` has no branch, tag or commit `nope`
 --> Dockerfile:2:5
  |
2 | ADD git://127.0.0.1:[PORT]/r.git#nope /x/
  |     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
[exit status: 2]

"#]]);
    let output = fails(&format!("ADD {} /x/", server.url("none.git")))
        .code(3)
        .to_string();
    assert!(
        output.contains("error: git cannot get `git://127.0.0.1:"),
        "{output}"
    );
    let output = fails(&format!(
        "ADD {url}#{} /x/",
        first.replace(&first[..4], "0000")
    ))
    .to_string();
    assert!(output.contains("error: "), "{output}");
    assert!(output.contains(" --> Dockerfile:2:"), "{output}");
    let output = fails(&format!("ADD --checksum=0000000 {url}#v1 /x/"))
        .code(2)
        .to_string();
    let message = format!("expected commit `0000000`, but `v1` is `{first}`");
    assert!(output.contains(&message), "{output}");
    assert!(output.contains(" --> Dockerfile:2:"), "{output}");
    let output = fails(&format!("ADD --checksum=0000000 {url} /x/"))
        .code(2)
        .to_string();
    let message = "expected commit `0000000`, but the default branch is `";
    assert!(output.contains(message), "{output}");
}

/// Each is refused by BuildKit, too.
#[test]
fn queries_of_a_repository_that_say_nothing_sensible() {
    let (env, server, first) = repository();
    let url = server.url("r.git");
    for (query, flags, message) in [
        ("?branch=main&tag=v1", "", "contradict each other"),
        ("?ref=main#v1", "", "contradict each other"),
        ("?subdir=dir#:mod", "", "contradict each other"),
        ("?ref=", "", "query `ref` of a git URL has no value"),
        (
            "?ref=a&ref=b",
            "",
            "query `ref` of a git URL has several values",
        ),
        ("?depth=1", "", "unexpected query `depth`"),
        (
            "?submodules=none",
            "",
            "invalid value `none` of the query `submodules`",
        ),
        (
            "?keep-git-dir=2",
            "",
            "invalid value `2` of the query `keep-git-dir`",
        ),
        ("?mtime=now", "", "invalid value `now` of the query `mtime`"),
        (
            "?fetch-by-commit=x",
            "",
            "invalid value `x` of the query `fetch-by-commit`",
        ),
        (
            "?fetch-by-commit",
            "",
            "`fetch-by-commit` needs a whole commit",
        ),
        (
            "?fetch-by-commit&checksum=0123",
            "",
            "`fetch-by-commit` needs a whole commit",
        ),
        ("?checksum=v1", "", "`v1` is no commit"),
        ("?checksum=12", "--checksum=13", "contradict each other"),
        (
            "?keep-git-dir=false",
            "--keep-git-dir",
            "contradict each other",
        ),
        (
            &format!("?checksum=0000#{first}"),
            "",
            "expected commit `0000`, but the URL names",
        ),
    ] {
        env.write(
            "Dockerfile",
            format!("FROM scratch\nADD {flags} {url}{query} /x/\n"),
        );
        let output = build(&env, ".").code(2).to_string();
        assert!(output.contains(message), "{query}: {output}");
        assert!(output.contains(" --> Dockerfile:2:"), "{query}: {output}");
    }
}

#[test]
fn a_repository_as_the_context() {
    let (env, server, _) = repository();
    let url = server.url("r.git");
    build(&env, &format!("{url}#v1")).success();
    let all: Vec<String> = FIRST
        .iter()
        .map(|line| line.replace(" x/", " ctx/"))
        .collect();
    assert_eq!(listing(&env)[1..], all);
    let git_dirs = |more: &[&str]| {
        let context = format!("{url}#v1");
        let args = [&["-o", "type=tar,dest=../out.tar", context.as_str()], more].concat();
        env.rbuild(args).success();
        let is_dir = |line: &&String| line.ends_with(" ctx/.git");
        listing(&env).iter().filter(is_dir).count()
    };
    let keep = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";
    assert_eq!(git_dirs(&["--build-arg", &format!("{keep}=1")]), 1);
    assert_eq!(git_dirs(&["--build-arg", &format!("{keep}=perhaps")]), 0);
    build(&env, &format!("{url}?tag=v1&checksum=0000"))
        .code(2)
        .says("expected commit `0000`, but `refs/tags/v1` is `");

    let env = env.file(
        "Dockerfile",
        "FROM scratch\nCOPY --from=repository dir /d/\n",
    );
    let named = format!("repository={url}#feature");
    env.rbuild([
        "--build-context",
        &named,
        "-o",
        "type=tar,dest=../out.tar",
        ".",
    ])
    .success();
    assert_eq!(
        listing(&env),
        [
            "drwxr-xr-x 0/0 d",
            "-rwxr-xr-x 0/0 d/b",
            "-rw-r--r-- 0/0 d/c"
        ]
    );
    env.rbuild(["-f", "none", &url])
        .code(2)
        .fails_with(str![[r#"
error: there is no `none` in `git://127.0.0.1:[PORT]/r.git`
hint: `-f` names a file in it
[exit status: 2]

"#]]);
}
