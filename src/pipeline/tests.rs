//! The list of [`super::build`] on a fake frontend and fake exporters.

use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;

use rbuild_cache::StoredImage;
use rbuild_llb::ImageConfig;
use rbuild_llb::SourceFile;
use rbuild_llb::definition::Output;
use rbuild_llb::frontend::Converted;
use rbuild_llb::frontend::MainContext;
use rbuild_llb::frontend::NoCache;
use rbuild_llb::frontend::SourceRequest;
use rbuild_llb::op::FileModes;
use rbuild_llb::op::ImageSource;
use rbuild_llb::op::Limits;
use rbuild_llb::op::LocalSource;
use rbuild_llb::op::NetworkMode;

use super::*;
use crate::exporter::Export;
use crate::exporter::ExportError;
use crate::exporter::Exporter;
use crate::image::Descriptor;
use crate::image::Format;
use crate::image::Manifest;
use crate::image::media_type;
use crate::outcome::Delivery;
use crate::request::ContextSource;
use crate::request::ImageOutput;
use crate::request::OutputKind;
use crate::request::OutputSpec;
use crate::request::ProxySettings;
use crate::request::Registries;
use crate::ui::ProgressMode;
use crate::ui::Terminal;

/// A request for what lies in `root`, and a plan that says nothing.
pub(super) fn request(root: &Path) -> (BuildRequest, plan::Plan) {
    let request = BuildRequest {
        context: ContextSource::Directory(root.to_owned()),
        file: None,
        llb: None,
        targets: Vec::new(),
        also_run: Vec::new(),
        set: Vec::new(),
        build_args: BTreeMap::new(),
        proxy_args: BTreeMap::new(),
        labels: BTreeMap::new(),
        named_contexts: BTreeMap::new(),
        multi_platform: false,
        platforms: vec![Platform::new("linux", "amd64", "")],
        tags: vec![crate::request::Tag {
            target: None,
            name: "docker.io/library/app:latest".into(),
        }],
        annotations: Vec::new(),
        outputs: Vec::new(),
        no_cache: NoCache::Off,
        cache_from: Vec::new(),
        cache_to: Vec::new(),
        inline_cache: false,
        builder: None,
        pull: false,
        offline: true,
        locked: false,
        context_modes: FileModes::Exact,
        network: NetworkMode::Default,
        extra_hosts: Vec::new(),
        ulimits: Vec::new(),
        limits: Limits::default(),
        shm_size: 0,
        secrets: BTreeMap::new(),
        ssh: BTreeMap::new(),
        allow: crate::request::Entitlements::default(),
        iidfile: Some(root.join("iid")),
        metadata_file: Some(root.join("metadata")),
        shell_on_fail: None,
        jobs: Some(1),
        source_date_epoch: None,
        settings: Settings {
            root: root.join("state"),
            temp_dir: root.to_owned(),
            registries: Registries::default(),
            docker_config: None,
            docker_auth: None,
            ca: None,
            tag_max_age: 0,
            ranges_only: false,
            proxies: ProxySettings::default(),
            gc: crate::request::GcSettings::default(),
            stacker: None,
            isolation: Default::default(),
            nested_namespaces: true,
            emulators: Default::default(),
            keep_failed: crate::request::KeepFailed::Never,
        },
    };
    let source = Arc::new(SourceFile {
        name: "Dockerfile".into(),
        text: String::new(),
        language: "Dockerfile",
    });
    let plan = plan::Plan {
        language: files::Language::of(&source),
        source,
        context: MainContext::Local,
        ignore: None,
        locals: BTreeMap::new(),
        home: plan::Home {
            dir: root.to_owned(),
            ..plan::Home::default()
        },
        files: Default::default(),
        git: None,
        identity: String::new(),
        lock_path: None,
        locks: Vec::new(),
        remark: None,
    };
    (request, plan)
}

pub(super) fn progress() -> Progress {
    let terminal = Terminal {
        tty: false,
        color: false,
    };
    Progress::start(ProgressMode::Quiet, terminal, Vec::new())
}

/// An image without layers in the store, under a name.
fn image(store: &Store, name: &str, user: &str) -> SourceOp {
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": { "User": user },
        "rootfs": { "type": "layers", "diff_ids": [] },
    });
    let config = put(store, media_type::OCI_CONFIG, config.to_string().as_bytes());
    let id = config.digest;
    let manifest = Manifest::new(Format::Oci, config, Vec::new()).to_json();
    let manifest = put(store, media_type::OCI_MANIFEST, &manifest);
    let stored = StoredImage {
        digest: manifest.digest,
        media_type: manifest.media_type,
        id,
        repo_digest: None,
        created: 0,
        size: 0,
        rung: None,
        referrers: Vec::new(),
    };
    store.images().set(name, &stored).unwrap();
    SourceOp::Image(ImageSource {
        reference: name.into(),
        digest: None,
    })
}

