use snapbox::assert_data_eq;
use snapbox::str;

use super::*;
use crate::request::AnnotationLevel;

fn kind(text: &str) -> OutputKind {
    parse(text).unwrap().spec.kind
}

fn local(dest: &str) -> OutputKind {
    OutputKind::Local {
        dest: dest.into(),
        split: None,
        delete: false,
    }
}

fn image(push: Push) -> ImageOutput {
    ImageOutput::with_push(push)
}

#[test]
fn kinds_and_destinations() {
    let file = |path: &str| Destination::File(path.into());
    let tar = |dest| OutputKind::Tar { dest, split: None };
    let load = || OutputKind::Load { context: None };
    for (text, want) in [
        ("-", tar(Destination::Stdout)),
        ("out", local("out")),
        ("type=local,dest=a b", local("a b")),
        ("type=tar", tar(Destination::Stdout)),
        ("type=tar,dest=x.tar", tar(file("x.tar"))),
        (
            "type=tar,dest=x.tar,platform-split=1",
            OutputKind::Tar {
                dest: file("x.tar"),
                split: Some(true),
            },
        ),
        (
            "type=local,dest=d,platform-split=false,mode= Delete",
            OutputKind::Local {
                dest: "d".into(),
                split: Some(false),
                delete: true,
            },
        ),
        ("type=local,dest=d,mode=copy", local("d")),
        (
            "type=oci,dest=-",
            OutputKind::Oci {
                dest: Destination::Stdout,
                tar: true,
            },
        ),
        (
            "type=oci,tar=false,dest=d",
            OutputKind::Oci {
                dest: file("d"),
                tar: false,
            },
        ),
        (
            r#"type=docker,"dest=a,b.tar",tar="#,
            OutputKind::Docker {
                dest: file("a,b.tar"),
                tar: true,
            },
        ),
        (
            "type=docker,tar=0,dest=d",
            OutputKind::Docker {
                dest: file("d"),
                tar: false,
            },
        ),
        ("type=docker", load()),
        ("type=docker,dest=,context=", load()),
        (
            "type=docker,context=desktop",
            OutputKind::Load {
                context: Some("desktop".into()),
            },
        ),
        (
            "type=image,push=true",
            OutputKind::Image(image(Push::ByName)),
        ),
        ("type=image,push=", OutputKind::Image(image(Push::ByName))),
        ("type=image,unpack=true", OutputKind::Image(image(Push::No))),
        ("type=registry", OutputKind::Image(image(Push::ByName))),
        (
            "type=registry,push=false",
            OutputKind::Image(image(Push::No)),
        ),
        ("type=cacheonly", OutputKind::CacheOnly),
    ] {
        assert_eq!(kind(text), want, "{text}");
    }
}

