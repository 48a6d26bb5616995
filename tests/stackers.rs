//! The link stacker makes the layers that the overlay stacker makes: their digests, with times after a moment cut off,
//! are equal, and so is what steps see.

use std::fs;

use crate::support::Base;
use crate::support::Image;
use crate::support::TestEnv;

/// Before this is what a step keeps, after it what it writes.
const EPOCH: &str = "--build-arg=SOURCE_DATE_EPOCH=1700000000";

impl TestEnv {
    /// Builds with both, each with a store of its own, and compares.
    fn alike(&self) {
        let [overlay, link] = ["overlay", "link"].map(|stacker| {
            let root = format!("--root=../{stacker}");
            let output = format!(
                "type=oci,dest={stacker}.tar,rewrite-timestamp=true,compression=uncompressed"
            );
            let stacker_flag = format!("--stacker={stacker}");
            let args = [&root, &stacker_flag, EPOCH, "-o", &output, "."];
            self.rbuild(args).success();
            Image::from_oci_tar(self, &format!("{stacker}.tar"))
        });
        assert_eq!(overlay.layers().len(), link.layers().len());
        for at in 0..overlay.layers().len() as isize {
            let list = |image: &Image| {
                let entries = image.layer(at).into_iter();
                entries
                    .map(|entry| format!("{entry}\n"))
                    .collect::<String>()
            };
            let created = &overlay.history();
            assert_eq!(list(&overlay), list(&link), "layer {at} of {created:#?}");
            let bytes = |image: &Image| fs::read(image.layer_blob(at)).unwrap();
            assert!(
                bytes(&overlay) == bytes(&link),
                "layer {at} of {created:#?}"
            );
        }
    }
}

/// All that steps do to files, one after the other: so a root is also made of the one before.
#[test]
fn every_change_makes_the_same_layer() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        r#"
FROM busybox
RUN mkdir -p /t/full/sub /t/empty /t/gone /t/moved/in && cd /t && \
    for f in a b c d full/x full/y full/sub/z gone/g moved/m moved/in/n; do echo $f > $f; done && \
    ln a linked && ln -s a symlink && mkfifo fifo && chmod 6755 d && chown 5:7 c && chown -h 3:4 symlink && \
    find /t | xargs touch -h -d @1600000000
RUN rm /t/a
RUN rm -r /t/gone
RUN rm -r /t/full/sub && mkdir /t/full/sub
RUN rm -r /t/full && mkdir /t/full && echo new > /t/full/x
RUN echo appended >> /t/b
RUN printf B | dd of=/t/b conv=notrunc bs=1 2>/dev/null && touch -d @1600000000 /t/b
RUN chmod 700 /t/b
RUN chmod 600 /t/b && chmod 700 /t/b
RUN touch /t/b && touch -d @1600000000 /t/b
RUN chown 1:2 /t/b /t/empty
RUN mv /t/c /t/renamed
RUN mv /t/moved /t/moved-too
RUN mkdir /t/moved && echo other > /t/moved/m
RUN rm -r /t/empty && echo file > /t/empty
RUN rm /t/empty && mkdir /t/empty
RUN rm -r /t/empty && ln -s full /t/empty
RUN ln /t/b /t/b2 && ln /t/b /t/full/b3
RUN echo to both >> /t/full/b3
RUN rm /t/b2 && ln -f /t/b /t/b4 && chmod 711 /t/b4
RUN rm /t/b4
RUN rm /t/symlink && ln -s b /t/symlink
RUN rm /t/fifo && mkfifo -m 640 /t/fifo
RUN cp -a /t /copy
RUN rm -r /t && mv /copy /t
RUN chmod 711 /
RUN true
RUN mkdir -p -m 0 /closed/in && echo x > /closed/in/x && chmod 0 /closed/in
RUN rm /closed/in/x
RUN echo "$(ls /t | wc -l) names" > /seen && stat -c '%n %A %u:%g %s' /t/full/x /t/d /t/b /t/fifo >> /seen && stat -c '%n %A %Y' /t/d >> /seen && stat -c %A / >> /seen
USER 12:34
WORKDIR /srv/of/user
RUN echo mine > /tmp/mine
"#,
    );
    env.alike();
}