fn put(store: &Store, media_type: &str, document: &[u8]) -> Descriptor {
    store.blobs().put(document).unwrap();
    Descriptor::of(media_type, document)
}

/// Wants one source after the other: the first in its outline, each other only once those before are pinned. Then the
/// graph is one empty file system.
struct Chain {
    sources: Vec<SourceOp>,
    /// What was asked, with the users of the images that were pinned then.
    calls: Mutex<Vec<String>>,
}

impl Chain {
    fn new(sources: Vec<SourceOp>) -> Self {
        Self {
            sources,
            calls: Mutex::default(),
        }
    }

    fn request(&self, index: usize, request: &FrontendRequest) -> Vec<SourceRequest> {
        vec![SourceRequest {
            source: self.sources[index].clone(),
            platform: request.target_platform.clone(),
            span: None,
            near: None,
        }]
    }

    fn calls(self) -> Vec<String> {
        self.calls.into_inner().unwrap()
    }
}

impl Frontend for Chain {
    fn all_targets(&self, _: &FrontendRequest) -> Result<Vec<String>, Vec<Diagnostic>> {
        Ok(Vec::new())
    }

    fn platforms(&self, request: &FrontendRequest) -> Result<Vec<Platform>, Vec<Diagnostic>> {
        Ok(vec![request.build_platform.clone()])
    }

    fn outline(&self, request: &FrontendRequest) -> Result<Outline, Vec<Diagnostic>> {
        self.calls.lock().unwrap().push("outline".into());
        Ok(Outline {
            sources: self.request(0, request),
            ..Outline::default()
        })
    }

    fn convert(
        &self,
        request: &FrontendRequest,
        pins: &Pins,
    ) -> Result<Conversion, Vec<Diagnostic>> {
        let pinned = self.sources.iter().map_while(|source| {
            match pins.get(source, &request.target_platform)? {
                rbuild_llb::frontend::Pin::Image { config, .. } => Some(config.config.user.clone()),
                other => panic!("{other:?}"),
            }
        });
        let pinned: Vec<String> = pinned.collect();
        let call = format!("convert with {}", pinned.join(" "));
        self.calls.lock().unwrap().push(call);
        if pinned.len() < self.sources.len() {
            return Ok(Conversion::NeedsSources(
                self.request(pinned.len(), request),
            ));
        }
        let mut definition = Definition::new();
        definition.outputs.push(Output {
            name: "0".into(),
            platform: request.target_platform.clone(),
            root: None,
            config: ImageConfig::default(),
        });
        Ok(Conversion::Done(Converted {
            definition,
            goals: vec![Goal::default()],
            warnings: Vec::new(),
        }))
    }
}

/// Lines 2 to 5 for a frontend.
fn convert_with(frontend: &Chain, store: &Store, root: &Path) -> Result<Planned, BuildError> {
    let (request, plan) = request(root);
    let lease = store.lease().unwrap();
    let registry = registry::Client::new(&request.settings);
    let lock = lock::Lock::of(&request, &plan).unwrap();
    let pinner = pin::Pinner::new(&request, &lock, store, &lease, &registry);
    definition(&request, &plan, frontend, &pinner, &progress().events())
}

#[test]
fn sources_are_pinned_before_they_are_converted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let sources =
        ["one", "two", "three"].map(|user| image(&store, &format!("example.org/{user}:1"), user));
    let frontend = Chain::new(sources.to_vec());
    let definition = convert_with(&frontend, &store, dir.path()).unwrap();
    assert_eq!(definition.definition.outputs.len(), 1);
    assert_eq!(
        frontend.calls(),
        [
            "outline",
            "convert with one",
            "convert with one two",
            "convert with one two three"
        ]
    );
}

#[test]
fn a_source_that_cannot_be_pinned_is_not_converted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let missing = SourceOp::Image(ImageSource {
        reference: "example.org/missing:1".into(),
        digest: None,
    });
    let frontend = Chain::new(vec![image(&store, "example.org/one:1", "one"), missing]);
    let error = convert_with(&frontend, &store, dir.path()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Environment);
    assert!(
        error.to_string().contains("example.org/missing:1"),
        "{error}"
    );
    assert_eq!(frontend.calls(), ["outline", "convert with one"]);
}

