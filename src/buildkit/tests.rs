//! Builds on a daemon that a test makes up.

mod ends;
pub(crate) mod fake;
mod tls;

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use bollard_buildkit_proto::fsutil::types::Packet;
use bollard_buildkit_proto::fsutil::types::Stat;
use bollard_buildkit_proto::fsutil::types::packet::PacketType;
use bollard_buildkit_proto::health;
use bollard_buildkit_proto::moby::buildkit::secrets::v1 as secrets;
use bollard_buildkit_proto::moby::buildkit::v1 as api;
use bollard_buildkit_proto::moby::filesync::packet;
use bollard_buildkit_proto::moby::filesync::v1 as filesync;
use rbuild_llb::CancelToken;
use rbuild_llb::Platform;
use rbuild_llb::event::Event;
use tokio::sync::mpsc;
use tonic::Request;
use tonic::Status;
use tonic::codegen::tokio_stream::iter;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::Build;
use super::Capabilities;
use super::Connection;
use super::Directory;
use super::EngineError;
use super::HereError;
use super::Offer;
use super::Part;
use super::SentFile;
use super::SentKind;
use super::Sink;
use fake::Fake;
use fake::Script;

fn done() -> Result<HashMap<String, String>, Status> {
    Ok(HashMap::from([("image.name".to_owned(), "x".to_owned())]))
}

fn file(path: &str, kind: SentKind, mtime: i64) -> SentFile {
    SentFile {
        path: path.to_owned(),
        mode: 0o644,
        mtime,
        xattrs: Vec::new(),
        kind,
    }
}

/// A directory on disk, of which everything is offered.
fn directory(root: &Path, names: &[&str]) -> Directory {
    let list = names.iter().map(|name| {
        let stat = fs::symlink_metadata(root.join(name)).unwrap();
        let kind = match stat.is_dir() {
            true => SentKind::Directory,
            false => SentKind::File { size: stat.len() },
        };
        file(name, kind, stat.mtime() * 1_000_000_000 + stat.mtime_nsec())
    });
    let files = list.collect();
    let root = root.to_owned();
    Directory {
        path: root.clone(),
        files,
        open: Box::new(move |path| fs::File::open(root.join(path))),
    }
}

fn offer(directories: impl IntoIterator<Item = (&'static str, Directory)>) -> Offer {
    let directories = directories.into_iter();
    Offer {
        shared_key: "key".into(),
        directories: directories
            .map(|(name, directory)| (name.to_owned(), Arc::new(directory)))
            .collect(),
        secrets: Box::new(|id| match id {
            "word" => Ok(Some(b"secret".to_vec())),
            "broken" => Err(io::ErrorKind::PermissionDenied.into()),
            _ => Ok(None),
        }),
        ssh: BTreeMap::new(),
        credentials: Box::new(|host| (host == "r.example").then(|| ("me".into(), "pw".into()))),
    }
}

fn part(arch: &str) -> Part {
    Part {
        platform: Platform::new("linux", arch, ""),
        definition: Vec::new(),
        config: arch.as_bytes().to_vec(),
    }
}

/// A build of one part.
fn build(offer: Offer, sink: Sink) -> Build<'static> {
    Build {
        offer: Arc::new(offer),
        platforms: vec![part("amd64").platform],
        parts: &|_| Ok(vec![part("amd64")]),
        several: false,
        exporter: Some(("oci", BTreeMap::from([("name".into(), "x".into())]))),
        sink,
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        entitlements: vec!["network.host".into()],
        internal: false,
    }
}

fn carry_out(fake: &Fake, build: Build<'_>) -> Result<Vec<Event>, EngineError> {
    let connection = Connection::open(&fake.address(), &CancelToken::new())?;
    let events = Mutex::new(Vec::new());
    connection.build(build, &|event| events.lock().unwrap().push(event))?;
    Ok(events.into_inner().unwrap())
}

