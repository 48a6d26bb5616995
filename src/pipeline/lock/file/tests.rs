//! The format: what is written is read back, and what is wrong is said at its place.

use proptest::prelude::*;
use rbuild_llb::op::GitSource;
use rbuild_llb::op::HttpSource;
use rbuild_llb::op::ImageSource;
use snapbox::assert_data_eq;
use snapbox::str;

use super::*;

fn digest(digit: char) -> OciDigest {
    format!("sha256:{}", digit.to_string().repeat(64))
        .parse()
        .unwrap()
}

fn platform(text: &str) -> Platform {
    text.parse().unwrap()
}

fn source(text: &str) -> Arc<SourceFile> {
    Arc::new(SourceFile {
        name: "rbuild.lock".into(),
        text: text.into(),
        language: "TOML",
    })
}

fn full() -> LockFile {
    let git = |reference: &str, checksum: Option<&str>| Name::Git {
        remote: "https://example.org/r.git".into(),
        reference: reference.into(),
        checksum: checksum.map(Into::into),
    };
    let single = LockedImage {
        index: None,
        platforms: [(platform("linux/arm/v7"), digest('1'))].into(),
    };
    let several = LockedImage {
        index: Some(digest('2')),
        platforms: [
            (platform("linux/arm64"), digest('4')),
            (platform("linux/amd64"), digest('3')),
        ]
        .into(),
    };
    let sources = [
        (
            Name::Url("https://example.org/\"a\" b?c='d'".into()),
            Locked::Url(digest('5')),
        ),
        (git("main", Some("66")), Locked::Git("6".repeat(40))),
        (git("", None), Locked::Git("7".repeat(64))),
        (
            Name::Image("docker.io/library/alpine:3.20".into()),
            Locked::Image(several),
        ),
        (
            Name::Image("127.0.0.1:5000/one:latest".into()),
            Locked::Image(single),
        ),
    ];
    LockFile {
        platforms: [platform("linux/arm64"), platform("linux/amd64")].into(),
        sources: sources.into(),
    }
}