/// A context is never pinned, so asking for one again and again would go on for ever.
#[test]
fn a_frontend_that_is_never_content_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let context = SourceOp::Local(LocalSource {
        name: "context".into(),
        include: Vec::new(),
        exclude: Vec::new(),
        modes: Default::default(),
    });
    let frontend = Chain::new(vec![context]);
    let error = convert_with(&frontend, &store, dir.path()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Request);
    assert!(error.to_string().contains("ONBUILD"), "{error}");
    assert_eq!(frontend.calls().len(), 1 + MAX_ROUNDS);
}

/// Notes what it is given, and succeeds or not.
struct Post {
    given: Arc<Mutex<Vec<String>>>,
    fails: bool,
}

impl Exporter for Post {
    fn export(&self, export: &Export<'_>) -> Result<Vec<Delivery>, ExportError> {
        let ids = export.images.iter().map(|image| image.id.to_string());
        let given = format!("{} {}", export.names.join(" "), ids.collect::<String>());
        self.given.lock().unwrap().push(given);
        match self.fails {
            true => Err(ExportError::NoLoader),
            false => Ok(vec![Delivery::Stdout]),
        }
    }
}

#[test]
fn the_image_is_reported_when_all_exports_are_done() {
    let dir = tempfile::tempdir().unwrap();
    let (request, plan) = request(dir.path());
    let store = Store::open(dir.path()).unwrap();
    let lease = store.lease().unwrap();
    let registry = registry::Client::new(&request.settings);
    let cancel = CancelToken::new();
    let graph = convert_with(
        &Chain::new(vec![image(&store, "example.org/one:1", "one")]),
        &store,
        dir.path(),
    );
    let Planned {
        definition: graph,
        goals,
    } = graph.unwrap();
    let targets = deliver::targets(&request, &BTreeMap::new(), &plan, &graph, goals).unwrap();
    let spec = OutputSpec::plain(OutputKind::Image(ImageOutput::with_push(
        crate::request::Push::No,
    )));
    let options = EngineOptions::default();
    let domain = "test".to_owned();
    let engine = Engine::new(&store, &lease, &graph, &registry, &cancel, options, domain);
    // `fails`, for each exporter; how many are asked.
    for (exporters, asked) in [
        (vec![true, false], 1),
        (vec![false, true], 2),
        (vec![false, false], 2),
    ] {
        let given = Arc::new(Mutex::new(Vec::new()));
        let well = !exporters.contains(&true);
        let exporters = exporters.into_iter().map(|fails| {
            let post = Post {
                given: Arc::clone(&given),
                fails,
            };
            (&spec, Some(Box::new(post) as Box<dyn Exporter>))
        });
        let delivering = deliver::Delivering {
            inline: &BTreeMap::new(),
            request: &request,
            engine: &engine,
            plan: &plan,
            definition: &graph,
            untouched: None,
            solved: solver::Solved {
                roots: vec![solver::Root::Empty],
                failed: Vec::new(),
            },
            cancel: &cancel,
            events: &progress().events(),
        };
        let delivered = delivering.deliver(&targets, vec![exporters.collect()]);
        let reports =
            ["iid", "metadata"].map(|name| std::fs::read_to_string(dir.path().join(name)));
        let given = given.lock().unwrap();
        assert_eq!(given.len(), asked);
        match delivered {
            Err(error) => {
                assert!(!well);
                assert_eq!(error.kind, ErrorKind::Environment);
                assert!(reports.iter().all(Result::is_err), "{reports:?}");
            }
            Ok(outcome) => {
                assert!(well);
                let outcome = &outcome.built[0];
                let image = outcome.image.as_ref().unwrap();
                let id = image.id.to_string();
                assert_eq!(given[0], format!("docker.io/library/app:latest {id}"));
                assert_eq!(given[1], given[0]);
                assert_eq!(outcome.deliveries, [Delivery::Stdout, Delivery::Stdout]);
                let [iid, metadata] = reports.map(Result::unwrap);
                assert_eq!(iid, id);
                let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
                assert_eq!(metadata["containerimage.config.digest"], id.as_str());
                assert_eq!(
                    metadata["containerimage.digest"],
                    image.descriptor.digest.to_string()
                );
                assert_eq!(metadata["image.name"], "docker.io/library/app:latest");
            }
        }
    }
}