#[test]
fn a_daemon_is_told_what_to_build_and_what_becomes_of_it() {
    let fake = Fake::start(Script {
        capabilities: vec!["mergeop"],
        ..Script::new(|_| async { done() })
    });
    let parts = |capabilities: &Capabilities| {
        assert!(capabilities.has("mergeop") && !capabilities.has("diffop"));
        Ok(vec![part("amd64"), part("arm64")])
    };
    let whole = Build {
        platforms: vec![part("amd64").platform, part("arm64").platform],
        parts: &parts,
        several: true,
        ..build(offer([]), Sink::Nothing)
    };
    carry_out(&fake, whole).unwrap();
    let seen = fake.stop();
    let solve = seen.solve.unwrap();
    // BuildKit, exporter/verifier/opts.go: without it a daemon takes its own platform for the one that was asked for, and warns.
    assert_eq!(solve.frontend_attrs["platform"], "linux/amd64,linux/arm64");
    assert_eq!(solve.exporters[0].r#type, "oci");
    assert_eq!(solve.exporter_deprecated, "oci");
    assert_eq!(solve.entitlements, ["network.host"]);
    assert_eq!(seen.parts.len(), 2);
    let result = seen.returned.unwrap().result.unwrap();
    assert_eq!(
        result.metadata["containerimage.config/linux/arm64"],
        b"arm64"
    );
    // From buildx: `docker buildx build --platform linux/amd64,linux/arm64`, its result's metadata.
    let platforms = r#"{"Platforms":[{"ID":"linux/amd64","Platform":{"architecture":"amd64","os":"linux"}},{"ID":"linux/arm64","Platform":{"architecture":"arm64","os":"linux"}}]}"#;
    let platforms: serde_json::Value = serde_json::from_str(platforms).unwrap();
    let given: serde_json::Value =
        serde_json::from_slice(&result.metadata["refs.platforms"]).unwrap();
    assert_eq!(given, platforms);
    assert!(
        !seen
            .methods
            .iter()
            .any(|method| method.contains("FileSend"))
    );
}

/// What a daemon gets of a directory: the stats, and the bytes of the files that it asks for.
async fn fetch(
    channel: Channel,
    name: &str,
    wanted: &[u32],
) -> Result<(Vec<Stat>, BTreeMap<u32, Vec<u8>>), Status> {
    let packet = |kind: PacketType, id| Packet {
        r#type: kind.into(),
        id,
        ..Packet::default()
    };
    let (ask, asked) = mpsc::channel(16);
    let mut request = Request::new(ReceiverStream::new(asked));
    request
        .metadata_mut()
        .insert("dir-name", name.parse().unwrap());
    let mut client = filesync::file_sync_client::FileSyncClient::new(channel);
    let mut packets = client.diff_copy(request).await?.into_inner();
    let (mut stats, mut bytes) = (Vec::new(), BTreeMap::<u32, Vec<u8>>::new());
    let mut open = wanted.len();
    while let Some(got) = packets.message().await? {
        match got.r#type() {
            PacketType::PacketStat => match got.stat {
                Some(stat) => {
                    stats.push(stat);
                    let number = stats.len() as u32 - 1;
                    if wanted.contains(&number) {
                        ask.send(packet(PacketType::PacketReq, number))
                            .await
                            .unwrap();
                    }
                }
                None if open == 0 => ask.send(packet(PacketType::PacketFin, 0)).await.unwrap(),
                None => {}
            },
            PacketType::PacketData => {
                bytes.entry(got.id).or_default().extend(&got.data);
                open -= usize::from(got.data.is_empty());
                if got.data.is_empty() && open == 0 {
                    ask.send(packet(PacketType::PacketFin, 0)).await.unwrap();
                }
            }
            PacketType::PacketFin => return Ok((stats, bytes)),
            PacketType::PacketReq | PacketType::PacketErr => panic!("{got:?}"),
        }
    }
    Err(Status::aborted("no end"))
}

#[test]
fn of_files_only_what_is_asked_for_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let large = vec![7; 300_000];
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/large"), &large).unwrap();
    fs::write(dir.path().join("e"), "never read").unwrap();
    let context = directory(dir.path(), &["d", "d/large", "e"]);
    fs::remove_file(dir.path().join("e")).unwrap();
    let fake = Fake::start(Script::new(move |channel| {
        let large = large.clone();
        async move {
            let (stats, bytes) = fetch(channel.clone(), "context", &[1]).await?;
            let names: Vec<&str> = stats.iter().map(|stat| stat.path.as_str()).collect();
            assert_eq!(names, ["d", "d/large", "e"]);
            assert_eq!(stats[1].size, 300_000);
            assert_eq!(bytes, BTreeMap::from([(1, large)]));
            let other = fetch(channel, "other", &[]).await;
            assert_eq!(other.unwrap_err().code(), tonic::Code::NotFound);
            done()
        }
    }));
    let build = build(offer([("context", context)]), Sink::Nothing);
    carry_out(&fake, build).unwrap();
}

