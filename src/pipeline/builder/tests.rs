//! Builders of several nodes, which a test makes up.

mod pushes;
mod sent;
mod slow;

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bollard_buildkit_proto::moby::filesync::v1 as filesync;
use rbuild_llb::CancelToken;
use rbuild_llb::Platform;
use tonic::Status;
use tonic::codegen::tokio_stream::iter;
use tonic::transport::Channel;

use crate::buildkit::tests::DIR;
use crate::buildkit::tests::fake::Fake;
use crate::buildkit::tests::fake::Script;
use crate::buildkit::tests::send;
use crate::buildkit::tests::stat;
use crate::image::Descriptor;
use crate::image::Format;
use crate::image::Index;
use crate::image::Manifest;
use crate::outcome::BuildError;
use crate::outcome::BuildOutcome;
use crate::outcome::ErrorKind;
use crate::pipeline::build;
use crate::pipeline::tests::progress;
use crate::pipeline::tests::request;
use crate::request::BUILDER_SILENCE;
use crate::request::BuildRequest;
use crate::request::Builder;
use crate::request::CachePlace;
use crate::request::CacheTo;
use crate::request::Destination;
use crate::request::ImageOutput;
use crate::request::NODE_GRACE;
use crate::request::NODE_PATIENCE;
use crate::request::Node;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::request::Place;
use crate::request::Push;
use crate::request::Tag;

/// A project with a step that runs for each platform.
struct Project {
    dir: tempfile::TempDir,
    request: BuildRequest,
    silence: Duration,
    patience: Duration,
    grace: Duration,
}

/// Longer than anything here takes: on a busy machine a node that is there may seem to be late.
const FOREVER: Duration = Duration::from_secs(60);

impl Project {
    fn new(platforms: &[&str], kind: OutputKind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut request, _) = request(dir.path());
        let context = dir.path().join("context");
        fs::create_dir(&context).unwrap();
        fs::write(context.join("f"), "").unwrap();
        fs::write(
            context.join("Dockerfile"),
            "FROM scratch\nCOPY f /\nRUN x\n",
        )
        .unwrap();
        request.context = crate::request::ContextSource::Directory(context);
        request.platforms = platforms.iter().map(|p| p.parse().unwrap()).collect();
        request.outputs = vec![OutputSpec::plain(kind)];
        Self {
            dir,
            request,
            silence: BUILDER_SILENCE,
            patience: FOREVER,
            grace: FOREVER,
        }
    }

    /// With as much patience as users have it.
    fn in_a_hurry(mut self) -> Self {
        self.patience = NODE_PATIENCE;
        self.grace = NODE_GRACE;
        self
    }

    fn local(platforms: &[&str]) -> Self {
        let mut project = Self::new(platforms, OutputKind::CacheOnly);
        let kind = OutputKind::Local {
            dest: project.out(),
            split: None,
            delete: false,
        };
        project.request.outputs = vec![OutputSpec::plain(kind)];
        project
    }

    fn out(&self) -> std::path::PathBuf {
        self.dir.path().join("out")
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.out().join(name)).unwrap_or_else(|error| error.to_string())
    }

    fn dockerfile(&self, text: &str) {
        fs::write(self.dir.path().join("context/Dockerfile"), text).unwrap();
    }

    fn build(&mut self, nodes: Vec<Node>) -> Result<BuildOutcome, BuildError> {
        self.request.builder = Some(Builder {
            name: "farm".into(),
            nodes,
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            silence: self.silence,
            patience: self.patience,
            grace: self.grace,
            idle_flags: Vec::new(),
        });
        build(&self.request, &progress())
    }
}

fn node(name: &str, place: Place) -> Node {
    Node {
        name: name.into(),
        place,
        platforms: Vec::new(),
    }
}

fn at(name: &str, fake: &Fake) -> Node {
    node(name, Place::Daemon(fake.address()))
}

/// Who built what, and which nodes had failed before.
fn ran(outcome: &BuildOutcome) -> Vec<(String, String, Vec<String>)> {
    let ran = outcome.ran.iter().map(|ran| {
        let failed = ran.failed.iter().map(|(node, _)| node.clone());
        (ran.platform.to_string(), ran.node.clone(), failed.collect())
    });
    ran.collect()
}

