//! Images in engines: podman and dockerd load them, and podman runs them.

use super::all_sorts;
use crate::support::Dockerd;

const NAME: &str = "example.org/app:1";

#[test]
fn podman_loads_every_archive_and_runs_what_it_loaded() {
    let env = all_sorts();
    let outputs = [
        "type=oci,dest=oci.tar",
        "type=oci,dest=zstd.tar,compression=zstd",
        "type=docker,dest=docker.tar",
        "type=docker,dest=types.tar,oci-mediatypes=false,annotation.a=b",
    ];
    let args = outputs.iter().flat_map(|output| ["-o", output]);
    env.rbuild(args.chain(["-t", NAME, "."])).success();
    for archive in ["oci.tar", "zstd.tar", "docker.tar", "types.tar"] {
        env.tool("podman", ["load", "--quiet", "--input", archive])
            .success();
        let run = ["run", "--rm", "--network=host", "--user=0", NAME];
        assert_eq!(
            env.tool("podman", run).success().stdout,
            "hello\n",
            "{archive}"
        );
        env.tool("podman", ["rmi", "--force", NAME]).success();
    }
}

#[test]
fn docker_loads_what_it_is_handed() {
    let env = all_sorts();
    let docker = Dockerd::start(&env);
    let outputs = [
        "-o",
        "type=docker,dest=out.tar",
        "-o",
        "type=docker,dest=old.tar,oci-mediatypes=false",
    ];
    let flags = ["-t", NAME, "--iidfile", "iid"];
    env.rbuild(outputs.into_iter().chain(flags).chain(["."]))
        .success();
    let id = std::fs::read_to_string(env.path("iid")).unwrap();
    let loaded = || {
        let format = "{{.Id}} {{json .Config.Cmd}} {{len .RootFS.Layers}}";
        let found = docker.client(&env, ["image", "inspect", "--format", format, NAME]);
        docker.client(&env, ["image", "rm", NAME]).success();
        found.success().stdout
    };
    let wanted = format!("{id} [\"/srv/out.txt\"] 6\n");
    for archive in ["out.tar", "old.tar"] {
        docker
            .client(&env, ["load", "--quiet", "--input", archive])
            .success();
        assert_eq!(loaded(), wanted, "{archive}");
    }
    env.rbuild(["-o", "type=docker,context=of-the-test", "-t", NAME, "."])
        .success();
    assert_eq!(loaded(), wanted);
    env.rbuild(["-o", "type=docker,context=of-nobody", "-t", NAME, "."])
        .code(3)
        .says("docker does not answer in its context `of-nobody`");
}
