//! One table of what goes wrong with caches, for each place that they can be in: whatever happens there, what is built is
//! right, at worst it is built anew, and one warning says so.

use std::cell::Cell;
use std::fs;
use std::sync::Mutex;

use serde_json::Value;

use super::blob;
use super::objects::options;
use crate::support::ActionsCache;
use crate::support::ObjectStore;
use crate::support::Output;
use crate::support::RealStore;
use crate::support::TestEnv;
use crate::support::Watched;

/// A file that a stage copies to the image, which the cache has when `c` changes.
const FILE: &str = "\
FROM scratch AS tools
COPY a /a
FROM scratch
COPY --from=tools /a /b
COPY c /c
";
/// The step that a cache has.
const CACHED: &str = "COPY --from=tools /a /b";

/// What a request is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Which cache there is.
    Lookup,
    /// What a cache that was found names.
    Blobs,
    /// What is written.
    Uploads,
}

/// Where a cache is.
enum Server {
    Directory,
    Registry(Watched),
    Actions(ActionsCache),
    Objects(ObjectStore),
    Real(RealStore),
}

/// A project on several machines, and a cache in one kind of place.
struct Place {
    kind: &'static str,
    env: TestEnv,
    server: Server,
    machines: Cell<usize>,
}

impl Place {
    fn start(kind: &'static str) -> Self {
        Self::with(kind, |_| match kind {
            "local" => Some(Server::Directory),
            "registry" | "inline" => Some(Server::Registry(Watched::start())),
            "gha" => Some(Server::Actions(ActionsCache::start())),
            _ => Some(Server::Objects(ObjectStore::start())),
        })
        .unwrap()
    }

    /// The same in a store that others have written, if it is wanted.
    fn real(kind: &'static str) -> Option<Self> {
        Self::with(kind, |env| RealStore::start(kind, env).map(Server::Real))
    }

    fn with(kind: &'static str, server: impl FnOnce(&TestEnv) -> Option<Server>) -> Option<Self> {
        let env = TestEnv::new();
        for (name, text) in [("Dockerfile", FILE), ("a", "a\n"), ("c", "c\n")] {
            env.write(name, text);
        }
        Some(Self {
            kind,
            server: server(&env)?,
            env,
            machines: Cell::new(0),
        })
    }

    /// The image that has the cache in it, or the name of the cache.
    fn name(&self) -> String {
        match &self.server {
            Server::Registry(registry) => format!("{}/team/cache:main", registry.host()),
            _ => String::new(),
        }
    }

    fn from(&self) -> String {
        match &self.server {
            Server::Directory => "--cache-from=type=local,src=../cache".to_owned(),
            Server::Registry(_) => format!("--cache-from=type=registry,ref={}", self.name()),
            Server::Actions(_) => "--cache-from=type=gha".to_owned(),
            Server::Objects(store) => format!("--cache-from={}", options(self.kind, store)),
            Server::Real(store) => format!("--cache-from={}", store.options()),
        }
    }

    fn to(&self, more: &str) -> Vec<String> {
        let to = match &self.server {
            Server::Directory => "type=local,dest=../cache,mode=max".to_owned(),
            Server::Registry(_) if self.kind == "inline" => {
                let image = self.name();
                return vec![
                    "--cache-to=type=inline".to_owned(),
                    "-t".to_owned(),
                    image,
                    "--push".to_owned(),
                ];
            }
            Server::Registry(_) => format!("type=registry,ref={},mode=max", self.name()),
            Server::Actions(_) => "type=gha,mode=max".to_owned(),
            Server::Objects(store) => format!("{},mode=max", options(self.kind, store)),
            Server::Real(store) => format!("{},mode=max", store.options()),
        };
        vec![format!("--cache-to={to}{more}")]
    }

    /// A build on a machine that has nothing yet.
    fn build(&self, flags: &[String]) -> Output {
        let machine = self.machines.get() + 1;
        self.machines.set(machine);
        let root = format!("--root=../machine-{machine}");
        let tar = "--output=type=tar,dest=../out.tar";
        let mut build = self
            .env
            .rbuild_command([&root, "build", "--progress=plain", tar]);
        build.args(flags).arg(".");
        if let Server::Actions(service) = &self.server {
            build.env("ACTIONS_RESULTS_URL", service.url()).env(
                "ACTIONS_RUNTIME_TOKEN",
                ActionsCache::token(&["refs/heads/main"], true),
            );
        }
        self.env.run(&mut build)
    }