fn no_failures(ran: &[(&str, &str)]) -> Vec<(String, String, Vec<String>)> {
    let ran = ran.iter();
    ran.map(|(platform, node)| ((*platform).to_owned(), (*node).to_owned(), Vec::new()))
        .collect()
}

/// Sends one file, which says who made it, where the platform's directory is or where there is none.
async fn say(
    who: &'static str,
    arch: Option<&str>,
    channel: Channel,
) -> Result<HashMap<String, String>, Status> {
    let stats = match arch {
        None => vec![stat("who", 0o644, "")],
        Some(arch) => vec![
            stat(&format!("linux_{arch}"), DIR | 0o755, ""),
            stat(&format!("linux_{arch}/who"), 0o644, ""),
        ],
    };
    send(channel, stats, who.as_bytes()).await?;
    Ok(HashMap::new())
}

fn native(who: &'static str, arch: &'static str, split: bool) -> Fake {
    Fake::start(Script {
        platforms: vec![arch],
        ..Script::asked(move |_, channel| say(who, split.then_some(arch), channel))
    })
}

#[test]
fn platforms_go_to_who_is_native_to_them() {
    let (amd, arm) = (native("amd", "amd64", true), native("arm", "arm64", true));
    let mut project = Project::local(&["linux/amd64", "linux/arm64"]);
    let outcome = project.build(vec![at("a", &amd), at("b", &arm)]).unwrap();
    let want = no_failures(&[("linux/amd64", "a"), ("linux/arm64", "b")]);
    assert_eq!(ran(&outcome), want);
    assert_eq!(project.file("linux_amd64/who"), "amd");
    assert_eq!(project.file("linux_arm64/who"), "arm");
    // What nodes send lies nowhere else any more.
    let left = fs::read_dir(project.dir.path()).unwrap();
    let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!left.into_iter().any(|name| name.starts_with(".rbuild-")));
    let metadata = fs::read(project.dir.path().join("metadata")).unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
    assert_eq!(metadata["rbuild.nodes"][1]["node"], "b");

    // What the configuration says counts more than what a daemon does.
    let mut said = at("c", &amd);
    said.platforms = vec!["linux/arm64".parse().unwrap()];
    let mut project = Project::local(&["linux/arm64"]);
    project.request.multi_platform = true;
    let outcome = project.build(vec![at("a", &amd), said]).unwrap();
    assert_eq!(ran(&outcome), no_failures(&[("linux/arm64", "c")]));

    // Nobody: before anything runs.
    let mut project = Project::local(&["linux/amd64/v4"]);
    let error = project
        .build(vec![at("a", &amd), at("b", &arm)])
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Request);
    let text = error.to_string();
    assert_eq!(
        text,
        "no node of the builder `farm` runs steps for linux/amd64/v4"
    );
    assert_eq!(
        error.hints,
        [
            "the node `a` is for linux/amd64",
            "the node `b` is for linux/arm64"
        ]
    );
}

#[test]
fn a_build_goes_where_it_went_before() {
    let (one, two) = (native("one", "amd64", false), native("two", "amd64", false));
    let nodes = || vec![at("one", &one), at("two", &two)];
    let mut first = Vec::new();
    for project in 0..8 {
        let mut project_ = Project::local(&["linux/amd64"]);
        project_.request.tags = vec![Tag {
            target: None,
            name: format!("registry.example/project{project}:latest"),
        }];
        let chosen = project_.build(nodes()).unwrap().ran[0].node.clone();
        for rebuild in 1..10 {
            let path = project_.dir.path().join("context/f");
            fs::write(path, format!("rebuild {rebuild}")).unwrap();
            // The next commit's tag.
            project_.request.tags[0].name = format!("registry.example/project{project}:{rebuild}");
            let outcome = project_.build(nodes()).unwrap();
            assert_eq!(outcome.ran[0].node, chosen, "project {project}, {rebuild}");
        }
        assert_eq!(project_.file("who"), chosen);
        first.push(chosen);
    }
    first.sort();
    first.dedup();
    assert_eq!(first, ["one", "two"]);
}

