//! Root file systems without an image: whose directories they are in, and what becomes of what was there. The listings are
//! those of BuildKit 73ed6825c.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;

use snapbox::str;

use crate::support::Base;
use crate::support::Image;
use crate::support::TestEnv;
use crate::support::list_tar;

/// Both platforms have `same`, and each a file of its own.
fn two_platforms() -> TestEnv {
    TestEnv::new()
        .file("amd64", "one")
        .file("arm64", "other")
        .file(
            "Dockerfile",
            "FROM scratch AS own\nARG TARGETARCH\nCOPY $TARGETARCH /d/$TARGETARCH\n\
             FROM own\nCOPY amd64 /d/same\n",
        )
}

const BOTH: &str = "--platform=linux/amd64,linux/arm64";

/// What is below a directory: files by their paths, directories with a slash.
fn listing(env: &TestEnv, dir: &str) -> Vec<String> {
    let top = env.path(dir);
    let (mut open, mut found) = (vec![top.clone()], Vec::new());
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let below = path.strip_prefix(&top).unwrap().display().to_string();
            match entry.file_type().unwrap().is_dir() {
                true => {
                    found.push(below + "/");
                    open.push(path);
                }
                false => found.push(below),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn platforms_have_a_directory_each() {
    let env = two_platforms();
    let outputs = ["-o", "both", "-o", "type=tar,dest=both.tar"];
    env.rbuild([BOTH].into_iter().chain(outputs).chain(["."]))
        .success();
    let both = [
        "linux_amd64/",
        "linux_amd64/d/",
        "linux_amd64/d/amd64",
        "linux_amd64/d/same",
        "linux_arm64/",
        "linux_arm64/d/",
        "linux_arm64/d/arm64",
        "linux_arm64/d/same",
    ];
    assert_eq!(listing(&env, "both"), both);
    let directory = fs::metadata(env.path("both/linux_arm64")).unwrap();
    assert_eq!(
        (directory.permissions().mode() & 0o7777, directory.mtime()),
        (0o755, 0)
    );
    let in_tar: Vec<String> = list_tar(&env.path("both.tar"))
        .into_iter()
        .map(|entry| match entry.mode.starts_with('d') {
            true => format!("{}/", entry.path),
            false => entry.path,
        })
        .collect();
    assert_eq!(in_tar, both);
    let content = env.tool("tar", ["-xOf", "both.tar", "linux_arm64/d/arm64"]);
    assert_eq!(content.success().stdout, "other");

    // One alone has none, unless asked.
    let outputs = [
        "-o",
        "one",
        "-o",
        "type=local,dest=split,platform-split=true",
    ];
    let tar = ["-o", "type=tar,dest=split.tar,platform-split=true"];
    env.rbuild(
        ["--platform=arm64"]
            .into_iter()
            .chain(outputs)
            .chain(tar)
            .chain(["."]),
    )
    .success();
    assert_eq!(listing(&env, "one"), ["d/", "d/arm64", "d/same"]);
    assert_eq!(listing(&env, "split"), both[4..]);
    let entries = list_tar(&env.path("split.tar"));
    assert_eq!(entries[0].to_string(), "drwxr-xr-x 0/0 linux_arm64");
}

#[test]
fn platforms_in_one_directory_share_no_file() {
    let env = two_platforms();
    let output = "type=local,dest=out,platform-split=false";
    env.rbuild([BOTH, "--target=own", "-o", output, "."])
        .success();
    assert_eq!(listing(&env, "out"), ["d/", "d/amd64", "d/arm64"]);
    env.rbuild([BOTH, "-o", output, "."])
        .code(2)
        .fails_with(str![[r#"
error: `d/same` is in both linux/amd64 and linux/arm64, and there is one directory for them
hint: leave `platform-split=false` out, and each has a directory of its own
[exit status: 2]

"#]]);
    assert_eq!(
        listing(&env, "out"),
        ["d/", "d/amd64", "d/arm64"],
        "nothing is overwritten"
    );
    let tar = "type=tar,dest=x.tar,platform-split=false";
    env.rbuild([BOTH, "-o", tar, "."])
        .code(2)
        .fails_with(str![[r#"
error: `type=tar` has a directory for each of several platforms
hint: leave `platform-split=false` out, or use `type=local`
[exit status: 2]

"#]]);
}

#[test]
fn what_else_is_in_the_directory_stays_or_goes() {
    let env = two_platforms()
        .file("out/d/old", "old")
        .file("out/sub/f", "old")
        .file("out/d/same/was/a/directory", "old")
        .symlink("out/link", "/etc");
    let amd64 = "--platform=amd64";
    env.rbuild([amd64, "-o", "out", "."]).success();
    let kept = ["d/", "d/amd64", "d/old", "d/same", "link", "sub/", "sub/f"];
    assert_eq!(listing(&env, "out"), kept);
    let delete = "type=local,dest=out,mode=delete";
    env.rbuild([amd64, "-o", delete, "."]).success();
    assert_eq!(listing(&env, "out"), ["d/", "d/amd64", "d/same"]);
    assert!(fs::exists("/etc/passwd").unwrap());
    env.rbuild([BOTH, "-o", delete, "."]).success();
    let tops: Vec<String> = listing(&env, "out");
    assert_eq!(
        tops.iter()
            .filter(|path| !path.starts_with("linux_"))
            .count(),
        0,
        "{tops:?}"
    );

    // The working directory has the Dockerfile in it.
    env.rbuild([amd64, "-o", "type=local,dest=.,mode=delete", "."])
        .code(2)
        .says("hint: allow it with `--allow buildx.local.delete`");
    let elsewhere = env.outside("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("old"), "").unwrap();
    let output = format!("type=local,dest={},mode=delete", elsewhere.display());
    let allow = ["--allow", "network.host,buildx.local.delete"];
    env.rbuild([amd64, "-o", &output, "."].into_iter().chain(allow))
        .success();
    assert_eq!(
        listing(&env, elsewhere.to_str().unwrap()),
        ["d/", "d/amd64", "d/same"]
    );
}

/// A directory without the right to write in it is written into again.
#[test]
fn an_export_goes_over_an_earlier_one() {
    let env = TestEnv::new()
        .file("f", "1")
        .file("Dockerfile", "FROM scratch\nCOPY --chmod=0555 f /d/f\n");
    env.rbuild(["-o", "out", "."]).success();
    env.write("f", "2");
    env.rbuild(["-o", "type=local,dest=out,mode=delete", "."])
        .success();
    assert_eq!(fs::read_to_string(env.path("out/d/f")).unwrap(), "2");
    let mode = fs::metadata(env.path("out/d"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o555);
    fs::set_permissions(env.path("out/d"), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A build that runs no process reads what an earlier one left to owners that only a user namespace has.
#[test]
fn files_of_other_owners_are_there_for_later_builds() {
    let env = TestEnv::new().bases([Base::Busybox]).file("f", "f").file(
        "Dockerfile",
        "FROM busybox AS a\nCOPY --chown=app:app --chmod=0700 f /d/f\nRUN chmod 0700 /d\n\
         FROM scratch AS b\nCOPY --from=a /d /d\n",
    );
    env.rbuild(["--target=a", "."]).success();
    env.rbuild(["--target=a", "-o", "type=oci,dest=out.tar", "."])
        .success();
    env.rbuild(["--target=a", "-o", "out", "."]).success();
    assert_eq!(fs::read_to_string(env.path("out/d/f")).unwrap(), "f");
    // A step that is none of a process.
    env.rbuild(["--target=b", "."]).success();
    let image = Image::from_oci_tar(&env, "out.tar");
    let files: Vec<String> = image.layer(1).iter().map(ToString::to_string).collect();
    assert!(
        files.contains(&"-rwx------ 1000/1000 d/f".to_owned()),
        "{files:?}"
    );
}