    /// Writes the cache.
    fn write(&self) -> Output {
        self.build(&self.to(""))
    }

    /// A build with the cache, whatever has become of it: it is right, and the image in the registry stays as it is.
    fn read(&self, row: &str) -> Output {
        self.env.write("c", row);
        let built = self.build(&[self.from()]).success();
        let file = |name| {
            let file = self.env.tool("tar", ["-xOf", "../out.tar", name]);
            file.success().stdout
        };
        assert_eq!(
            [file("b"), file("c")],
            ["a\n", row],
            "{}: {built}",
            self.kind
        );
        built
    }

    /// It was of use, and nobody is told anything.
    fn is_warm(&self, row: &str) {
        let built = self.read(row);
        assert!(
            built.cached().iter().any(|step| step == CACHED),
            "{} {row}: {built}",
            self.kind
        );
        assert_eq!(warnings(&built), [""; 0], "{} {row}: {built}", self.kind);
    }

    /// One warning says that it was not of all the use it might have been. Of a layer that an image has, the step does, where
    /// whoever has it does not say no.
    fn is_told_of(&self, row: &str) {
        let built = self.read(row);
        let of_layer = self.kind == "inline" && built.stderr.contains(" why: a layer of `cache:");
        let told = warnings(&built).len();
        assert!(
            told == 1 || (told == 0 && of_layer),
            "{} {row}: {built}",
            self.kind
        );
    }

    /// From now on requests that are about `part` are answered with `status`, as long as `more` says so.
    fn refuse(
        &self,
        part: Part,
        status: &'static str,
        more: impl FnMut() -> bool + Send + 'static,
    ) {
        let more = Mutex::new(more);
        match &self.server {
            Server::Directory => panic!("a directory answers nothing"),
            Server::Registry(registry) => {
                // The config is how a cache is looked up, or an image.
                let config = match part {
                    Part::Blobs => self.manifest()["config"]["digest"]
                        .as_str()
                        .unwrap()
                        .to_owned(),
                    _ => String::new(),
                };
                registry.refuse(move |line| {
                    let of = match part {
                        Part::Lookup => line.starts_with("GET ") && line.contains("/manifests/"),
                        Part::Blobs => {
                            let blob = line.starts_with("GET ") && line.contains("/blobs/");
                            blob && !line.contains(&config)
                        }
                        Part::Uploads => ["POST ", "PUT "]
                            .iter()
                            .any(|method| line.starts_with(method)),
                    };
                    (of && (*more.lock().unwrap())()).then_some(status)
                });
            }
            Server::Actions(service) => service.refuse(move |line| {
                let of = match part {
                    Part::Lookup => line.starts_with("GetCacheEntryDownloadURL rbuild-cache-"),
                    Part::Blobs => line.starts_with("GetCacheEntryDownloadURL rbuild-blob-"),
                    Part::Uploads => line.starts_with("PUT ") || line.starts_with("Create"),
                };
                (of && (*more.lock().unwrap())()).then_some(status)
            }),
            Server::Objects(store) => store.refuse(move |line| {
                (of_object(part, line) && (*more.lock().unwrap())()).then_some(status)
            }),
            Server::Real(store) => store.front().refuse(move |line| {
                (of_object(part, line) && (*more.lock().unwrap())()).then_some(status)
            }),
        }
    }

    fn refuse_nothing(&self) {
        match &self.server {
            Server::Directory => {}
            Server::Registry(registry) => registry.refuse_nothing(),
            Server::Actions(service) => service.refuse_nothing(),
            Server::Objects(store) => store.refuse_nothing(),
            Server::Real(store) => store.front().refuse_nothing(),
        }
    }

    fn manifest(&self) -> Value {
        let Server::Registry(registry) = &self.server else {
            panic!("it has none");
        };
        // Past what may refuse it.
        let image = format!("docker://{}/team/cache:main", registry.registry().host());
        let raw = ["inspect", "--raw", "--tls-verify=false", &image];
        serde_json::from_str(&self.env.tool("skopeo", raw).success().stdout).unwrap()
    }