/// The first of two to be asked does this; the other, or the first when it is asked again, builds.
fn troubled<T>(
    trouble: impl Fn(&dyn Fn()) -> T + Send + Sync + 'static,
) -> (Fake, Fake, Arc<Mutex<Vec<&'static str>>>)
where
    T: Future<Output = Result<HashMap<String, String>, Status>> + Send + 'static,
{
    type Dying = Mutex<HashMap<&'static str, Box<dyn Fn() + Send>>>;
    let dying: Arc<Dying> = Arc::default();
    let asked: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let trouble = Arc::new(trouble);
    let start = |who: &'static str| {
        let (dying, asked, trouble) = (dying.clone(), asked.clone(), trouble.clone());
        Fake::start(Script::asked(move |_, channel| {
            let first = {
                let mut asked = asked.lock().unwrap();
                asked.push(who);
                asked.len() == 1
            };
            let troubled = first.then(|| {
                let dying = dying.lock().unwrap();
                trouble(&*dying[who])
            });
            async move {
                match troubled {
                    Some(troubled) => troubled.await,
                    None => say(who, None, channel).await,
                }
            }
        }))
    };
    let (one, two) = (start("one"), start("two"));
    for (who, fake) in [("one", &one), ("two", &two)] {
        dying.lock().unwrap().insert(who, Box::new(fake.dying()));
    }
    (one, two, asked)
}

#[test]
fn what_a_node_does_not_finish_another_does() {
    let gone = |die: &dyn Fn()| {
        die();
        std::future::pending()
    };
    let full = |_: &dyn Fn()| {
        let message = "failed to copy files: copy file range failed: no space left on device";
        std::future::ready(Err(Status::unknown(message)))
    };
    let stuck = |_: &dyn Fn()| std::future::pending();
    let cases = [
        (troubled(gone), "was lost"),
        (troubled(full), "no space left on device"),
        (troubled(stuck), "nothing has come from"),
    ];
    for ((one, two, asked), why) in cases {
        let mut project = Project::local(&["linux/amd64"]);
        if why.starts_with("nothing") {
            project.silence = Duration::from_secs(3);
        }
        let nodes = vec![at("one", &one), at("two", &two)];
        let outcome = project.build(nodes).unwrap();
        let asked = asked.lock().unwrap().clone();
        let [first, second] = asked.as_slice() else {
            panic!("{asked:?}");
        };
        assert_ne!(first, second);
        let failed = vec![(*first).to_owned()];
        let want = ("linux/amd64".to_owned(), (*second).to_owned(), failed);
        assert_eq!(ran(&outcome), [want]);
        assert!(outcome.ran[0].failed[0].1.contains(why), "{outcome:?}");
        assert_eq!(project.file("who"), *second);
    }
}

#[test]
fn a_step_that_fails_is_not_tried_elsewhere() {
    let (one, two, asked) = troubled(|_: &dyn Fn()| {
        let message = "process \"/bin/sh -c x\" did not complete successfully: exit code: 7";
        std::future::ready(Err(Status::unknown(message)))
    });
    let mut project = Project::local(&["linux/amd64"]);
    let error = project.build(vec![at("one", &one), at("two", &two)]);
    assert_eq!(error.unwrap_err().kind, ErrorKind::Step);
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert!(!project.out().exists());
}

#[test]
fn nodes_that_cannot_be_had_are_done_without() {
    // One is not there, one hangs up before there is TLS.
    let dir = tempfile::tempdir().unwrap();
    let missing = format!("unix://{}/none", dir.path().display());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let refused = format!("tcp://127.0.0.1:{port},servername=b.example");
    let nodes = || {
        let mut gone = vec![
            node("missing", missing.parse().unwrap()),
            node("refused", refused.parse().unwrap()),
        ];
        gone.iter_mut()
            .for_each(|node| node.platforms = vec!["linux/amd64".parse().unwrap()]);
        gone
    };
    let one = native("one", "amd64", false);
    let mut project = Project::local(&["linux/amd64"]);
    let outcome = project
        .build([nodes(), vec![at("one", &one)]].concat())
        .unwrap();
    assert_eq!(outcome.ran[0].node, "one");
    assert_eq!(project.file("who"), "one");

    let error = project.build(nodes()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Environment);
    let text = error.to_string();
    let begin = "no node of the builder `farm` is left that could build linux/amd64: ";
    assert!(text.starts_with(begin), "{text}");
    for node in ["`missing`: cannot connect", "`refused`: cannot connect"] {
        assert!(text.contains(node), "{text}");
    }
}

