//! The cache service of GitHub Actions.

use crate::support::ActionsCache;
use crate::support::Output;
use crate::support::TestEnv;

use super::digest;
use super::project;

const TO: &str = "--cache-to=type=gha,mode=max";
const FROM: &str = "--cache-from=type=gha";

/// A build in a job with that token, on a machine of its own.
fn job(env: &TestEnv, service: &ActionsCache, token: &str, machine: &str, args: &[&str]) -> Output {
    let root = format!("--root=../{machine}");
    let args = [&[&root, "build", "--progress=plain"], args, &["."]].concat();
    let mut command = env.rbuild_command(args);
    command
        .env("ACTIONS_RESULTS_URL", service.url())
        .env("ACTIONS_RUNTIME_TOKEN", token);
    env.run(&mut command)
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
fn the_next_job_runs_nothing_and_makes_the_same_image() {
    let (service, env) = (ActionsCache::start(), project());
    let token = ActionsCache::token(&["refs/heads/main"], true);
    let run = |machine: &str, args: &[&str]| job(&env, &service, &token, machine, args).success();
    let first = run("first", &["-o", "type=oci,dest=../first.tar", FROM, TO]);
    // Nothing is there yet.
    assert_eq!(warnings(&first).len(), 1, "{first}");
    service.asked();
    let nowhere = run("second", &["-o", "type=cacheonly", FROM, TO]);
    assert_eq!(
        (nowhere.ran(), warnings(&nowhere)),
        (vec![], vec![]),
        "{nowhere}"
    );
    let asked = service.asked();
    let writes = asked.iter().filter(|line| line.starts_with("Create"));
    assert_eq!(writes.count(), 0, "{asked:?}");
    // Twice the catalogue, and a pack or two: two requests each. Where a pack ends is chance, and there are nine lists of files.
    assert!(asked.len() <= 2 * 2 + 5 * 2, "{asked:?}");
    let there = run("second", &["-o", "type=oci,dest=../second.tar", FROM]);
    assert_eq!(there.ran(), [""; 0], "{there}");
    assert_eq!(digest(&env, "second.tar"), digest(&env, "first.tar"));
    // What changed is added, and another scope is another cache.
    env.write("src/b", "changed\n");
    let edited = run("second", &["-o", "type=tar,dest=../out.tar", FROM, TO]);
    assert_right(&env, &edited);
    let newest = run("third", &["-o", "type=cacheonly", FROM]);
    assert_eq!(newest.ran(), [""; 0], "{newest}");
    let other = run(
        "fourth",
        &["-o", "type=cacheonly", "--cache-from=type=gha,scope=other"],
    );
    assert!(
        other.stderr.contains("no cache of scope `other` yet"),
        "{other}"
    );
}

/// A pull request reads what its base has, and writes where the base does not look.
#[test]
fn branches_read_their_base_and_write_for_themselves() {
    let (service, env) = (ActionsCache::start(), project());
    let main = ActionsCache::token(&["refs/heads/main"], true);
    let pull = ActionsCache::token(&["refs/pull/1/merge", "refs/heads/main"], true);
    let fork = ActionsCache::token(&["refs/pull/2/merge", "refs/heads/main"], false);
    let nowhere = ["-o", "type=cacheonly", FROM, TO];
    job(&env, &service, &main, "main", &nowhere).success();
    let first = job(&env, &service, &pull, "pull", &nowhere).success();
    assert_eq!(first.ran(), [""; 0], "{first}");
    env.write("src/b", "changed\n");
    job(&env, &service, &pull, "pull-2", &nowhere).success();
    let again = job(&env, &service, &pull, "pull-3", &nowhere).success();
    assert_eq!(again.ran(), [""; 0], "{again}");
    let main_again = job(
        &env,
        &service,
        &main,
        "main-2",
        &["-o", "type=cacheonly", FROM],
    );
    assert!(!main_again.success().ran().is_empty());
    // Who may not write reads all the same, and is told.
    env.write("src/b", "b\n");
    let read = job(
        &env,
        &service,
        &fork,
        "fork",
        &["-o", "type=cacheonly", FROM],
    )
    .success();
    assert_eq!(read.ran(), [""; 0], "{read}");
    let told = [
        "-o",
        "type=cacheonly",
        FROM,
        "--cache-to=type=gha,ignore-error=false",
    ];
    let refused = job(&env, &service, &fork, "fork", &told).code(3);
    assert!(
        refused
            .stderr
            .contains("may read caches, and not write them"),
        "{refused}"
    );
    // Unless it is asked for, no cache fails a build.
    let ignored = job(&env, &service, &fork, "fork", &nowhere).success();
    assert_eq!(warnings(&ignored).len(), 1, "{ignored}");
}

#[test]
fn a_service_that_refuses_makes_a_build_slower_and_nothing_else() {
    let (service, env) = (ActionsCache::start(), project());
    let token = ActionsCache::token(&["refs/heads/main"], true);
    let run = |machine: &str, args: &[&str]| job(&env, &service, &token, machine, args).success();
    run("first", &["-o", "type=cacheonly", TO]);
    env.write("src/b", "changed\n");
    let tar = ["-o", "type=tar,dest=../out.tar", FROM];
    for (number, (part, status)) in [
        ("GetCache", "401 Unauthorized"),
        ("GetCache", "429 Too Many Requests\r\nRetry-After: 0"),
        ("GetCache", "500 Internal Server Error\r\nRetry-After: 0"),
        ("GET /blob", "403 Forbidden"),
        ("GET /blob", "503 Service Unavailable\r\nRetry-After: 0"),
    ]
    .into_iter()
    .enumerate()
    {
        service.refuse(move |line| line.starts_with(part).then_some(status));
        let built = run(&format!("cold-{number}"), &tar);
        assert_right(&env, &built);
        assert_eq!(warnings(&built).len(), 1, "{status}: {built}");
    }
    // Who asks for patience gets it.
    let mut left = 3;
    service.refuse(move |line| {
        let refuse = line.starts_with("GetCache") && left > 0;
        left -= i32::from(refuse);
        refuse.then_some("429 Too Many Requests\r\nRetry-After: 0")
    });
    let patient = run("patient", &tar);
    assert_eq!(warnings(&patient), [""; 0], "{patient}");
    assert!(
        patient.cached().iter().any(|step| step.contains("uuid")),
        "{patient}"
    );
    service.refuse_nothing();
    // Damaged, and gone between the look-up and the load.
    service.change(|key, blob| {
        if key.starts_with("rbuild-blob-") {
            let middle = blob.len() / 2;
            blob[middle] ^= 1;
        }
    });
    let damaged = run("damaged", &tar);
    assert_right(&env, &damaged);
    assert_eq!(warnings(&damaged).len(), 1, "{damaged}");
    service.evict(|key| key.starts_with("rbuild-blob-"));
    let evicted = run("evicted", &tar);
    assert_right(&env, &evicted);
    assert_eq!(warnings(&evicted).len(), 1, "{evicted}");
    // What went is written again by the build that missed it.
    run("mends", &["-o", "type=cacheonly", FROM, TO]);
    let mended = run("mended", &tar);
    assert_eq!(
        (mended.ran(), warnings(&mended)),
        (vec![], vec![]),
        "{mended}"
    );
    assert_right(&env, &mended);
}

/// Entries cannot be changed. What is damaged there is written beside it, and found from then on; what is whole is not
/// written again.
#[test]
fn damaged_entries_are_replaced_by_others() {
    let file = "FROM scratch AS a\nCOPY a /\nFROM scratch\nCOPY --from=a /a /b\n";
    let env = TestEnv::new().file("Dockerfile", file).file("a", "a\n");
    let service = ActionsCache::start();
    let token = ActionsCache::token(&["refs/heads/main"], true);
    let run = |machine: &str, args: &[&str]| job(&env, &service, &token, machine, args).success();
    run("first", &["-o", "type=cacheonly", TO]);
    let blobs = |service: &ActionsCache| {
        let keys = service.keys().into_iter();
        let blobs = keys.filter(|key| key.starts_with("rbuild-blob-"));
        blobs.collect::<Vec<_>>()
    };
    let first = blobs(&service);
    // A list of files, and a layer.
    assert!(first.len() >= 2, "{first:?}");
    service.change(|key, blob| {
        if key.starts_with("rbuild-blob-") {
            let middle = blob.len() / 2;
            blob[middle] ^= 1;
        }
    });
    let mends = run("second", &["-o", "type=cacheonly", FROM, TO]);
    assert_eq!(warnings(&mends).len(), 1, "{mends}");
    let mended = blobs(&service);
    for key in &first {
        let entries = mended.iter().filter(|other| other.starts_with(key));
        assert_eq!(entries.count(), 2, "{mended:?}");
    }
    let tar = ["-o", "type=tar,dest=../out.tar", FROM, TO];
    let third = run("third", &tar);
    assert_eq!((third.ran(), warnings(&third)), (vec![], vec![]), "{third}");
    let file = env.tool("tar", ["-xOf", "../out.tar", "b"]).success();
    assert_eq!(file.stdout, "a\n", "{third}");
    assert_eq!(blobs(&service), mended);
    // What did not come once is whole nevertheless: the catalogue comes, and the list does not.
    let mut read = 0;
    service.refuse(move |line| {
        read += i32::from(line.starts_with("GET /blob"));
        (line.starts_with("GET /blob") && read == 2).then_some("404 Not Found")
    });
    let cold = run("fourth", &["-o", "type=cacheonly", FROM, TO]);
    assert_eq!(warnings(&cold).len(), 1, "{cold}");
    assert_eq!(blobs(&service), mended);
}

/// Uploads that broke are no entries; what somebody else writes at the same time is not written twice.
#[test]
fn what_is_half_uploaded_is_not_there() {
    let (service, env) = (ActionsCache::start(), project());
    let token = ActionsCache::token(&["refs/heads/main"], true);
    let run = |machine: &str, args: &[&str]| job(&env, &service, &token, machine, args);
    for status in ["403 Forbidden", "503 Service Unavailable\r\nRetry-After: 0"] {
        service.refuse(move |line| line.starts_with("PUT ").then_some(status));
        let to = format!("{TO},ignore-error=false");
        let failed = run("first", &["-o", "type=cacheonly", &to]).code(3);
        assert!(
            failed.stderr.contains("cannot export the cache"),
            "{failed}"
        );
        assert_eq!(service.keys(), [""; 0]);
    }
    service.refuse_nothing();
    // The entries that were begun are in the way until the service removes them. What is named is there nevertheless.
    let written = run("first", &["-o", "type=cacheonly", TO]).success();
    assert_eq!(warnings(&written), [""; 0], "{written}");
    let warm = run("second", &["-o", "type=tar,dest=../out.tar", FROM]).success();
    assert_eq!((warm.ran(), warnings(&warm)), (vec![], vec![]), "{warm}");
    let all = env.tool("tar", ["-xOf", "../out.tar", "app/tool/all"]);
    assert_eq!(all.success().stdout, "a\nb\n", "{warm}");
}

#[test]
fn outside_of_a_job_there_is_none_and_that_is_no_error() {
    let env = TestEnv::new()
        .file("Dockerfile", "FROM scratch\nCOPY f /\n")
        .file("f", "");
    let built = env
        .rbuild(["-o", "type=cacheonly", FROM, TO, "."])
        .success();
    assert_eq!(warnings(&built).len(), 2, "{built}");
    assert!(built.stderr.contains("ACTIONS_RUNTIME_TOKEN"), "{built}");
}