#[test]
fn images_have_names_beyond_those_of_tags() {
    assert_eq!(
        kind("type=image,name-canonical=true,store=false,registry.insecure="),
        OutputKind::Image(ImageOutput {
            insecure: true,
            store: false,
            canonical: true,
            ..image(Push::No)
        })
    );
    assert_eq!(
        kind("type=registry,push-by-digest=true,dangling-name-prefix=r/x,danging-name-empty-only="),
        OutputKind::Image(ImageOutput {
            dangling: Some("r/x".into()),
            dangling_if_unnamed: true,
            ..image(Push::ByDigest)
        })
    );
    let output = parse(r#"type=image,"name=a:1,b:2",compression=uncompressed"#).unwrap();
    assert_eq!(output.names, ["a:1", "b:2"]);
    assert_eq!(output.spec.compression, Compression::Uncompressed);
}

#[test]
fn layers_have_options() {
    let output = parse(
        "type=oci,dest=x.tar,compression=zstd,compression-level=3,oci-mediatypes=false,\
         rewrite-timestamp=true,force-compression=,prefer-nondist-layers=true,source-date-epoch=7",
    );
    assert_eq!(
        output.unwrap().spec,
        OutputSpec {
            kind: OutputKind::Oci {
                dest: Destination::File("x.tar".into()),
                tar: true
            },
            compression: Compression::Zstd(Some(3)),
            force_compression: true,
            docker_types: true,
            nondistributable: true,
            rewrite_timestamp: true,
            epoch: Epoch::At(7),
            annotations: Vec::new(),
        }
    );
    let compression = |text: &str| parse(text).unwrap().spec.compression;
    for (text, want) in [
        ("type=image,compression-level=9", Compression::Gzip(Some(9))),
        (
            "type=image,compression=zstd,compression-level=0",
            Compression::Zstd(None),
        ),
        ("type=image,oci-mediatypes=true", Compression::Default),
    ] {
        assert_eq!(compression(text), want, "{text}");
    }
    let epoch = parse("type=local,dest=d,source-date-epoch=")
        .unwrap()
        .spec
        .epoch;
    assert_eq!((epoch, epoch.or(Some(1))), (Epoch::None, None));
}

#[test]
fn annotations_of_an_output() {
    let options = "type=oci,annotation.a=1,annotation-index.b.c=2,annotation-manifest[linux/arm64].d=x=y,\
                   annotation[amd64].e=,annotation-index-descriptor.f=6";
    let found = parse(options).unwrap().spec.annotations;
    let mut found: Vec<(AnnotationLevel, String, &str, &str)> = found
        .iter()
        .map(|a| {
            let platform = a
                .platform
                .as_ref()
                .map_or_else(String::new, ToString::to_string);
            (a.level, platform, a.key.as_str(), a.value.as_str())
        })
        .collect();
    found.sort_by_key(|(_, _, key, _)| *key);
    use AnnotationLevel as L;
    assert_eq!(
        found,
        [
            (L::Manifest, String::new(), "a", "1"),
            (L::Index, String::new(), "b.c", "2"),
            (L::Manifest, "linux/arm64".into(), "d", "x=y"),
            (L::Manifest, "linux/amd64".into(), "e", ""),
            (L::IndexDescriptor, String::new(), "f", "6"),
        ]
    );
}

#[test]
fn what_is_wrong_is_named() {
    let wrong = [
        "dest=x,push=true",
        "type=foo",
        "type=local",
        "type=local,dest=-",
        "type=local,dest=x,mode=move",
        "type=local,dest=x,platform-split=",
        "type=oci,tar=false",
        "type=oci,tar=maybe",
        "type=oci,compression=lz4",
        "type=oci,compression=estargz",
        "type=oci,compression=gzip,compression-level=10",
        "type=oci,compression=zstd,compression-level=x",
        "type=oci,oci-mediatypes=",
        "type=oci,oci-artifact=true",
        "type=oci,destination=x",
        "type=oci,compresion=zstd",
        "type=tar,compresion=zstd",
        "type=image,dangling-name-empty-only=1",
        "type=image,tag=a",
        "type=oci,compression=uncompressed,compression-level=1",
        "type=oci,source-date-epoch=yesterday",
        "type=docker,dest=x.tar,context=y",
        "type=tar,compression=gzip",
        "type=tar,annotation.a=b",
        "type=tar,attestation-prefix=x",
        "type=image,annotation-layer.a=b",
        "type=image,annotation-manifest[linux/*].a=b",
        "type=image,annotation.=b",
        "type=image,annotations.a=b",
        "type=image,push-by-digest=true",
        "a,b",
    ];
    let text: String = wrong
        .iter()
        .map(|text| crate::ui::render(&parse(text).unwrap_err(), false) + "\n")
        .collect();
    assert_data_eq!(
        text,
        str![[r#"
error: `--output dest=x,push=true`: `type=` is missing
error: `--output type=foo`: there is no output type `foo`
hint: the types are `image`, `registry`, `oci`, `docker`, `tar`, `local` and `cacheonly`
error: `--output type=local`: `dest=` is missing: a directory to write to
error: `--output type=local,dest=-`: a directory cannot be written to standard output
error: `--output type=local,dest=x,mode=move`: mode `move` is neither `copy` nor `delete`
error: `--output type=local,dest=x,platform-split=`: `platform-split`: `` is neither `true` nor `false`
error: `--output type=oci,tar=false`: `dest=` is missing: a directory to write to
error: `--output type=oci,tar=maybe`: `tar`: `maybe` is neither `true` nor `false`
error: `--output type=oci,compression=lz4`: there is no compression `lz4`
hint: the compressions are `gzip`, `zstd` and `uncompressed`
error: `--output type=oci,compression=estargz`: rbuild does not write eStargz layers
hint: `gzip` is what readers without lazy pulling make of them
error: `--output type=oci,compression=gzip,compression-level=10`: compression-level 10 is not from 0 to 9
error: `--output type=oci,compression=zstd,compression-level=x`: compression-level `x` is not a number
error: `--output type=oci,oci-mediatypes=`: `oci-mediatypes`: `` is neither `true` nor `false`
error: `--output type=oci,oci-artifact=true`: type `oci` has no option `oci-artifact`
hint: leave it out: it is about attestations, and rbuild makes none
error: `--output type=oci,destination=x`: type `oci` has no option `destination`
hint: what is written is named by `dest=`
error: `--output type=oci,compresion=zstd`: type `oci` has no option `compresion`
hint: did you mean `compression`?
error: `--output type=tar,compresion=zstd`: type `tar` has no option `compresion`
error: `--output type=image,dangling-name-empty-only=1`: type `image` has no option `dangling-name-empty-only`
hint: did you mean `danging-name-empty-only`?
error: `--output type=image,tag=a`: type `image` has no option `tag`
hint: images are named by `name=`, or by `-t`
error: `--output type=oci,compression=uncompressed,compression-level=1`: `uncompressed` has no compression-level
error: `--output type=oci,source-date-epoch=yesterday`: source-date-epoch is `yesterday`: wanted seconds since 1970, a whole number
error: `--output type=docker,dest=x.tar,context=y`: type `docker` has no option `context`
hint: a docker context is loaded into: leave `dest` out, or `context`
error: `--output type=tar,compression=gzip`: type `tar` has no option `compression`
error: `--output type=tar,annotation.a=b`: type `tar` has no option `annotation.a`
error: `--output type=tar,attestation-prefix=x`: type `tar` has no option `attestation-prefix`
hint: leave it out: it is about attestations, and rbuild makes none
error: `--output type=image,annotation-layer.a=b`: `layer` carries no annotations: what does is `manifest`, `manifest-descriptor`, `index` and `index-descriptor`
error: `--output type=image,annotation-manifest[linux/*].a=b`: `linux/*` is not a platform: wanted OS/ARCH[/VARIANT], such as `linux/amd64` or `linux/arm/v7`
error: `--output type=image,annotation.=b`: `` cannot be the key of an annotation: it is empty or has a space in it
error: `--output type=image,annotations.a=b`: type `image` has no option `annotations.a`
hint: did you mean `annotation.`?
error: `--output type=image,push-by-digest=true`: `push-by-digest` says how to push, and nothing is pushed
hint: add `push=true`
error: `--output a,b`: `a` is not of the form `key=value`

"#]]
    );
}

/// What is in the first column of the tables of a section, with the types that its heading or first words name.
fn documented() -> Vec<(Vec<&'static str>, &'static str)> {
    const TYPES: [&str; 7] = [
        "image",
        "registry",
        "oci",
        "docker",
        "tar",
        "local",
        "cacheonly",
    ];
    let page = include_str!("../../../docs/outputs.md");
    let mut found = Vec::new();
    for section in page.split("\n## ").skip(1) {
        let about = section.split("| option |").next().unwrap();
        let named = |kind: &&str| about.contains(&format!("`{kind}`"));
        let types: Vec<&str> = TYPES.into_iter().filter(named).collect();
        let rows = section
            .lines()
            .skip_while(|line| !line.starts_with("| option |"));
        let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
        found.extend(rows.filter_map(|row| {
            // Some are for one of the types alone: `local`: …, of `docker` …
            let told = row.trim_end_matches(" |").rsplit("| ").next()?;
            let only = |kind: &&&str| {
                told.starts_with(&format!("`{kind}`:")) || told.starts_with(&format!("of `{kind}`"))
            };
            let types = match types.iter().find(only) {
                Some(only) => vec![*only],
                None => types.clone(),
            };
            Some((types, row.split('`').nth(1)?))
        }));
    }
    found
}

#[test]
fn every_option_is_documented_and_taken_by_the_types_it_is_said_to_be_for() {
    let documented = documented();
    for (types, option) in &documented {
        let option = option.replace('…', ".key");
        for kind in types {
            let taken = ["true", "1", "gzip", "copy", "x"].iter().any(|value| {
                let mut given = format!("type={kind},{option}={value}");
                let mut add = |wanted: &str, with: &str| {
                    if option == wanted {
                        given.push_str(with);
                    }
                };
                add("push-by-digest", ",push=true");
                add("compression-level", ",compression=gzip");
                add("tar", ",dest=x");
                if *kind == "local" && option != "dest" {
                    given.push_str(",dest=x");
                }
                parse(&given).is_ok()
            });
            // The client's context is that of what docker has, if no file is named.
            assert!(
                taken || (option == "context" && *kind == "oci"),
                "{kind}: {option}"
            );
        }
    }
    // Every key that is looked for in what was given.
    let source = include_str!("../output.rs");
    for call in ["remove(\"", "boolean(\"", "switch(\""] {
        for rest in source.split(call).skip(1) {
            let key = rest.split('"').next().unwrap();
            assert!(
                key == "type" || documented.iter().any(|(_, option)| *option == key),
                "docs/outputs.md says nothing of `{key}`"
            );
        }
    }
}