/// A machine that is gone without a word: what is sent to it is answered by nobody.
#[test]
fn who_takes_no_connection_is_not_waited_for() {
    use rustix::net;
    let listener = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).unwrap();
    let any = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0);
    net::bind(&listener, &any).unwrap();
    // One connection waits to be taken, and there is no place for a second.
    net::listen(&listener, 0).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    let _first = std::net::TcpStream::connect(address).unwrap();
    let silent = format!("tcp://{address}");
    let silent = |platform: &str| Node {
        platforms: vec![platform.parse().unwrap()],
        ..node("silent", silent.parse().unwrap())
    };
    let one = native("one", "amd64", false);
    let mut ran_after = Vec::new();
    // Some of these builds would be the other's.
    for name in ["a", "b", "c", "d", "e", "f"] {
        let mut project = Project::local(&["linux/amd64"]).in_a_hurry();
        project.request.tags = vec![Tag {
            target: None,
            name: format!("registry.example/{name}:latest"),
        }];
        let outcome = project
            .build(vec![silent("linux/amd64"), at("one", &one)])
            .unwrap();
        assert_eq!(project.file("who"), "one");
        ran_after.extend(outcome.ran[0].failed.clone());
    }
    assert!((1..6).contains(&ran_after.len()), "{ran_after:?}");
    for (name, why) in ran_after {
        assert_eq!(name, "silent");
        assert!(why.starts_with("it has not answered"), "{why}");
    }
    // It is for something else, and nobody's loss.
    let mut project = Project::local(&["linux/amd64"]).in_a_hurry();
    let nodes = vec![silent("linux/arm64"), at("one", &one)];
    assert_eq!(
        ran(&project.build(nodes).unwrap()),
        no_failures(&[("linux/amd64", "one")])
    );
}

#[test]
fn who_emulates_takes_over_whatever_is_declared() {
    let dir = tempfile::tempdir().unwrap();
    let missing = format!("unix://{}/none", dir.path().display());
    let mut arm = node("arm", missing.parse().unwrap());
    arm.platforms = vec!["linux/arm64".parse().unwrap()];
    let fake = Fake::start(Script {
        platforms: vec!["amd64", "arm64"],
        ..Script::asked(|_, channel| say("amd", None, channel))
    });
    let mut amd = at("amd", &fake);
    amd.platforms = vec!["linux/amd64".parse().unwrap()];
    let mut project = Project::local(&["linux/arm64"]);
    let outcome = project.build(vec![amd, arm]).unwrap();
    let failed = vec!["arm".to_owned()];
    let want = ("linux/arm64".to_owned(), "amd".to_owned(), failed);
    assert_eq!(ran(&outcome), [want]);
    assert_eq!(outcome.ran[0].emulated, 1);
    assert_eq!(project.file("who"), "amd");
}

/// BuildKit does not list what it emulates with emulators of its own.
#[test]
fn who_does_not_list_a_platform_is_tried() {
    let fake = |failing: bool| {
        Fake::start(Script::asked(move |_, channel| async move {
            if !failing {
                return say("amd", None, channel).await;
            }
            let message = "process \"/bin/sh -c x\" did not complete successfully: exit code: 255";
            Err(Status::unknown(message))
        }))
    };
    for several in [false, true] {
        let nodes = |fake: &Fake| match several {
            false => vec![at("amd", fake)],
            true => vec![at("amd", fake), at("same", fake)],
        };
        let able = fake(false);
        let mut project = Project::local(&["linux/arm64"]);
        let outcome = project.build(nodes(&able)).unwrap();
        assert_eq!(project.file("who"), "amd");
        let emulated: Vec<usize> = outcome.ran.iter().map(|ran| ran.emulated).collect();
        assert_eq!(emulated, vec![1; usize::from(several)]);

        let unable = fake(true);
        let mut project = Project::local(&["linux/arm64"]);
        let error = project.build(nodes(&unable)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Step);
    }
    // What its CPU is not, it cannot emulate.
    let amd = fake(false);
    let mut project = Project::local(&["linux/amd64/v4"]);
    let error = project.build(vec![at("amd", &amd)]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Request);
    assert!(amd.stop().exports.is_empty());
}

