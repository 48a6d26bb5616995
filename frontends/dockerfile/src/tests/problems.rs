//! What is said about files that cannot be built: message, place, hint.

use rbuild_llb::frontend::NamedContext;

use super::*;

/// Each error as `line:column "text it points at" message`, and its hints.
fn problems(request: &FrontendRequest) -> Vec<String> {
    let Err(errors) = build(None, request) else {
        return Vec::new();
    };
    errors
        .iter()
        .map(|error| {
            let mut line = match error.labels.first() {
                Some(label) => {
                    let (row, column) = label.span.file.position(label.span.range.start);
                    format!("{row}:{column} {:?} ", label.span.text())
                }
                None => String::new(),
            };
            line.push_str(&error.message);
            for hint in &error.hints {
                line.push_str(&format!(" [{hint}]"));
            }
            line
        })
        .collect()
}

fn check(text: &str, want: &[&str]) {
    assert_eq!(problems(&request(text)), want, "{text}");
}

#[test]
fn files_without_stages() {
    for text in ["", "\n\n", "# only a comment\n"] {
        check(
            text,
            &["1:1 \"\" file with no instructions [start with `FROM <image>`]"],
        );
    }
    check(
        "ARG A=1\n",
        &[
            "1:1 \"ARG A=1\" dockerfile contains no stages to build [start the first stage with `FROM <image>`]",
        ],
    );
    check(
        "RUN a\nFROM b\n",
        &[
            "1:1 \"RUN\" no build stage in current context [only `ARG` may stand before the first `FROM`]",
        ],
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    check(
        "FORM alpine\nFROM alpine AS 1a\nRNU x\nCOPY --form=a b c\nEXPOSE\nENV A\nRUN --network=lan x\n",
        &[
            "1:1 \"FORM\" unknown instruction `FORM` [did you mean `FROM`?]",
            "2:16 \"1a\" invalid name for build stage: `1a`",
            "3:1 \"RNU\" unknown instruction `RNU` [did you mean `RUN`?]",
            "4:6 \"--form=a\" unknown flag `--form` [did you mean `--from`?]",
            "5:1 \"EXPOSE\" `EXPOSE` requires at least one argument",
            "6:5 \"A\" `ENV` must have two arguments [write `ENV A=value`]",
            "7:15 \"lan\" invalid network mode `lan`",
        ],
    );
}

#[test]
fn instructions_with_wrong_arguments() {
    for (line, want) in [
        ("COPY a", "\"a\" `COPY` requires at least two arguments"),
        (
            "COPY a <<E\nE",
            "\"a <<E\" `COPY` cannot accept a heredoc as a destination",
        ),
        ("COPY <<E x\nabc", "\"<<E\" unterminated heredoc"),
        ("COPY --chmod=9 a b", "\"9\" invalid `--chmod` value `9`"),
        (
            "COPY --link=maybe a b",
            "\"maybe\" flag `--link` wants `true` or `false`, not `maybe`",
        ),
        (
            "COPY --from a b",
            "\"--from\" missing a value on flag `--from`",
        ),
        (
            "COPY --from=a --from=b c d",
            "\"--from=b\" duplicate flag `--from`",
        ),
        (
            "COPY --from=$X a b",
            "\"$X\" variable expansion is not supported for `--from` [define a stage, `FROM $NAME AS <stage>`, and copy from that]",
        ),
        ("COPY --from=7 a b", "\"7\" invalid stage index 7"),
        (
            "COPY --from=Bad/Name a b",
            "\"Bad/Name\" `Bad/Name` is neither a stage nor an image",
        ),
        (
            "COPY https://x/y z",
            "\"https://x/y\" source can't be a URL for `COPY` [use `ADD`]",
        ),
        (
            "COPY git@h:x.git z",
            "\"git@h:x.git\" source can't be a git repository for `COPY` [use `ADD`]",
        ),
        (
            "ADD --checksum=sha256:0 https://x/y z",
            "\"sha256:0\" invalid `--checksum` value `sha256:0`",
        ),
        (
            "ADD --checksum=x a z",
            "\"x\" `--checksum` requires an HTTP(S) or git source",
        ),
        (
            "ADD https://x/y.git?nope=1 z",
            "\"https://x/y.git?nope=1\" unexpected query `nope` of a git URL",
        ),
        (
            "CMD [1]",
            "\"[1]\" when using JSON array syntax, arrays must be comprised of strings only",
        ),
        (
            "SHELL bash",
            "\"bash\" `SHELL` requires the arguments to be in JSON form [for example `SHELL [\"/bin/bash\", \"-c\"]`]",
        ),
        (
            "SHELL []",
            "\"SHELL\" `SHELL` requires at least one argument",
        ),
        (
            "ONBUILD ONBUILD RUN x",
            "\"ONBUILD\" chaining `ONBUILD` via `ONBUILD ONBUILD` is not allowed",
        ),
        (
            "ONBUILD FROM x",
            "\"FROM\" `FROM` is not allowed as an `ONBUILD` trigger",
        ),
        (
            "HEALTHCHECK CMD",
            "\"CMD\" missing command after `HEALTHCHECK CMD`",
        ),
        (
            "HEALTHCHECK NONE x",
            "\"x\" `HEALTHCHECK NONE` takes no arguments",
        ),
        (
            "HEALTHCHECK --interval=1 CMD x",
            "\"1\" invalid duration `1`",
        ),
        (
            "HEALTHCHECK RUN x",
            "\"RUN\" unknown type `RUN` in `HEALTHCHECK`",
        ),
        ("EXPOSE 80/icmp", "\"80/icmp\" invalid port `80/icmp`"),
        ("STOPSIGNAL SIGNOPE", "\"SIGNOPE\" invalid signal `SIGNOPE`"),
        (
            "VOLUME [\"\"]",
            "\"[\\\"\\\"]\" `VOLUME` specified can not be an empty string",
        ),
        ("ENV A=1 B", "\"B\" can't find `=` in `B`"),
        ("ENV =1", "\"=1\" `ENV` names can not be blank"),
        ("ENV A=${B:?needed}", "\"${B:?needed}\" B: needed"),
        ("ENV A=${B", "\"${B\" missing `}` after `${`"),
        ("RUN []", "\"RUN []\" `RUN` has no command"),
        (
            "RUN --mount=typ=cache,target=/x y",
            "\"cache\" unexpected key `typ` in a mount [did you mean `type`?]",
        ),
        (
            "RUN --mount=type=cach,target=/x y",
            "\"cach\" invalid value `cach` for `type` of a mount [did you mean `cache`?]",
        ),
        (
            "RUN --mount=type=cache,target=/x,sharing=some y",
            "\"some\" invalid value `some` for `sharing` of a mount",
        ),
        (
            "RUN --mount=type=bind,target=/x,uid=1 y",
            "\"1\" unexpected key `uid` for mount type `bind`",
        ),
        (
            "RUN --mount=type=tmpfs,target=/ y",
            "\"type=tmpfs,target=/\" a mount needs a `target` other than `/`",
        ),
        (
            "RUN --mount=type=secret y",
            "\"type=secret\" one of `id` and `target` of a secret mount is required",
        ),
        (
            "RUN --mount=from=$X,target=/x y",
            "\"$X\" `from` of a mount does not expand variables [name the image in a stage, `FROM … AS <name>`, and use that]",
        ),
        (
            "RUN --mount=target y",
            "\"target\" `target` of a mount needs a value",
        ),
        (
            "RUN --device=a/b=c y",
            "\"a/b=c\" `RUN --device` is not supported [steps see no devices of the machine; BuildKit has the flag in `-labs` frontends only]",
        ),
    ] {
        let got = problems(&request(&format!("FROM alpine\n{line}\n")));
        let [got] = got.as_slice() else {
            panic!("{line}: {got:?}");
        };
        let (_, got) = got.split_once(' ').unwrap();
        assert_eq!(got, want, "{line}");
    }
}

#[test]
fn directives() {
    for (text, want) in [
        ("# escape=x\nFROM a", "1:10 \"x\" invalid escape token `x`"),
        (
            "# escape=`\n#escape=`\nFROM a",
            "2:1 \"#escape=`\" only one `escape` parser directive can be used",
        ),
    ] {
        check(text, &[want]);
    }
}

#[test]
fn files_of_other_languages() {
    let does = "rbuild reads what `docker/dockerfile` reads by itself, and runs no other frontend";
    let todo = "take the `syntax` out if this is a Dockerfile";
    for (text, place) in [
        ("# check=skip=all\n# syntax=me/mine:1 x\nFROM a", "2:10"),
        ("// syntax=me/mine:1\n[build]\n", "1:11"),
        ("#!/usr/bin/env x\n{\"syntax\": \"me/mine:1\"}\n", "2:13"),
    ] {
        let message = "this file is for the frontend `me/mine:1`";
        check(
            text,
            &[&format!(
                "{place} \"me/mine:1\" {message} [{does}] [{todo}]"
            )],
        );
    }
    for text in [
        "# syntax=docker/dockerfile:1.7-labs\nFROM a",
        "#!/usr/bin/env x\n# syntax=docker.io/docker/dockerfile\nFROM a",
    ] {
        check(text, &[]);
    }
    let mut request = request("# syntax=docker/dockerfile:1\nFROM a");
    let arg = "BUILDKIT_SYNTAX".to_owned();
    request.build_args.insert(arg.clone(), "me/mine opt".into());
    let todo = "leave `BUILDKIT_SYNTAX` out if this is a Dockerfile";
    let message = "the build argument `BUILDKIT_SYNTAX` asks for the frontend `me/mine`";
    assert_eq!(
        problems(&request),
        [format!("1:1 \"\" {message} [{does}] [{todo}]")]
    );
    // The argument counts more than the file.
    request.source = file("Dockerfile", "# syntax=me/mine\nFROM a");
    request
        .build_args
        .insert(arg, "docker/dockerfile:1 opt".into());
    assert!(problems(&request).is_empty());
}

#[test]
fn places_are_right_inside_continued_lines() {
    check(
        "FROM alpine\nCOPY --chown=1:1 \\\n  # comment\n  --chmod=bad \\\n  a b\n",
        &["4:11 \"bad\" invalid `--chmod` value `bad`"],
    );
    check(
        "FROM alpine\nENV ä=1 \\\n  B=${C\n",
        &["3:5 \"${C\" missing `}` after `${`"],
    );
}

#[test]
fn stages_that_do_not_fit_together() {
    check(
        "FROM a AS x\nCOPY --from=y / /\nFROM a AS y\nCOPY --from=x / /\n",
        &["2:13 \"y\" circular dependency detected on stage `x`: x → y → x"],
    );
    check(
        "FROM a AS x\nCOPY --from=x / /\n",
        &["2:13 \"x\" circular dependency detected on stage `x`: x → x"],
    );
    check(
        "FROM a AS x\nRUN --mount=from=y,target=/y z\nFROM a AS y\nFROM x\n",
        &["2:18 \"y\" cannot take files from stage `y`: it needs to be defined before stage `x`"],
    );
    check(
        "FROM Build\n",
        &["1:6 \"Build\" `Build` is neither a stage nor an image"],
    );
    check(
        "ARG VERSION\nFROM $VERSON\n",
        &["2:6 \"$VERSON\" base name (`$VERSON`) should not be blank [did you mean `VERSION`?]"],
    );
    check(
        "ARG TAG\nFROM busybox:$TAG\n",
        &[
            "2:6 \"busybox:$TAG\" `busybox:` is neither a stage nor an image [`TAG` has no value: `--build-arg TAG=…`, or a default, `ARG TAG=…`]",
        ],
    );
    check(
        "ARG A\nFROM busybox:$TAG\n",
        &[
            "2:6 \"busybox:$TAG\" `busybox:` is neither a stage nor an image [`TAG` is not declared: `ARG TAG=…` before the first `FROM`]",
        ],
    );
    check(
        "FROM $BASE\n",
        &[
            "1:6 \"$BASE\" base name (`$BASE`) should not be blank [`BASE` is not declared: `ARG BASE=…` before the first `FROM`]",
        ],
    );
    check(
        "FROM --platform=$BUILDPLATFROM a\n",
        &[
            "1:17 \"$BUILDPLATFROM\" empty platform value from expression `$BUILDPLATFROM` [did you mean `BUILDPLATFORM`?]",
        ],
    );
    check(
        "FROM --platform=a/b/c/d x\n",
        &["1:17 \"a/b/c/d\" failed to parse platform `a/b/c/d`"],
    );
}

#[test]
fn targets_that_are_not_there() {
    let mut request = request("FROM a AS build\nFROM b\n");
    for (target, hint) in [
        ("biuld", "did you mean `build`?"),
        ("nothing", "the stages are `build`"),
        ("2", "the stages are `build`"),
    ] {
        request.targets = vec![target.to_owned()];
        let want = format!("2:1 \"FROM b\" target stage `{target}` could not be found [{hint}]");
        assert_eq!(problems(&request), [want]);
    }
}

#[test]
fn a_target_is_no_number() {
    let mut nameless = request("FROM a\nFROM b\n");
    nameless.targets = vec!["0".to_owned()];
    assert_eq!(
        problems(&nameless),
        [
            "2:1 \"FROM b\" target stage `0` could not be found [no stage has a name: give one with `FROM … AS NAME`]"
        ]
    );
}

#[test]
fn problems_of_stages_that_are_not_needed_do_not_matter() {
    check("FROM a AS x\nENV A=${B\nSTOPSIGNAL nope\nFROM b\n", &[]);
}

#[test]
fn findings_can_be_made_errors() {
    let got = problems(&request("# check=error=true\nFROM a\nMAINTAINER b\n"));
    assert_eq!(
        got.last().unwrap(),
        "lint violation found for rules: MaintainerDeprecated [`# check=error=true` makes findings errors]"
    );
}

#[test]
fn no_cut_makes_it_panic() {
    for case in cases() {
        let mut request = case_request(&case);
        let text = request.source.text.clone();
        request.contexts.insert(
            "tools".into(),
            NamedContext::Local {
                exclude: Vec::new(),
            },
        );
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            request.source = file("Dockerfile", &text[..at]);
            let errors = Dockerfile::default().outline(&request).err();
            for label in errors.into_iter().flatten().flat_map(|e| e.labels) {
                assert!(label.span.range.end <= at);
            }
        }
        for (at, _) in text.match_indices('\n') {
            for part in [&text[..at], &text[at..]] {
                request.source = file("Dockerfile", part);
                build(Some(&case), &request).ok();
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn no_edit_makes_it_panic(
        case in 0usize..1000,
        edits in proptest::collection::vec((0usize..10_000, 0usize..5, "[ -~\\n\\t\\\\$\"'#é<{}]{0,3}"), 1..5),
    ) {
        let cases = cases();
        let mut request = case_request(&cases[case % cases.len()]);
        let mut text: Vec<char> = request.source.text.chars().collect();
        for (at, cut, insert) in edits {
            let at = at % (text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, insert.chars());
        }
        request.source = file("Dockerfile", &text.iter().collect::<String>());
        let len = request.source.text.len();
        for error in build(None, &request).err().into_iter().flatten() {
            for label in error.labels {
                assert!(label.span.range.start <= label.span.range.end);
                assert!(label.span.range.end <= len);
            }
        }
    }
}