#[test]
fn a_file_that_changes_meanwhile_is_why_the_build_fails() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "old").unwrap();
    let context = directory(dir.path(), &["f"]);
    fs::write(dir.path().join("f"), "new bytes").unwrap();
    let fake = Fake::start(Script::new(|channel| async move {
        fetch(channel, "context", &[0]).await?;
        done()
    }));
    let error = carry_out(&fake, build(offer([("context", context)]), Sink::Nothing));
    let Err(EngineError::Here(HereError::Changed { path })) = error else {
        panic!("{error:?}");
    };
    assert_eq!(path, dir.path().join("f"));
}

#[test]
fn secrets_and_credentials_go_by_their_names() {
    let fake = Fake::start(Script::new(|channel: Channel| async move {
        let secrets = secrets::secrets_client::SecretsClient::new(channel.clone());
        let secret = |id: &str| {
            let id = id.to_owned();
            let annotations = HashMap::new();
            let request = secrets::GetSecretRequest { id, annotations };
            let mut secrets = secrets.clone();
            async move { secrets.get_secret(request).await }
        };
        assert_eq!(secret("word").await?.into_inner().data, b"secret");
        assert_eq!(
            secret("none").await.unwrap_err().code(),
            tonic::Code::NotFound
        );
        let mut auth = filesync::auth_client::AuthClient::new(channel.clone());
        for (host, user) in [("r.example", "me"), ("other.example", "")] {
            let host = host.to_owned();
            let given = auth
                .credentials(filesync::CredentialsRequest { host })
                .await?;
            assert_eq!(given.into_inner().username, user);
        }
        let mut health = health::health_client::HealthClient::new(channel);
        let alive = health.check(health::HealthCheckRequest::default()).await?;
        assert_eq!(alive.into_inner().status, 1);
        done()
    }));
    carry_out(&fake, build(offer([]), Sink::Nothing)).unwrap();
}

fn data(bytes: &[u8]) -> filesync::BytesMessage {
    filesync::BytesMessage {
        data: bytes.to_vec(),
    }
}

#[test]
fn an_archive_comes_whole() {
    let archive = tar();
    let halves = [&archive[..700], &archive[700..]].map(data);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    let sink = Sink::Archive {
        path: path.clone(),
        to: Box::new(fs::File::create(&path).unwrap()),
    };
    let fake = Fake::start(Script::new(move |channel| {
        let halves = halves.clone();
        async move {
            let mut client = filesync::file_send_client::FileSendClient::new(channel);
            let mut answers = client.diff_copy(iter(halves)).await?.into_inner();
            // Its end says that all is written.
            assert!(answers.message().await?.is_none());
            done()
        }
    }));
    carry_out(&fake, build(offer([]), sink)).unwrap();
    assert_eq!(fs::read(path).unwrap(), archive);
}

/// One with a file.
fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(3);
    tar.append_data(&mut header, "f", &b"abc"[..]).unwrap();
    tar.into_inner().unwrap()
}

pub(crate) fn stat(path: &str, mode: u32, linkname: &str) -> Packet {
    Packet {
        stat: Some(Stat {
            path: path.into(),
            mode,
            linkname: linkname.into(),
            mod_time: 1_500_000_000,
            ..Stat::default()
        }),
        ..Packet::default()
    }
}