/// An image with one layer, as an archive.
fn archive(arch: &str) -> Vec<u8> {
    let mut files = Vec::new();
    let mut blob = |media_type: &str, bytes: &[u8]| {
        let descriptor = Descriptor::of(media_type, bytes);
        let path = format!("blobs/sha256/{}", descriptor.digest.hex());
        files.push((path, bytes.to_vec()));
        descriptor
    };
    // An empty layer: the end of a tar.
    let layer = blob(crate::image::media_type::OCI_LAYER, &[0; 1024]);
    let config = serde_json::json!({
        "architecture": arch, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest.to_string()]},
    });
    let config = blob(Format::Oci.config(), config.to_string().as_bytes());
    let manifest = Manifest::new(Format::Oci, config, vec![layer]).to_json();
    let manifest = blob(Format::Oci.manifest(), &manifest);
    files.push((
        "index.json".to_owned(),
        Index::new(Format::Oci, vec![manifest]).to_json(),
    ));
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, bytes.as_slice())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

fn sends_image(arch: &'static str) -> Fake {
    Fake::start(Script {
        platforms: vec![arch],
        ..Script::asked(move |_, channel| async move {
            let mut client = filesync::file_send_client::FileSendClient::new(channel);
            let data = archive(arch);
            let mut answers = client
                .diff_copy(iter([filesync::BytesMessage { data }]))
                .await?
                .into_inner();
            assert!(answers.message().await?.is_none());
            Ok(HashMap::new())
        })
    })
}

#[test]
fn images_of_nodes_are_one_in_an_archive_and_in_the_store() {
    let (amd, arm) = (sends_image("amd64"), sends_image("arm64"));
    let mut project = Project::new(&["linux/amd64", "linux/arm64"], OutputKind::CacheOnly);
    let oci = OutputKind::Oci {
        dest: Destination::File(project.out()),
        tar: true,
    };
    let store = OutputKind::Image(ImageOutput::with_push(Push::No));
    project.request.outputs = [oci, store].map(OutputSpec::plain).into();
    let outcome = project
        .build(vec![at("amd", &amd), at("arm", &arm)])
        .unwrap();
    let store = crate::pipeline::open_store(&project.request.settings).unwrap();
    let image = store
        .images()
        .get("docker.io/library/app:latest")
        .unwrap()
        .unwrap();
    assert_eq!(
        image.digest,
        outcome.built[0].image.as_ref().unwrap().descriptor.digest
    );
    let unpacked = store
        .unpack_archive(fs::File::open(project.out()).unwrap(), &CancelToken::new())
        .unwrap();
    let archive = crate::registry::Archive::new(&unpacked, Path::new("out"));
    let images = archive.images(&Platform::host(), false).unwrap();
    assert_eq!(images[0].names, ["docker.io/library/app:latest"]);
    assert_eq!(images[0].images.len(), 2);
}

#[test]
fn this_machine_may_be_one_of_the_nodes() {
    let host = Platform::host();
    let other = match host.arch.as_ref() {
        "arm64" => "amd64",
        _ => "arm64",
    };
    let fake = native("other", other, true);
    let mut project = Project::local(&[&host.to_string(), &format!("linux/{other}")]);
    // It runs nothing: a test is no place for that.
    project.dockerfile("FROM scratch\nCOPY f /\n");
    let cache = project.dir.path().join("cache");
    project.request.cache_to = vec![CacheTo {
        place: CachePlace::Local {
            dir: cache.clone(),
            name: "main".to_owned(),
        },
        all: true,
        compression: crate::request::Compression::Default,
        ignore_error: false,
        mounts: crate::request::CacheMounts::none(),
    }];
    let nodes = vec![node("mine", Place::Here), at("there", &fake)];
    let outcome = project.build(nodes).unwrap();
    let ran: Vec<&str> = outcome.ran.iter().map(|ran| ran.node.as_str()).collect();
    assert_eq!(ran, ["there", "mine"]);
    assert_eq!(project.file(&format!("linux_{other}/who")), "other");
    let mine = host.to_string().replace('/', "_");
    assert_eq!(project.file(&format!("{mine}/f")), "");
    assert!(project.dir.path().join("metadata").exists());
    // Its cache is not where a daemon's would be.
    let index: Index =
        serde_json::from_slice(&fs::read(cache.join("index.json")).unwrap()).unwrap();
    let names = index.manifests[0].annotations.values();
    assert_eq!(names.collect::<Vec<_>>(), ["main-rbuild"]);
}