#[test]
fn sorted_and_read_back() {
    let text = full().render();
    assert_data_eq!(
        &text,
        str![[r##"
# Written by `rbuild lock` and `rbuild update`: what the sources of builds in this directory are.
version = 1
platforms = ["linux/amd64", "linux/arm64"]

[[image]]
reference = "127.0.0.1:5000/one:latest"

[image.platforms]
"linux/arm/v7" = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

[[image]]
reference = "docker.io/library/alpine:3.20"
index = "sha256:2222222222222222222222222222222222222222222222222222222222222222"

[image.platforms]
"linux/amd64" = "sha256:3333333333333333333333333333333333333333333333333333333333333333"
"linux/arm64" = "sha256:4444444444444444444444444444444444444444444444444444444444444444"

[[git]]
remote = "https://example.org/r.git"
commit = "7777777777777777777777777777777777777777777777777777777777777777"

[[git]]
remote = "https://example.org/r.git"
ref = "main"
checksum = "66"
commit = "6666666666666666666666666666666666666666"

[[url]]
url = """https://example.org/"a" b?c='d'"""
sha256 = "5555555555555555555555555555555555555555555555555555555555555555"

"##]]
    );
    assert_eq!(parse(&source(&text)), Ok(full()));
    let empty = LockFile::default();
    assert_eq!(parse(&source(&empty.render())), Ok(empty));
}

#[test]
fn mistakes_are_pointed_at() {
    let hex = "1".repeat(64);
    let image = format!(
        "[[image]]\nreference = 'docker.io/library/a:1'\nplatforms = {{ 'linux/amd64' = 'sha256:{hex}' }}\n"
    );
    let wrong = |from: &str, to: &str| format!("version = 1\n{}", image.replace(from, to));
    let texts = [
        String::new(),
        "version = 2\nnew = 'field'\n".into(),
        "version = 0\n".into(),
        "version = 1\n<<<<<<< HEAD\n[[image]]\n=======\n[[git]]\n>>>>>>> other\n".into(),
        "version = 1\nimages = []\n".into(),
        "version = 1\nplatforms = ['linux/']\n".into(),
        wrong("reference", "refrence"),
        wrong("docker.io/library/a:1", "a:1"),
        wrong("docker.io/library/a:1", "docker.io/library/A:1"),
        wrong("sha256:1", "sha256:"),
        wrong("linux/amd64", "linux/amd64/"),
        wrong(
            "'linux/amd64'",
            "'linux/arm64' = 'sha256:0000000000000000000000000000000000000000000000000000000000000000', 'linux/amd64'",
        ),
        format!("version = 1\n{image}{image}"),
        "version = 1\n[[git]]\nremote = 'https://h/r'\ncommit = 'main'\n".into(),
        format!("version = 1\n[[url]]\nurl = 'https://h/r'\nsha256 = 'sha256:{hex}'\n"),
        "version = 1\n[[url]\n".into(),
    ];
    let rendered: String = texts
        .iter()
        .map(|text| {
            let error = parse(&source(text)).unwrap_err();
            crate::ui::render(&error, false) + "\n\n"
        })
        .collect();
    assert_data_eq!(
        rendered,
        str![[r#"
error: missing field `version`
 --> rbuild.lock:1:1
  |
1 |
  | ^
  |
hint: `rbuild lock` writes it; to begin anew, remove `rbuild.lock` first

error: lock files of version 2 are not known
 --> rbuild.lock:1:11
  |
1 | version = 2
  |           ^ wanted 1
  |
hint: a later rbuild wrote it: use that

error: lock files of version 0 are not known
 --> rbuild.lock:1:11
  |
1 | version = 0
  |           ^ wanted 1

error: `rbuild.lock` has conflicts of a merge in it
 --> rbuild.lock:2:1
  |
2 | <<<<<<< HEAD
  | ^^^^^^^^^^^^
  |
hint: take either side whole, then `rbuild lock` adds what is missing

error: unknown field `images`
 --> rbuild.lock:2:1
  |
2 | images = []
  | ^^^^^^
  |
hint: expected one of `version`, `platforms`, `image`, `git`, `url`

error: `linux/` is not a platform: wanted OS/ARCH[/VARIANT], such as `linux/amd64` or `linux/arm/v7`
 --> rbuild.lock:2:13
  |
2 | platforms = ['linux/']
  |             ^^^^^^^^^^
  |
hint: `rbuild lock` writes it; to begin anew, remove `rbuild.lock` first

error: unknown field `refrence`
 --> rbuild.lock:3:1
  |
3 | refrence = 'docker.io/library/a:1'
  | ^^^^^^^^
  |
hint: expected one of `reference`, `index`, `platforms`

error: `a:1` is not a whole reference: wanted REGISTRY/REPOSITORY:TAG
 --> rbuild.lock:3:13
  |
3 | reference = 'a:1'
  |             ^^^^^
  |
hint: `rbuild lock` writes it; to begin anew, remove `rbuild.lock` first

error: `docker.io/library/A:1` is not an image reference: a repository is written in lower case
 --> rbuild.lock:3:13
  |
3 | reference = 'docker.io/library/A:1'
  |             ^^^^^^^^^^^^^^^^^^^^^^^
  |
hint: `rbuild lock` writes it; to begin anew, remove `rbuild.lock` first

error: `sha256:111111111111111111111111111111111111111111111111111111111111111` is not a digest of the form `sha256:` and 64 hexadecimal digits
 --> rbuild.lock:4:31
  |
4 | platforms = { 'linux/amd64' = 'sha256:111111111111111111111111111111111111111111111111111111111111111' }
  |                               ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
hint: `rbuild lock` writes it; to begin anew, remove `rbuild.lock` first

error: `linux/amd64/` is not a platform: wanted OS/ARCH[/VARIANT], such as `linux/amd64` or `linux/arm/v7`
 --> rbuild.lock:4:15
  |
4 | platforms = { 'linux/amd64/' = 'sha256:1111111111111111111111111111111111111111111111111111111111111111' }
  |               ^^^^^^^^^^^^^^
  |
hint: `rbuild lock` writes it; to begin anew, remove `rbuild.lock` first

error: an image without an `index` has one platform, with one it has some
 --> rbuild.lock:4:13
  |
4 | ... = { 'linux/arm64' = 'sha256:0000000000000000000000000000000000000000000000000000000000000000', 'linux/amd64' = 'sha256:1111111111111111111111111111111111111111111111111111111111111111' }
  |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
hint: `rbuild lock` writes it; to begin anew, remove `rbuild.lock` first

error: `docker.io/library/a:1` is there twice
 --> rbuild.lock:6:13
  |
6 | reference = 'docker.io/library/a:1'
  |             ^^^^^^^^^^^^^^^^^^^^^^^
  |
hint: remove one of the two entries

error: `main` is not a commit: wanted 40 or 64 hexadecimal digits
 --> rbuild.lock:4:10
  |
4 | commit = 'main'
  |          ^^^^^^
  |
hint: `rbuild lock` writes it; to begin anew, remove `rbuild.lock` first

error: `sha256:1111111111111111111111111111111111111111111111111111111111111111` is not a SHA-256: wanted 64 lower-case hexadecimal digits
 --> rbuild.lock:4:10
  |
4 | sha256 = 'sha256:1111111111111111111111111111111111111111111111111111111111111111'
  |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
hint: `rbuild lock` writes it; to begin anew, remove `rbuild.lock` first

error: unclosed array table, expected `]`
 --> rbuild.lock:2:7
  |
2 | [[url]
  |       ^
  |
hint: `rbuild lock` writes it; to begin anew, remove `rbuild.lock` first


"#]]
    );
}

#[test]
fn a_platform_finds_its_manifest_or_one_that_can_stand_in() {
    let image = |index: Option<OciDigest>, platforms: &[(&str, char)]| LockedImage {
        index,
        platforms: platforms
            .iter()
            .map(|(name, digit)| (platform(name), digest(*digit)))
            .collect(),
    };
    let several = image(
        Some(digest('9')),
        &[("linux/amd64", '1'), ("linux/arm/v6", '2')],
    );
    for (wanted, found) in [
        ("linux/amd64", Some('1')),
        ("linux/amd64/v3", Some('1')),
        ("linux/arm/v7", Some('2')),
        ("linux/arm64", Some('2')),
        ("linux/arm/v5", None),
        ("linux/s390x", None),
    ] {
        let found = found.map(digest);
        assert_eq!(several.manifest(&platform(wanted)), found, "{wanted}");
    }
    // As docker takes what is no index, whatever it is for.
    let single = image(None, &[("linux/amd64", '3')]);
    assert_eq!(single.manifest(&platform("linux/s390x")), Some(digest('3')));
}

#[test]
fn what_can_change_has_a_name() {
    let image = |reference: &str| {
        SourceOp::Image(ImageSource {
            reference: reference.into(),
            digest: None,
        })
    };
    let git = |commit: Option<&str>| {
        SourceOp::Git(GitSource {
            remote: "https://h/r.git".into(),
            reference: "main".into(),
            subdir: "sub".into(),
            keep_git_dir: true,
            skip_submodules: false,
            checksum: None,
            commit: commit.map(Into::into),
        })
    };
    let http = |url: &str, checksum: Option<OciDigest>| {
        SourceOp::Http(HttpSource {
            url: url.into(),
            checksum,
            filename: "f".into(),
            mode: None,
        })
    };
    let pinned = format!("docker.io/library/a:1@{}", digest('1'));
    for (source, want) in [
        (
            image("docker.io/library/a:1"),
            Some("docker.io/library/a:1"),
        ),
        (image(&pinned), None),
        (git(None), Some("https://h/r.git#main")),
        (git(Some("1234")), None),
        (http("https://h/f?a@b", None), Some("https://h/f?a@b")),
        (http("https://u:p@h:1/f", None), Some("https://h:1/f")),
        (http("https://u@h?q", None), Some("https://h?q")),
        (http("https://h/f", Some(digest('1'))), None),
    ] {
        let name = Name::of(&source).map(|name| name.to_string());
        assert_eq!(name.as_deref(), want, "{source:?}");
    }
}

#[test]
fn people_name_sources_as_they_write_them() {
    let image = Name::Image("docker.io/library/alpine:3.20".into());
    let ported = Name::Image("localhost:5000/a/b:latest".into());
    let git = Name::Git {
        remote: "https://h/r.git".into(),
        reference: "main".into(),
        checksum: None,
    };
    let url = Name::Url("https://h/f".into());
    for (name, word, want) in [
        (&image, "alpine", true),
        (&image, "alpine:3.20", true),
        (&image, "library/alpine", true),
        (&image, "docker.io/library/alpine:3.20", true),
        (&image, "alpine:3.19", false),
        (&image, "alpine:latest", false),
        (&image, "alp", false),
        (&image, "Alpine!", false),
        (&ported, "localhost:5000/a/b", true),
        (&ported, "a/b", false),
        (&git, "https://h/r.git", true),
        (&git, "https://h/r.git#main", true),
        (&git, "https://h/r.git#other", false),
        (&url, "https://h/f", true),
        (&url, "https://h/", false),
    ] {
        assert_eq!(name.is_meant_by(word), want, "{name} {word}");
    }
}

proptest! {
    #[test]
    fn whatever_names_are_they_are_read_back(
        url in ".{0,20}",
        remote in ".{0,20}",
        reference in ".{0,8}",
        checksum in proptest::option::of(".{0,8}"),
    ) {
        let git = Name::Git { remote, reference, checksum };
        let sources = [
            (git, Locked::Git("a".repeat(40))),
            (Name::Url(url), Locked::Url(digest('b'))),
        ];
        let file = LockFile { sources: sources.into(), ..LockFile::default() };
        prop_assert_eq!(parse(&source(&file.render())), Ok(file));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(version = 1\n)?(\\[\\[(image|git|url)\\]\\]\n)?.{0,40}") {
        if let Ok(file) = parse(&source(&text)) {
            prop_assert_eq!(parse(&source(&file.render())), Ok(file));
        }
    }
}
