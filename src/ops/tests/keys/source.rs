//! Sources, and what only stacks or compares.

use rbuild_llb::op::GitSource;
use rbuild_llb::op::HttpSource;

use super::*;

#[test]
fn sources() {
    let mut rows = Rows::new();
    let digest = |byte| Some(OciDigest::from_bytes([byte; 32]));
    let image = |reference: &str, byte| {
        Op::Source(SourceOp::Image(ImageSource {
            reference: reference.to_owned(),
            digest: digest(byte),
        }))
    };
    let base = Case::of(image("docker.io/library/node:20", 0xab));
    let changed = "digest sha256:abababababab → sha256:cdcdcdcdcdcd";
    rows.row(&base, ByDefinition, changed, |case| {
        case.op = image("docker.io/library/node:20", 0xcd)
    });
    rows.row(&base, Neither, "", |case| {
        case.op = image("docker.io/library/node:21", 0xab)
    });
    let platform = "platform linux/amd64 → linux/arm64";
    rows.row(&base, ByDefinition, platform, |case| {
        case.platform = Platform::new("linux", "arm64", "");
    });
    let git = |change: &dyn Fn(&mut GitSource)| {
        let mut git = GitSource {
            remote: "https://example.org/a.git".to_owned(),
            reference: "main".to_owned(),
            subdir: String::new(),
            keep_git_dir: false,
            skip_submodules: false,
            checksum: None,
            commit: Some("1111".to_owned()),
        };
        change(&mut git);
        Op::Source(SourceOp::Git(git))
    };
    let case = Case::of(git(&|_| {}));
    for (keys, said, op) in [
        (
            ByDefinition,
            "commit 1111 → 2222",
            git(&|git| git.commit = Some("2222".to_owned())),
        ),
        (
            ByDefinition,
            "subdirectory docs added",
            git(&|git| git.subdir = "docs".to_owned()),
        ),
        (
            ByDefinition,
            "whether `.git` is kept changed",
            git(&|git| git.keep_git_dir = true),
        ),
        (
            ByDefinition,
            "whether submodules are fetched changed",
            git(&|git| git.skip_submodules = true),
        ),
        (Neither, "", git(&|git| git.reference = "v1".to_owned())),
        (
            Neither,
            "",
            git(&|git| git.remote = "https://me:pw@example.org/a.git".to_owned()),
        ),
    ] {
        rows.row(&case, keys, said, |case| case.op = op);
    }
    let http = |change: &dyn Fn(&mut HttpSource)| {
        let mut http = HttpSource {
            url: "https://example.org/a".to_owned(),
            checksum: digest(0xab),
            filename: "a".to_owned(),
            mode: None,
        };
        change(&mut http);
        Op::Source(SourceOp::Http(http))
    };
    let case = Case::of(http(&|_| {}));
    for (keys, said, op) in [
        (
            ByDefinition,
            changed,
            http(&|http| http.checksum = digest(0xcd)),
        ),
        (
            ByDefinition,
            "file name a → b",
            http(&|http| http.filename = "b".to_owned()),
        ),
        (
            ByDefinition,
            "mode changed",
            http(&|http| http.mode = Some(0o755)),
        ),
        (Neither, "", http(&|http| http.mode = Some(0o600))),
        (
            Neither,
            "",
            http(&|http| http.url = "https://me:pw@example.org/a".to_owned()),
        ),
    ] {
        rows.row(&case, keys, said, |case| case.op = op);
    }
}

/// What only stacks or compares has no key but that of its definition.
#[test]
fn merge_and_diff() {
    let mut rows = Rows::new();
    let case = Case::of(Op::Merge);
    assert_eq!(rows.records(&case).1, None);
    rows.row(&case, ByDefinition, "other inputs", |case| {
        case.op = Op::Diff
    });
    rows.row(&case, ByDefinition, "other inputs", |case| case.base = 2);
    rows.row(&case, Neither, "", |case| case.base_files = "rebuilt");
}
