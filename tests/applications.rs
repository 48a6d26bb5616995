//! Applications of node and python with their package managers, and Debian packages with users and file capabilities, are the
//! same whatever a machine gives steps: ranges of ids or one alone, stacked layers or copies. Compared entry by entry and then byte by byte; of times only those count that
//! are before the build.

use std::fs;

use snapbox::assert_data_eq;

use crate::single_id;
use crate::support::Base;
use crate::support::Image;
use crate::support::TestEnv;

const NODE: &str = r#"FROM node AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN --mount=type=cache,target=/root/.npm npm ci --omit=dev --no-audit --no-fund --no-update-notifier
COPY . .
RUN chown -R 990:991 /app && chmod -R g+w /app/src
FROM node
COPY --from=build /app /app
USER 990:991
WORKDIR /app
RUN touch src/made && ln -s made src/link && node -e "require('fs').chmodSync('src/made', 0o640)"
RUN node -e "console.log(require('nanoid').nanoid().length)" > src/counted
"#;

/// Compiled modules have the times of their sources in them.
const PYTHON: &str = r#"FROM python
ENV PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv
COPY requirements.txt ./
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-compile --no-cache-dir --disable-pip-version-check -r requirements.txt \
 && find /opt/venv -name __pycache__ -prune -exec rm -r {} +
COPY --chown=1000:1000 app app
RUN chown -R 1000:1001 /opt/venv/lib && chmod 2750 /srv/app
USER 1000:1001
RUN cd /srv/app && touch made && /opt/venv/bin/python -c 'import flask, os; os.symlink("made", "link"); os.mkfifo("pipe", 0o600)'
"#;

/// Files that are given to users, with capabilities and without, copied in the ways that keep them, and a package that gives its
/// program one. Logs and caches have times in them.
const CAPABLE: &str = r#"FROM debian AS made
RUN apt-get update && apt-get install -y --no-install-recommends iputils-ping libcap2-bin adduser \
 && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/*
RUN groupadd -g 251 web && useradd -r -u 250 -g web web && mkdir /srv/t && cd /srv/t && cp /bin/true bare \
 && install -o web -g web -m 750 /bin/true serve && setcap cap_net_bind_service+ep serve \
 && cp /bin/true look && chown :web look && setcap cap_dac_read_search,cap_net_raw+eip look \
 && cp -a /srv/t /srv/copied && cp -a serve lost && chown web bare && chown root lost && mv /srv/copied/look /srv/moved \
 && tar --xattrs --xattrs-include='*' -c . | (mkdir /srv/unpacked && tar --xattrs --xattrs-include='*' -C /srv/unpacked -xp)
USER web
RUN test "$(stat -c %U:%G /srv/t/serve)" = web:web && getcap /srv/t/serve | grep -q net_bind
USER 0
RUN getcap -r /bin /usr/bin /srv | sort -u > /capabilities
FROM debian
COPY --from=made /srv /srv
COPY --from=made /usr/bin/ping /capabilities /
"#;

/// The same build on rungs 1 and 2 with both stackers, with nothing in common but the base. Layers of the base came as they
/// are.
fn alike(env: &TestEnv, made: &[&str]) {
    let build = |name: &str, stacker: &str, single: bool| {
        let output = format!("type=oci,dest={name}.tar,rewrite-timestamp=true");
        let args = [
            "build",
            "--no-cache",
            "--file=Dockerfile",
            "--ca=/etc/ssl/certs/ca-certificates.crt",
            "--build-arg=SOURCE_DATE_EPOCH=1700000000",
            stacker,
            "-o",
            &output,
            ".",
        ];
        match single {
            true => single_id::build(env, &args).success(),
            false => env.rbuild(args).success(),
        };
        let image = Image::from_oci_tar(env, &format!("{name}.tar"));
        let own = 1..image.layers().len() as isize;
        let layers: Vec<(String, Vec<u8>)> = own
            .map(|at| {
                let entries = image.layer(at).into_iter();
                let listing = entries.map(|entry| format!("{entry}\n")).collect();
                (listing, fs::read(image.layer_blob(at)).unwrap())
            })
            .collect();
        layers
    };
    let ranges = build("ranges", "--stacker=overlay", false);
    let whole: String = ranges.iter().map(|(listing, _)| listing.as_str()).collect();
    for entry in made {
        assert!(whole.contains(entry), "{entry} is not in:\n{whole}");
    }
    for (name, stacker, single) in [
        ("link", "--stacker=link", false),
        ("single", "--stacker=overlay", true),
        ("single-link", "--stacker=link", true),
    ] {
        let other = build(name, stacker, single);
        assert_eq!(other.len(), ranges.len());
        for ((listing, bytes), (wanted, wanted_bytes)) in other.iter().zip(&ranges) {
            assert_data_eq!(listing, wanted.clone());
            assert!(bytes == wanted_bytes, "files differ: {name}");
        }
    }
}

#[test]
fn a_node_application() {
    let env = TestEnv::new()
        .bases([Base::Node])
        .context("todo")
        .file("Dockerfile", NODE)
        .file(".dockerignore", "*.tar\n");
    alike(
        &env,
        &[
            "990/991 app/node_modules/nanoid/package.json",
            "-rw-r----- 990/991 app/src/made",
            "lrwxrwxrwx 990/991 app/src/link",
        ],
    );
}

#[test]
fn a_python_application() {
    let env = TestEnv::new()
        .bases([Base::Python])
        .testdata("plan/python-web")
        .file("Dockerfile", PYTHON)
        .file(".dockerignore", "*.tar\n");
    alike(
        &env,
        &[
            "1000/1001 opt/venv/lib",
            "drwxr-s--- 1000/1000 srv/app",
            "prw------- 1000/1000 srv/app/pipe",
        ],
    );
}

#[test]
fn debian_packages_with_users_and_file_capabilities() {
    let env = TestEnv::new()
        .bases([Base::Debian])
        .file("Dockerfile", CAPABLE)
        .file(".dockerignore", "*.tar\n");
    alike(
        &env,
        &[
            "-rwxr-x--- 250/251 srv/t/serve",
            "-rwxr-xr-x 0/251 srv/moved",
        ],
    );
    let image = Image::from_oci_tar(&env, "single-link.tar");
    let capabilities = |archive: &std::path::Path| {
        let listed = env.tool(
            "tar",
            [
                "--xattrs",
                "--xattrs-include=*",
                "-tvvf",
                archive.to_str().unwrap(),
            ],
        );
        let lines: Vec<String> = listed.success().stdout.lines().map(str::to_owned).collect();
        let names = lines
            .windows(2)
            .filter(|pair| pair[1].contains("security.capability"));
        let mut names: Vec<String> = names
            .map(|pair| pair[0].rsplit(' ').next().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        capabilities(&image.layer_blob(1)),
        [
            "srv/copied/serve",
            "srv/moved",
            "srv/t/look",
            "srv/t/serve",
            "srv/unpacked/look",
            "srv/unpacked/serve",
        ]
    );
    assert_eq!(capabilities(&image.layer_blob(2)), ["ping"]);
}