/// Sends files as a daemon does, with these bytes for each that is asked for.
pub(crate) async fn send(channel: Channel, stats: Vec<Packet>, bytes: &[u8]) -> Result<(), Status> {
    let (tell, told) = mpsc::channel(16);
    let mut client = packet::file_send_client::FileSendClient::new(channel);
    let request = Request::new(ReceiverStream::new(told));
    let mut answers = client.diff_copy(request).await?.into_inner();
    for stat in stats.into_iter().chain([Packet::default()]) {
        tell.send(stat).await.unwrap();
    }
    while let Some(answer) = answers.message().await? {
        let packet = |kind: PacketType, data: &[u8]| Packet {
            r#type: kind.into(),
            id: answer.id,
            data: data.to_vec(),
            ..Packet::default()
        };
        match answer.r#type() {
            PacketType::PacketReq => {
                for data in [bytes, b""] {
                    let packet = packet(PacketType::PacketData, data);
                    tell.send(packet).await.unwrap();
                }
            }
            PacketType::PacketFin => {
                tell.send(packet(PacketType::PacketFin, b"")).await.unwrap();
            }
            _ => panic!("{answer:?}"),
        }
    }
    Ok(())
}

/// Go's modes: `os.ModeDir` and `os.ModeSymlink`.
pub(crate) const DIR: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

#[test]
fn files_come_with_modes_times_and_links() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("stays"), "").unwrap();
    // What leads elsewhere is replaced, and not written through.
    std::os::unix::fs::symlink(dir.path(), out.join("d")).unwrap();
    let fake = Fake::start(Script::new(|channel| async move {
        let stats = vec![
            stat("d", DIR | 0o750, ""),
            stat("d/f", 0o640, ""),
            stat("d/g", 0o640, "d/f"),
            stat("l", LINK | 0o777, "d/f"),
        ];
        send(channel, stats, b"bytes").await?;
        done()
    }));
    let build = build(offer([]), Sink::Directory(out.clone()));
    carry_out(&fake, build).unwrap();
    let meta = |name: &str| fs::symlink_metadata(out.join(name)).unwrap();
    assert_eq!(fs::read(out.join("d/f")).unwrap(), b"bytes");
    assert_eq!(meta("d").mode() & 0o7777, 0o750);
    assert_eq!(
        (meta("d/f").mode() & 0o7777, meta("d/f").mtime()),
        (0o640, 1)
    );
    assert_eq!((meta("d").mtime(), meta("l").mtime()), (1, 1));
    assert_eq!(meta("d/f").ino(), meta("d/g").ino());
    assert_eq!(fs::read_link(out.join("l")).unwrap(), Path::new("d/f"));
    assert!(out.join("stays").exists());
    assert!(!dir.path().join("f").exists());
}

#[test]
fn files_lead_nowhere_else() {
    for stats in [
        vec![stat("../f", 0o644, "")],
        vec![stat("/f", 0o644, "")],
        vec![stat("a/../../f", 0o644, "")],
        vec![stat("l", LINK | 0o777, ".."), stat("l/f", 0o644, "")],
        vec![stat("f", 0o644, "../secret")],
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "").unwrap();
        let shown = format!("{stats:?}");
        let fake = Fake::start(Script::new(move |channel| {
            let stats = stats.clone();
            async move {
                send(channel, stats, b"bytes").await?;
                done()
            }
        }));
        let build = build(offer([]), Sink::Directory(dir.path().join("out")));
        let error = carry_out(&fake, build);
        assert!(
            matches!(error, Err(EngineError::Here(_))),
            "{shown}: {error:?}"
        );
        assert!(!dir.path().join("f").exists(), "{shown}");
    }
}

