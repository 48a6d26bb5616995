//! Stores of objects: Amazon's S3 and Azure's blob storage.

use crate::support::ObjectStore;
use crate::support::Output;
use crate::support::TestEnv;

use super::assert_has_no_value;
use super::digest;
use super::on;
use super::project;

/// The options of a cache in such a store, by the name of its type.
pub(super) fn options(kind: &str, store: &ObjectStore) -> String {
    let url = store.url();
    match kind {
        "s3" => format!(
            "type=s3,region=eu-test-1,bucket=bucket,endpoint_url={url},use_path_style=true,\
             access_key_id=key-id,secret_access_key=value-of-key,prefix=some/"
        ),
        _ => format!(
            "type=azblob,account_url={url}/account,account_name=account,container=bucket,\
             secret_access_key=dmFsdWUtb2Yta2V5,prefix=some"
        ),
    }
}

fn warnings(output: &Output) -> Vec<&str> {
    let lines = output.stderr.lines();
    lines.filter(|line| line.contains("a cache")).collect()
}

fn assert_right(env: &TestEnv, built: &Output) {
    let all = env.tool("tar", ["-xOf", "../out.tar", "app/tool/all"]);
    assert_eq!(all.success().stdout, "a\nchanged\n", "{built}");
}

#[test]
fn another_machine_runs_nothing_and_makes_the_same_image() {
    for kind in ["s3", "azblob"] {
        let (store, env) = (ObjectStore::start(), project());
        let options = options(kind, &store);
        let from = format!("--cache-from={options}");
        let to = format!("--cache-to={options},mode=max");
        let tar = |name: &str| format!("type=oci,dest=../{name}.tar");
        let first = on(&env, "first", &["-o", &tar("first"), &from, &to]).success();
        assert!(
            first.stderr.contains("no cache called `buildkit` yet"),
            "{first}"
        );
        // Blobs are where BuildKit has them, and the catalogue beside its manifest.
        let paths: Vec<String> = store.objects(|objects| objects.keys().cloned().collect());
        let inside = |path: &&String| path.contains("/bucket/some/blobs/sha256%3A");
        assert_eq!(
            paths.iter().filter(inside).count(),
            paths.len() - 1,
            "{paths:?}"
        );
        let catalogue = paths.iter().find(|path| !inside(path)).unwrap();
        assert!(
            catalogue.ends_with("/bucket/some/manifests/buildkit.rbuild"),
            "{catalogue}"
        );
        store.asked();
        let nowhere = on(&env, "second", &["-o", "type=cacheonly", &from, &to]).success();
        assert_eq!(
            (nowhere.ran(), warnings(&nowhere)),
            (vec![], vec![]),
            "{nowhere}"
        );
        let asked = store.asked();
        assert!(
            asked.iter().all(|line| line.starts_with("GET ")),
            "{asked:?}"
        );
        // The catalogue, and a pack or two: where a pack ends is chance, and there are nine lists of files.
        assert!(asked.len() <= 1 + 5, "{asked:?}");
        let there = on(&env, "second", &["-o", &tar("second"), &from]).success();
        assert_eq!(there.ran(), [""; 0], "{there}");
        assert_eq!(digest(&env, "second.tar"), digest(&env, "first.tar"));
        // Neither keys nor values are in it, nor in the store of who used it.
        for object in store.objects(|objects| objects.values().cloned().collect::<Vec<_>>()) {
            assert_has_no_value(&env, "an object", object);
        }
        for (path, _) in super::files(&env.outside("second")) {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(12).any(|window| window == b"value-of-key");
            assert!(!found, "the key is in {}", path.display());
        }
        // Several names: it is written under all, and read under any.
        let both = format!("{to},name=a;b");
        on(&env, "first", &["-o", "type=cacheonly", &both]).success();
        let either = format!("{from},name=none;b");
        let third = on(&env, "third", &["-o", "type=cacheonly", &either]).success();
        assert_eq!(third.ran(), [""; 0], "{third}");
    }
}

#[test]
fn a_store_that_refuses_makes_a_build_slower_and_nothing_else() {
    for kind in ["s3", "azblob"] {
        let (store, env) = (ObjectStore::start(), project());
        let options = options(kind, &store);
        let from = format!("--cache-from={options}");
        let to = format!("--cache-to={options},mode=max");
        on(&env, "first", &["-o", "type=cacheonly", &to]).success();
        env.write("src/b", "changed\n");
        let tar = ["-o", "type=tar,dest=../out.tar", &from];
        for (number, (part, status)) in [
            ("/manifests/", "403 Forbidden"),
            ("/blobs/", "403 Forbidden"),
            ("/blobs/", "404 Not Found"),
            ("/manifests/", "503 Slow Down\r\nRetry-After: 0"),
            ("/blobs/", "503 Slow Down\r\nRetry-After: 0"),
        ]
        .into_iter()
        .enumerate()
        {
            store.refuse(move |line| line.contains(part).then_some(status));
            let built = on(&env, &format!("cold-{number}"), &tar).success();
            assert_right(&env, &built);
            assert_eq!(warnings(&built).len(), 1, "{kind} {status}: {built}");
        }
        for status in ["403 Forbidden", "503 Slow Down\r\nRetry-After: 0"] {
            store.refuse(move |line| line.starts_with("PUT ").then_some(status));
            let told = format!("{to},ignore-error=false");
            let failed = on(&env, "first", &["-o", "type=cacheonly", &told]).code(3);
            assert!(
                failed.stderr.contains("cannot export the cache"),
                "{failed}"
            );
        }
        store.refuse_nothing();
        // What is damaged is built again, and written again.
        store.objects(|objects| {
            for (_, object) in objects
                .iter_mut()
                .filter(|(path, _)| path.contains("/blobs/"))
            {
                let middle = object.len() / 2;
                object[middle] ^= 1;
            }
        });
        let built = on(&env, "damaged", &tar).success();
        assert_right(&env, &built);
        assert_eq!(warnings(&built).len(), 1, "{kind}: {built}");
    }
}

#[test]
fn what_buildkit_left_is_told_of_and_stays() {
    let (store, env) = (ObjectStore::start(), project());
    let options = options("s3", &store);
    let manifest = "/bucket/some/manifests/buildkit".to_owned();
    store.objects(|objects| objects.insert(manifest.clone(), b"{\"layers\":[]}".to_vec()));
    let from = format!("--cache-from={options}");
    let built = on(&env, "first", &["-o", "type=cacheonly", &from]).success();
    assert!(built.stderr.contains("was written by BuildKit"), "{built}");
    assert_eq!(warnings(&built).len(), 1, "{built}");
    let to = format!("--cache-to={options}");
    on(&env, "first", &["-o", "type=cacheonly", &to]).success();
    assert_eq!(
        store.objects(|objects| objects[&manifest].clone()),
        b"{\"layers\":[]}"
    );
}