#[test]
fn mounts_leave_the_same_traces() {
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("src/a", "a\n")
        .file("src/sub/b", "b\n")
        .file(
            "Dockerfile",
            r#"
FROM busybox AS other
RUN mkdir -p /d/e && echo one > /d/e/one && echo two > /d/two
RUN rm /d/two && echo three > /d/three

FROM busybox
RUN mkdir -p /keeps/old && echo below > /keeps/below && touch -d @1600000000 /keeps/old /keeps/below /keeps
RUN --mount=type=bind,source=src,target=/src cat /src/a /src/sub/b > /read; ! echo x > /src/a
RUN --mount=type=bind,source=src,target=/src,rw echo x > /src/a && cat /src/a > /written && touch /src/new
RUN --mount=type=bind,source=src/sub/b,target=/one/file cat /one/file > /from-file
RUN --mount=type=bind,from=other,source=/d,target=/d find /d | sort > /listed
RUN --mount=type=bind,from=other,target=/whole cat /whole/d/three > /three
RUN --mount=type=cache,target=/keeps/cache echo in the cache > /keeps/cache/file
RUN --mount=type=cache,target=/keeps/cache cat /keeps/cache/file > /keeps/from-cache
RUN --mount=type=cache,target=/keeps echo hidden > /keeps/below
RUN cat /keeps/below > /below
RUN --mount=type=tmpfs,target=/mem/ory echo x > /mem/ory/x && stat -c %a /mem/ory > /mode
RUN --mount=type=tmpfs,target=/tmp echo x > /tmp/x
RUN --mount=type=tmpfs,target=/made echo x > /made/x && mkdir -p /made-not && echo y > /made-not/y
RUN stat -c '%n %Y' /keeps/old /tmp > /times; ls -a / /keeps /etc > /names
"#,
        );
    env.alike();
}

/// An image without anything: all mount points are made for the step.
#[test]
fn mount_points_are_in_no_layer() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        r#"
FROM busybox AS tools
FROM scratch
COPY --from=tools /bin /bin
RUN ["/bin/busybox", "true"]
RUN ["/bin/busybox", "sh", "-c", "echo x > /etc/x"]
RUN ["/bin/busybox", "sh", "-c", "ls -a / /etc > /names; mkdir -p /deep/er; ln -s deep /link"]
RUN --mount=type=tmpfs,target=/link/er/tmp --mount=type=tmpfs,target=/link/new ["/bin/busybox", "touch", "/link/x"]
"#,
    );
    env.alike();
    let layer = Image::from_oci_tar(&env, "link.tar").layer(1);
    assert_eq!(layer, [], "`true` changes nothing");
}

/// A name of a file in the store must not be written to, however a step does it.
#[test]
fn steps_do_not_write_to_the_store() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox AS base\n\
         RUN echo original > /file && touch -d @1600000000 /file\n\
         FROM base AS one\n\
         RUN cat /file && printf X | dd of=/file conv=notrunc bs=1 && touch -d @1600000000 /file && cat /file > /one\n\
         FROM base AS two\n\
         RUN cat /file > /two\n\
         FROM scratch\n\
         COPY --from=base /file /0\n\
         COPY --from=one /one /1\n\
         COPY --from=two /two /2\n",
    );
    env.rbuild(["--stacker=link", "--jobs=1", "-o", "../out", "."])
        .success();
    let read = |name: &str| fs::read_to_string(env.outside("out").join(name)).unwrap();
    assert_eq!(
        ["0", "1", "2"].map(read),
        ["original\n", "Xriginal\n", "original\n"]
    );
    env.rbuild(["debug", "fsck", "--deep"]).success();
}

/// Which stacker a build takes is none of its keys': what one has made the other finds, and can stand on.
#[test]
fn stores_are_shared_by_both() {
    let plan = |last: &str| {
        format!(
            "FROM busybox\nRUN mkdir /d && touch /d/a /d/b /top\nRUN rm -r /d /top && mkdir /d && touch /d/c\nRUN {last}\n"
        )
    };
    for (first, second) in [("overlay", "link"), ("link", "overlay")] {
        let env = TestEnv::new()
            .bases([Base::Busybox])
            .file("Dockerfile", plan("true"));
        let build = |stacker: &str| {
            let stacker = format!("--stacker={stacker}");
            env.rbuild([&stacker, "--progress=plain", "-o", "../out", "."])
                .success()
        };
        build(first);
        assert_eq!(build(second).ran(), [""; 0]);
        env.write(
            "Dockerfile",
            plan("echo $(ls / /d | grep -c -e ^c -e ^top) > /seen"),
        );
        assert_eq!(build(second).cached().len(), 2);
        let seen = fs::read_to_string(env.outside("out/seen")).unwrap();
        assert_eq!(seen, "1\n", "{first}, {second}");
        env.rbuild(["debug", "fsck", "--deep"]).success();
    }
}

/// Roots are large: none stays.
#[test]
fn nothing_is_left_of_roots() {
    let env = TestEnv::new().bases([Base::Busybox]).file(
        "Dockerfile",
        "FROM busybox\nARG FAIL=0\nRUN touch /a\nRUN --mount=type=bind,target=/src touch /b\nRUN touch /c && exit $FAIL\n",
    );
    let left = || {
        let entries = fs::read_dir(env.store().join("v1/tmp")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names.collect::<Vec<_>>()
    };
    env.rbuild(["--stacker=link", "."]).success();
    assert_eq!(left().len(), 0, "{:?}", left());
    env.rbuild(["--stacker=link", "--build-arg=FAIL=3", "--no-cache", "."])
        .code(1);
    assert_eq!(left().len(), 0, "{:?}", left());
}
