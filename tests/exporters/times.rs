//! SOURCE_DATE_EPOCH and `rewrite-timestamp`, which reach as far as with BuildKit 73ed6825c: of an image the config alone;
//! with `rewrite-timestamp` the layers that the build made, where they have later times; of files alone every time.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::Value;

use crate::support::Base;
use crate::support::Image;
use crate::support::TestEnv;

const EPOCH: &str = "1700000000";
const IN_RFC_3339: &str = "2023-11-14T22:13:20Z";
const IN_TAR: &str = "2023-11-14 22:13:20";

fn built_with_epoch(outputs: &[&str]) -> TestEnv {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("one", "1")
        .file(
            "Dockerfile",
            "FROM busybox\nENV A=1\nCOPY --chmod=0644 one /etc/one\n\
             RUN touch -d 200101010000 /old && mkdir -p /d/e && touch -d 200101010000 /d && touch /new\nCMD one\n",
        );
    let args = outputs.iter().flat_map(|output| ["-o", output]);
    let mut command = env.rbuild_command(args.chain(["."]));
    env.run(command.env("SOURCE_DATE_EPOCH", EPOCH)).success();
    env
}

/// `YYYY-MM-DD HH:MM:SS path` of what is in an archive.
fn times(env: &TestEnv, tar: &str) -> Vec<String> {
    let listed = env
        .tool("tar", ["--utc", "--full-time", "-tvf", tar])
        .success();
    let lines = listed.stdout.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Seconds without a fraction.
        format!("{} {} {}", words[3], &words[4][..8], words[5])
    });
    lines.collect()
}

#[test]
fn configs_have_no_later_time_and_layers_only_if_asked() {
    let env = built_with_epoch(&[
        "type=oci,dest=kept.tar",
        "type=oci,dest=rewritten.tar,rewrite-timestamp=true",
        "type=oci,dest=earlier.tar,rewrite-timestamp=true,source-date-epoch=1600000000",
        "type=oci,dest=never.tar,source-date-epoch=",
    ]);
    let images = ["kept", "rewritten", "earlier", "never"]
        .map(|name| Image::from_oci_tar(&env, &format!("{name}.tar")));
    let own_times = |image: &Image| -> Vec<Value> {
        let history = image.config["history"].as_array().unwrap();
        let own = history
            .iter()
            .filter(|entry| entry["comment"] == "buildkit.dockerfile.v0");
        own.chain([&image.config])
            .map(|entry| entry["created"].clone())
            .collect()
    };
    for (image, time) in [
        (&images[0], IN_RFC_3339),
        (&images[1], IN_RFC_3339),
        (&images[2], "2020-09-13T12:26:40Z"),
    ] {
        assert_eq!(own_times(image), [time; 5]);
    }
    assert!(
        own_times(&images[3])
            .iter()
            .all(|time| time.as_str().unwrap() > IN_RFC_3339)
    );
    // The base's times are nobody's to change: its layer and its history are as they came.
    let [kept, rewritten, earlier, never] = &images;
    assert_eq!(kept.layers(), never.layers());
    for image in [rewritten, earlier] {
        assert_eq!(image.layers()[0], kept.layers()[0]);
        assert_eq!(image.config["history"][0], kept.config["history"][0]);
        assert_ne!(image.layers()[1], kept.layers()[1]);
    }
    let of_layer = |image: &Image, n| times(&env, image.layer_blob(n).to_str().unwrap());
    let later = of_layer(kept, -1)
        .into_iter()
        .filter(|line| line.as_str() > IN_TAR);
    assert!(later.count() > 0, "{:?}", of_layer(kept, -1));
    let last: BTreeSet<String> = of_layer(rewritten, -1).into_iter().collect();
    let wanted = [
        "2001-01-01 00:00:00 d/".to_owned(),
        "2001-01-01 00:00:00 old".to_owned(),
        format!("{IN_TAR} d/e/"),
        format!("{IN_TAR} new"),
    ];
    assert_eq!(last, BTreeSet::from(wanted));
}

#[test]
fn files_alone_have_that_time_and_no_other() {
    let env = built_with_epoch(&["type=tar,dest=rootfs.tar", "rootfs"]);
    let in_tar = times(&env, "rootfs.tar");
    assert!(in_tar.len() > 10);
    for line in in_tar {
        assert!(line.starts_with(IN_TAR), "{line}");
    }
    for path in [
        "old",
        "new",
        "d",
        "d/e",
        "etc/one",
        "bin",
        "bin/sh",
        "etc/passwd",
    ] {
        let found = fs::symlink_metadata(env.path("rootfs").join(path));
        let found = found.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(
            (found.mtime(), found.mtime_nsec()),
            (1_700_000_000, 0),
            "{path}"
        );
    }
}