    /// Changes what the place has of all that the cache names; what is nothing afterwards is gone.
    fn change(&self, change: impl Fn(&mut Vec<u8>)) {
        let files = match &self.server {
            Server::Actions(service) => {
                return service.change(|key, blob| {
                    if key.starts_with("rbuild-blob-") {
                        change(blob);
                    }
                });
            }
            Server::Objects(store) => {
                return store.objects(|objects| {
                    let blobs = objects
                        .iter_mut()
                        .filter(|(path, _)| path.contains("/blobs/"));
                    blobs.for_each(|(_, blob)| change(blob));
                    objects.retain(|_, blob| !blob.is_empty());
                });
            }
            Server::Real(_) => panic!("what it has is its own affair"),
            Server::Directory => {
                let cache = self.env.outside("cache");
                let manifest = super::manifest(&cache);
                let layers = manifest["layers"].as_array().unwrap().iter();
                layers.map(|layer| blob(&cache, layer)).collect::<Vec<_>>()
            }
            Server::Registry(registry) => {
                let manifest = self.manifest();
                let layers = manifest["layers"].as_array().unwrap().iter();
                let digests = layers.map(|layer| layer["digest"].as_str().unwrap());
                digests
                    .map(|digest| registry.registry().blob(digest))
                    .collect()
            }
        };
        for file in files {
            let mut bytes = fs::read(&file).unwrap();
            change(&mut bytes);
            match bytes.is_empty() {
                true => fs::remove_file(&file).unwrap(),
                false => fs::write(&file, bytes).unwrap(),
            }
        }
    }
}

/// What a request to a store of objects is about.
fn of_object(part: Part, line: &str) -> bool {
    match part {
        Part::Lookup => line.starts_with("GET ") && line.contains("/manifests/"),
        Part::Blobs => line.starts_with("GET ") && line.contains("/blobs/"),
        Part::Uploads => line.starts_with("PUT "),
    }
}

fn warnings(output: &Output) -> Vec<&str> {
    let lines = output.stderr.lines();
    lines.filter(|line| line.contains("a cache")).collect()
}

const THROTTLED: &str = "429 Too Many Requests\r\nRetry-After: 0";
const BROKEN: [&str; 3] = [
    "500 Internal Server Error\r\nRetry-After: 0",
    "502 Bad Gateway\r\nRetry-After: 0",
    "503 Service Unavailable\r\nRetry-After: 0",
];

/// Places on a network that do not answer, or not at once.
fn does_not_answer(place: &Place) {
    place.write().success();
    // Who is asked to come back comes back.
    for part in [Part::Lookup, Part::Blobs] {
        let mut left = 2;
        place.refuse(part, THROTTLED, move || {
            left -= 1;
            left >= 0
        });
        place.is_warm("throttled for a while");
    }
    let for_good = BROKEN
        .iter()
        .chain(&[THROTTLED, "403 Forbidden", "404 Not Found"]);
    for &status in for_good {
        for part in [Part::Lookup, Part::Blobs] {
            place.refuse(part, status, || true);
            place.is_told_of(status);
        }
    }
    place.refuse_nothing();
    place.is_warm("as before");
}

/// What a cache names is not what it was, or not there any more.
fn is_not_what_it_was(kind: &'static str) {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 3] = [
        ("corrupted", |blob| {
            let middle = blob.len() / 2;
            blob[middle] ^= 1;
        }),
        ("half of it uploaded", |blob| blob.truncate(blob.len() / 2)),
        ("evicted between lookup and load", Vec::clear),
    ];
    for (row, damage) in damages {
        let place = Place::start(kind);
        place.write().success();
        place.is_warm("whole");
        place.change(damage);
        place.is_told_of(row);
        // Who reads and writes it mends it; but registries keep what they have under a digest, whatever has become of that.
        let keeps = matches!(place.server, Server::Registry(_)) && row != damages[2].0;
        if !keeps {
            place.env.write("c", "c\n");
            let mut flags = place.to("");
            flags.push(place.from());
            place.build(&flags).success();
            place.is_warm("mended");
        }
    }
}