#[test]
fn the_step_that_failed_is_named() {
    let vertex = api::Vertex {
        digest: "sha256:1".into(),
        error: "exit code: 1".into(),
        ..api::Vertex::default()
    };
    let told = api::StatusResponse {
        vertexes: vec![vertex],
        ..api::StatusResponse::default()
    };
    let fake = Fake::start(Script {
        status: vec![told],
        ..Script::new(|_| async { Err(Status::unknown("it did not work: exit code: 1")) })
    });
    let error = carry_out(&fake, build(offer([]), Sink::Nothing));
    let Err(EngineError::Failed { message, op }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(message, "it did not work: exit code: 1");
    assert_eq!(op.as_deref(), Some("sha256:1"));
}

#[test]
fn what_a_daemon_lacks_ends_the_build_before_anything_is_sent() {
    let fake = Fake::start(Script::new(|_| async { done() }));
    let address = fake.address().to_string();
    let parts = |_: &Capabilities| {
        Err(EngineError::Missing {
            address: address.clone(),
            what: "x".into(),
            capability: "y",
        })
    };
    let whole = Build {
        parts: &parts,
        ..build(offer([]), Sink::Nothing)
    };
    let error = carry_out(&fake, whole);
    assert!(
        matches!(error, Err(EngineError::Missing { .. })),
        "{error:?}"
    );
    let seen = fake.stop();
    assert!(seen.parts.is_empty());
    assert!(seen.returned.unwrap().error.is_some());
}

#[test]
fn a_daemon_that_dies_has_not_built() {
    // Where it is told to die, once it is there.
    type Dying = Mutex<Option<Box<dyn Fn() + Send>>>;
    let die: Arc<Dying> = Arc::default();
    let fake = {
        let die = Arc::clone(&die);
        Fake::start(Script::new(move |_| {
            let die = die.lock().unwrap().take().unwrap();
            die();
            std::future::pending()
        }))
    };
    *die.lock().unwrap() = Some(Box::new(fake.dying()));
    let error = carry_out(&fake, build(offer([]), Sink::Nothing));
    assert!(matches!(error, Err(EngineError::Lost { .. })), "{error:?}");
}

#[test]
fn a_cancelled_build_ends_there_too() {
    let cancel = CancelToken::new();
    let fake = {
        let cancel = cancel.clone();
        Fake::start(Script::new(move |_| {
            cancel.cancel();
            std::future::pending()
        }))
    };
    let connection = Connection::open(&fake.address(), &cancel).unwrap();
    let built = connection.build(build(offer([]), Sink::Nothing), &|_| {});
    assert!(matches!(built, Err(EngineError::Cancelled)), "{built:?}");
    drop(connection);
    // It serves on: were it stopped first, that would end the call as well.
    assert!(fake.is_abandoned());
}

/// Whoever reads the archive may have stopped, and may never go on.
#[test]
fn a_cancelled_build_does_not_wait_for_what_its_archive_goes_to() {
    struct Stuck(CancelToken, Arc<Mutex<()>>);
    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.cancel();
            drop(self.1.lock());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (cancel, stuck) = (CancelToken::new(), Arc::new(Mutex::new(())));
    let fake = Fake::start(Script::new(|channel| async move {
        let mut client = filesync::file_send_client::FileSendClient::new(channel);
        let chunks = iter([data(b"arch"), data(b"ive")]);
        let mut answers = client.diff_copy(chunks).await?.into_inner();
        answers.message().await?;
        done()
    }));
    let held = stuck.lock().unwrap();
    let connection = Connection::open(&fake.address(), &cancel).unwrap();
    let sink = Sink::Archive {
        path: "-".into(),
        to: Box::new(Stuck(cancel.clone(), Arc::clone(&stuck))),
    };
    let built = connection.build(build(offer([]), sink), &|_| {});
    assert!(matches!(built, Err(EngineError::Cancelled)), "{built:?}");
    drop(connection);
    drop(held);
}

#[test]
fn what_is_no_builder_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let open = |address: &str| {
        let opened = Connection::open(&address.parse().unwrap(), &CancelToken::new());
        match opened {
            Ok(_) => panic!("{address} is none"),
            Err(error) => error,
        }
    };
    let unix = format!("unix://{}", socket.display());
    assert!(matches!(open(&unix), EngineError::Connect { .. }));
    // Something that is not gRPC, and something that is not the Docker API.
    for (scheme, answer) in [
        ("unix", "hello\n"),
        ("docker", "HTTP/1.1 404 Not Found\r\n\r\n"),
    ] {
        drop(fs::remove_file(&socket));
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let serving = std::thread::spawn(move || {
            use std::io::Read as _;
            use std::io::Write as _;
            let (mut stream, _) = listener.accept().unwrap();
            drop(stream.read(&mut [0; 4096]));
            drop(stream.write_all(answer.as_bytes()));
        });
        let error = open(&format!("{scheme}://{}", socket.display()));
        match (scheme, &error) {
            ("docker", EngineError::Foreign { message, .. }) => {
                assert!(message.contains("404"), "{message}");
            }
            ("unix", EngineError::Connect { .. }) => {}
            _ => panic!("{error:?}"),
        }
        serving.join().unwrap();
    }
}
