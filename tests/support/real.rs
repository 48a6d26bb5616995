//! Stores of objects as others have written them: moto's S3 server and Azurite, which no Debian package has. Who wants them
//! tried says where they are (tests/README.md).

use std::fs;
use std::net::TcpListener;
use std::net::TcpStream;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::Digest as _;
use sha2::Sha256;

use super::Front;
use super::TestEnv;
use super::tools;

/// The variable that says in which directory they are.
const WHERE: &str = "OBJECT_STORES";
/// Longer than they take to start.
const PATIENCE: Duration = Duration::from_secs(120);
/// Azurite's account, and its key: both are in its manual.
const AZURITE: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);

/// One of them, with a bucket; ends with its value.
pub(crate) struct RealStore {
    front: Front,
    child: Child,
    /// The options of a cache in it.
    options: String,
    /// Of keys that it does not know.
    wrong: String,
}

impl RealStore {
    /// The one that speaks as `kind` does; none if nobody wants it.
    pub(crate) fn start(kind: &str, env: &TestEnv) -> Option<Self> {
        let dir = tools::variable(WHERE)?;
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = server(kind, &dir, port, env);
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "{kind}: it does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        let front = Front::start(port);
        let url = format!("http://{}", front.host());
        let with = |id: &str, key: &str| match kind {
            "s3" => format!(
                "type=s3,region=us-east-1,bucket=bucket,endpoint_url={url},use_path_style=true,access_key_id={id},\
                 secret_access_key={key}"
            ),
            _ => format!(
                "type=azblob,account_url={url}/{id},account_name={id},container=bucket,secret_access_key={key}"
            ),
        };
        let (id, key) = match kind {
            "s3" => user_of_moto(env, &url),
            _ => container_of_azurite(env, &url),
        };
        Some(Self {
            front,
            child,
            options: with(&id, &key),
            wrong: with(&id, &STANDARD.encode("another key, of some length")),
        })
    }

    pub(crate) fn options(&self) -> &str {
        &self.options
    }

    pub(crate) fn wrong(&self) -> &str {
        &self.wrong
    }

    pub(crate) fn front(&self) -> &Front {
        &self.front
    }
}

impl Drop for RealStore {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn server(kind: &str, dir: &Path, port: u16, env: &TestEnv) -> Child {
    let port = port.to_string();
    let mut command = match kind {
        "s3" => {
            let mut moto = Command::new(dir.join("bin/moto_server"));
            moto.args(["-H", "127.0.0.1", "-p", &port]);
            // What comes after the user is made is refused unless it is signed with the user's key.
            moto.env("INITIAL_NO_AUTH_ACTION_COUNT", "4");
            moto
        }
        _ => {
            let mut azurite = Command::new(tools::find("node"));
            let program = dir.join("node_modules/azurite/dist/src/blob/main.js");
            azurite
                .arg(program)
                .args(["--skipApiVersionCheck", "--silent"]);
            azurite.args(["--blobHost", "127.0.0.1", "--blobPort", &port]);
            azurite.arg("--location").arg(env.outside("azurite"));
            azurite
        }
    };
    let log = fs::File::create(env.outside("store.log")).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command.spawn().unwrap_or_else(|error| {
        panic!(
            "{WHERE} is {}, which has no store for {kind}: {error}",
            dir.display()
        )
    })
}

/// A bucket, and somebody who may do everything there.
fn user_of_moto(env: &TestEnv, url: &str) -> (String, String) {
    let ask = |service: &str, args: &[&str]| {
        let scope = format!(
            "Authorization: AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=none"
        );
        let args = [&["-sS", "--fail-with-body", "-H", &scope], args].concat();
        env.tool("curl", args).success().stdout
    };
    ask("s3", &["-X", "PUT", &format!("{url}/bucket")]);
    let iam = |form: &str| {
        ask(
            "iam",
            &[
                "-d",
                &format!("{form}&Version=2010-05-08&UserName=user"),
                url,
            ],
        )
    };
    iam("Action=CreateUser");
    let all = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C%22Action%22%3A%22*%22%2C%22Resource%22%3A%22*%22%7D%5D%7D";
    iam(&format!(
        "Action=PutUserPolicy&PolicyName=all&PolicyDocument={all}"
    ));
    let made = iam("Action=CreateAccessKey");
    let of = |name: &str| {
        let (_, rest) = made
            .split_once(&format!("<{name}>"))
            .unwrap_or_else(|| panic!("{made}"));
        rest.split('<').next().unwrap().to_owned()
    };
    (of("AccessKeyId"), of("SecretAccessKey"))
}

/// A container (Create Container, signed by Authorize with Shared Key).
fn container_of_azurite(env: &TestEnv, url: &str) -> (String, String) {
    let (account, key) = AZURITE;
    let now = httpdate::fmt_http_date(SystemTime::now());
    let date = format!("x-ms-date:{now}");
    let version = "x-ms-version:2021-08-06";
    let to_sign = format!(
        "PUT\n\n\n\n\n\n\n\n\n\n\n\n{date}\n{version}\n/{account}/{account}/bucket\nrestype:container"
    );
    let signature = STANDARD.encode(hmac(&STANDARD.decode(key).unwrap(), to_sign.as_bytes()));
    let signed = format!("Authorization: SharedKey {account}:{signature}");
    let place = format!("{url}/{account}/bucket?restype=container");
    let args = [
        "-sS",
        "--fail-with-body",
        "-X",
        "PUT",
        "-H",
        &date,
        "-H",
        version,
        "-H",
        &signed,
        "-H",
        "Content-Length: 0",
        &place,
    ];
    env.tool("curl", args).success();
    (account.to_owned(), key.to_owned())
}

/// RFC 2104 with SHA-256, of keys that are no longer than a block.
fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let keyed = |with: u8, message: &[u8]| {
        let pad: Vec<u8> = block.iter().map(|byte| byte ^ with).collect();
        Sha256::digest([&pad, message].concat()).to_vec()
    };
    keyed(0x5c, &keyed(0x36, message))
}