/// A place that does not take what is written, all of it or from somewhere on: what was there stays.
fn takes_nothing(place: &Place) {
    let kind = place.kind;
    place.write().success();
    for &status in BROKEN.iter().chain(&[THROTTLED, "403 Forbidden"]) {
        for after in [0, 2] {
            place.env.write("a", format!("{status} {after}\n"));
            let mut taken = 0;
            place.refuse(Part::Uploads, status, move || {
                taken += 1;
                taken > after
            });
            let ignored = place.write().success();
            assert_eq!(warnings(&ignored).len(), 1, "{kind} {status}: {ignored}");
            let told = place.build(&place.to(",ignore-error=false")).code(3);
            let said = "cannot export the cache";
            assert!(told.stderr.contains(said), "{kind} {status}: {told}");
            place.env.write("a", "a\n");
            place.refuse_nothing();
            place.is_warm("what was there");
        }
    }
    place.env.write("a", "new\n");
    place.write().success();
    place.env.write("c", "c\n");
    let read = place.build(&[place.from()]).success();
    assert!(
        read.cached().iter().any(|step| step == CACHED),
        "{kind}: {read}"
    );
}

#[test]
fn a_registry() {
    does_not_answer(&Place::start("registry"));
    is_not_what_it_was("registry");
    takes_nothing(&Place::start("registry"));
}

/// What is refused to who writes it is the image: that is an error of the build.
#[test]
fn an_image_with_its_cache_in_it() {
    does_not_answer(&Place::start("inline"));
    is_not_what_it_was("inline");
    let place = Place::start("inline");
    place.write().success();
    place.env.write("a", "other\n");
    place.refuse(Part::Uploads, BROKEN[2], || true);
    place.write().code(3);
    place.env.write("a", "a\n");
    place.refuse_nothing();
    place.is_warm("what was there");
}

#[test]
fn a_directory() {
    use std::os::unix::fs::PermissionsExt as _;
    is_not_what_it_was("local");
    let place = Place::start("local");
    place.write().success();
    let mode = |mode| {
        for dir in ["cache", "cache/blobs/sha256"] {
            let dir = place.env.outside(dir);
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    place.env.write("a", "other\n");
    mode(0o500);
    let told = place.write().code(3);
    assert!(told.stderr.contains("cannot export the cache"), "{told}");
    let ignored = place.build(&place.to(",ignore-error=true")).success();
    assert_eq!(warnings(&ignored).len(), 1, "{ignored}");
    mode(0o700);
    place.env.write("a", "a\n");
    place.is_warm("what was there");
}

/// Besides: what GitHub says of who has no room left, or asks too often. An upload that came to nothing is an entry that is in the
/// way: that is `actions`' affair.
#[test]
fn the_service_of_github() {
    does_not_answer(&Place::start("gha"));
    is_not_what_it_was("gha");
    takes_nothing(&Place::start("gha"));
    let place = Place::start("gha");
    place.write().success();
    place.env.write("a", "other\n");
    let Server::Actions(service) = &place.server else {
        panic!("it is one");
    };
    // `CreateCacheEntryResponse` has the reason in `message`.
    service.is_full("cache storage quota has been hit");
    let ignored = place.write().success();
    assert_eq!(warnings(&ignored).len(), 1, "{ignored}");
    assert!(ignored.stderr.contains("quota has been hit"), "{ignored}");
    place.build(&place.to(",ignore-error=false")).code(3);
    place.env.write("a", "a\n");
    place.is_warm("what was there");
}

#[test]
fn amazons_storage() {
    is_a_store_of_objects("s3");
}

#[test]
fn azures_storage() {
    is_a_store_of_objects("azblob");
}

fn is_a_store_of_objects(kind: &'static str) {
    does_not_answer(&Place::start(kind));
    is_not_what_it_was(kind);
    takes_nothing(&Place::start(kind));
    // moto's server or Azurite, which check what requests are signed with, if somebody says where they are.
    let Some(place) = Place::real(kind) else {
        return;
    };
    does_not_answer(&place);
    takes_nothing(&place);
    let Server::Real(store) = &place.server else {
        panic!("it is one");
    };
    let wrong = place.build(&[format!("--cache-from={}", store.wrong())]);
    assert_eq!(warnings(&wrong.success()).len(), 1, "{kind}");
    let wrong = format!("--cache-to={},ignore-error=false", store.wrong());
    place.build(&[wrong]).code(3);
}