#[test]
fn targets_of_a_bake_file_have_their_own_caches() {
    type Asked = Arc<Mutex<Vec<(Vec<String>, Vec<String>)>>>;
    let asked: Asked = Arc::default();
    let seen = Arc::clone(&asked);
    let fake = Fake::start(Script::asked(move |request, _| {
        let cache = request.cache.unwrap();
        let names = [cache.imports, cache.exports].map(|caches| {
            let names = caches.iter().map(|cache| cache.attrs["ref"].clone());
            names.collect::<Vec<_>>()
        });
        seen.lock().unwrap().push(names.into());
        std::future::ready(Ok(HashMap::new()))
    }));
    let mut project = Project::new(&["linux/amd64"], OutputKind::CacheOnly);
    let builder = |from: &[&str], to: &[&str]| {
        let caches = |names: &[&str]| {
            let caches = names.iter().map(|name| crate::request::BuilderCache {
                kind: "registry".to_owned(),
                options: [("ref".to_owned(), (*name).to_owned())].into(),
            });
            caches.collect()
        };
        Some(Builder {
            name: "one".into(),
            nodes: vec![at("one", &fake)],
            cache_from: caches(from),
            cache_to: caches(to),
            silence: BUILDER_SILENCE,
            patience: FOREVER,
            grace: FOREVER,
            idle_flags: Vec::new(),
        })
    };
    project.request.builder = builder(&[], &[]);
    project.request.tags.clear();
    project.request.iidfile = None;
    let target = |name: &str, from: &[&str], to: &[&str]| crate::request::BakeTarget {
        name: name.to_owned(),
        request: BuildRequest {
            builder: builder(from, to),
            ..project.request.clone()
        },
        inline: None,
        contexts: Default::default(),
        linked: false,
    };
    let targets = [
        target("a", &["r.example/all"], &["r.example/a"]),
        target("b", &["r.example/all"], &["r.example/b"]),
    ];
    project.request.outputs.clear();
    crate::pipeline::bake::bake(&project.request, &targets, &progress()).unwrap();
    let all = vec!["r.example/all".to_owned()];
    let mut asked = asked.lock().unwrap().clone();
    asked.sort();
    let want = ["r.example/a", "r.example/b"].map(|to| (all.clone(), vec![to.to_owned()]));
    assert_eq!(asked, want);
}

#[test]
fn git_by_ssh_gets_its_agent() {
    use rbuild_llb::Vertex;
    use rbuild_llb::definition::Definition;
    use rbuild_llb::definition::Edge;
    use rbuild_llb::definition::Output;
    use rbuild_llb::definition::VertexMeta;
    use rbuild_llb::op::GitSource;
    use rbuild_llb::op::Op;
    use rbuild_llb::op::SourceOp;
    for (remote, want) in [
        ("git@git.example:a/b.git", vec!["default"]),
        ("ssh://git.example/a/b.git", vec!["default"]),
        ("https://git.example/a/b.git", vec![]),
    ] {
        let platform = Platform::new("linux", "amd64", "");
        let mut definition = Definition::new();
        let vertex = definition.add(Vertex {
            op: Op::Source(SourceOp::Git(GitSource {
                remote: remote.to_owned(),
                reference: "main".to_owned(),
                subdir: String::new(),
                keep_git_dir: false,
                skip_submodules: false,
                checksum: None,
                commit: None,
            })),
            inputs: Vec::new(),
            platform: platform.clone(),
            meta: VertexMeta::default(),
        });
        definition.outputs.push(Output {
            name: String::new(),
            config: rbuild_llb::config::ImageConfig::scratch(&platform),
            platform,
            root: Some(Edge { vertex, output: 0 }),
        });
        let definition = definition.prune();
        let asked: Vec<&str> = super::agents_asked_for(&definition).into_iter().collect();
        assert_eq!(asked, want, "{remote}");
    }
}
