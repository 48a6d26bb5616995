//! The examples for GitLab and Kubernetes, run as they stand but for the names of registries.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::environments;
use crate::support::Base;
use crate::support::Registry;
use crate::support::TestEnv;
use crate::support::USER;
use crate::support::tools;
use crate::support::yaml;

fn example(name: &str, registry: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name);
    yaml::read(
        &fs::read_to_string(path)
            .unwrap()
            .replace("registry.example", registry),
    )
}

fn digest_of(env: &TestEnv, image: &str) -> String {
    let args = [
        "inspect",
        "--format={{.Digest}}",
        "--tls-verify=false",
        &format!("--creds={}:{}", USER.0, USER.1),
        &format!("docker://{image}"),
    ];
    env.tool("skopeo", args).success().stdout.trim().to_owned()
}

/// The script of the job in a shell, as GitLab's runners give it to one; the second time on another machine, with the cache.
#[test]
fn gitlab() {
    let registry = Registry::closed();
    let host = registry.host();
    let pipeline = example("gitlab-ci.yml", &host);
    let job = &pipeline["build"];
    let script: Vec<&str> = job["script"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap())
        .collect();
    let env = TestEnv::new()
        .bases([Base::Busybox])
        .file("Dockerfile", "FROM busybox\nRUN echo made > /made\n");
    let image = format!("{host}/team/app");
    let run = |store: &str| {
        let mut shell: Command = env.tool_command("sh");
        let program = Path::new(env!("CARGO_BIN_EXE_rbuild")).parent().unwrap();
        shell
            .args(["-euc", &script.join("\n")])
            .env("PATH", format!("{}:{}", program.display(), tools::PATH))
            .env("RBUILD_ROOT", env.outside(store));
        for (name, value) in job["variables"].as_object().unwrap() {
            shell.env(name, value.as_str().unwrap());
        }
        for (name, value) in [
            ("CI_REGISTRY", &*host),
            ("CI_REGISTRY_IMAGE", &image),
            ("CI_REGISTRY_USER", USER.0),
            ("CI_REGISTRY_PASSWORD", USER.1),
            ("CI_COMMIT_SHORT_SHA", "8c1b3b1c"),
            ("CI_COMMIT_REF_SLUG", "main"),
        ] {
            shell.env(name, value);
        }
        env.run(&mut shell).success()
    };
    let first = run("one");
    assert_eq!(first.ran(), ["RUN echo made > /made"], "{first}");
    for path in job["cache"]["paths"].as_array().unwrap() {
        assert!(env.path(path.as_str().unwrap()).is_dir(), "{path}");
    }
    let kept =
        fs::read_to_string(env.path(job["artifacts"]["paths"][0].as_str().unwrap())).unwrap();
    let kept: Value = serde_json::from_str(&kept).unwrap();
    for tag in ["8c1b3b1c", "main"] {
        assert_eq!(
            digest_of(&env, &format!("{image}:{tag}")),
            kept["containerimage.digest"]
        );
    }
    let second = run("two");
    assert_eq!(second.ran(), [""; 0], "{second}");
}

/// The container of the Job in rootless podman, under what the manifest takes away from it.
#[test]
fn a_pod_without_privileges() {
    let registry = Registry::closed();
    let host = registry.host();
    let job = example("kubernetes-job.yaml", &host);
    let pod = &job["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let env = environments::containers();
    let mut options = vec![
        "run".to_owned(),
        "--rm".to_owned(),
        "--network=host".to_owned(),
    ];
    let (of_pod, own) = (&pod["securityContext"], &container["securityContext"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    assert_eq!(
        (
            &of_pod["runAsNonRoot"],
            &own["allowPrivilegeEscalation"],
            &own["readOnlyRootFilesystem"]
        ),
        (&"true".into(), &"false".into(), &"true".into())
    );
    options.push(format!(
        "--user={}:{}",
        text(&of_pod["runAsUser"]),
        text(&of_pod["runAsGroup"])
    ));
    options.push("--security-opt=no-new-privileges".to_owned());
    options.push("--read-only".to_owned());
    // podman's profile stays in force: it allows what the manifest asks the node for.
    assert_eq!(of_pod["seccompProfile"]["type"], "Unconfined");
    let dropped = own["capabilities"]["drop"].as_array().unwrap().iter();
    options.extend(dropped.map(|name| format!("--cap-drop={}", text(name))));
    for variable in container["env"].as_array().unwrap() {
        options.push(format!(
            "--env={}={}",
            text(&variable["name"]),
            text(&variable["value"])
        ));
    }
    // What the init container clones, and the secret.
    env.write(
        "../pod/workspace/app/Dockerfile",
        "FROM scratch\nCOPY busybox /bin/sh\nRUN echo made > /made\nCMD [\"sh\"]\n",
    );
    fs::copy(
        env.path("busybox"),
        env.outside("pod/workspace/app/busybox"),
    )
    .unwrap();
    let secret = env
        .tool(
            "sh",
            ["-c", &format!("printf {}:{} | base64", USER.0, USER.1)],
        )
        .success()
        .stdout;
    let secret = format!(r#"{{"auths":{{"{host}":{{"auth":"{}"}}}}}}"#, secret.trim());
    env.write("../pod/credentials/config.json", secret);
    for mount in container["volumeMounts"].as_array().unwrap() {
        let name = text(&mount["name"]);
        let volumes = pod["volumes"].as_array().unwrap().iter();
        let volume = volumes
            .clone()
            .find(|volume| volume["name"] == name.as_str())
            .unwrap();
        let dir = env.outside("pod").join(&name);
        if dir.exists() {
            assert_eq!(mount["readOnly"], "true", "{name}");
            options.push(format!(
                "--volume={}:{}:ro",
                dir.display(),
                text(&mount["mountPath"])
            ));
        } else {
            assert!(volume["emptyDir"].is_object(), "{name}");
            // A kubelet gives an emptyDir to the pod's group.
            options.push(format!(
                "--mount=type=tmpfs,tmpfs-mode=1777,destination={}",
                text(&mount["mountPath"])
            ));
        }
    }
    options.push("environment".to_owned());
    for part in ["command", "args"] {
        options.extend(container[part].as_array().unwrap().iter().map(text));
    }
    let built = env.tool("podman", &options).success();
    let image = format!("{host}/team/app:latest");
    assert!(built.stderr.contains(&digest_of(&env, &image)), "{built}");
    let config = [
        "inspect",
        "--config",
        "--tls-verify=false",
        &format!("--creds={}:{}", USER.0, USER.1),
        &format!("docker://{image}"),
    ];
    let config: Value = serde_json::from_str(&env.tool("skopeo", config).success().stdout).unwrap();
    assert_eq!(config["history"].as_array().unwrap().len(), 3, "{config:#}");
}
