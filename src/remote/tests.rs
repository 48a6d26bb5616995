//! Whole caches in a map in memory, which counts what is asked of it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::Mutex;

use rbuild_cache::Answer;
use rbuild_cache::Elsewhere;
use rbuild_cache::LayerRef;
use rbuild_cache::Meta;
use rbuild_cache::NewNode;
use rbuild_cache::Origin;
use rbuild_cache::RemoteCache as _;
use rbuild_cache::Snapshot;
use rbuild_cache::Store;
use rbuild_cache::TreeBuilder;
use rbuild_llb::CacheKey;
use rbuild_llb::OciDigest;

use super::catalogue::Bytes;
use super::catalogue::Catalogue;
use super::catalogue::Identity;
use super::catalogue::identity;
use super::import::Import;
use super::place::Blob;
use super::place::Contents;
use super::*;
use crate::registry::OpenBlob;

/// What is in a place, and what was done there.
#[derive(Default)]
struct Shelf {
    catalogue: Option<Vec<u8>>,
    blobs: BTreeMap<OciDigest, Vec<u8>>,
    named: Vec<Descriptor>,
    sent: usize,
    read: usize,
}

/// A place in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Shelf>>);

struct Writer {
    memory: Memory,
    earlier: Option<Catalogue>,
}

impl Memory {
    fn writer(&self) -> Box<Writer> {
        let bytes = self.0.lock().unwrap().catalogue.clone();
        Box::new(Writer {
            memory: self.clone(),
            earlier: bytes.map(|bytes| Catalogue::parse(&bytes).unwrap()),
        })
    }

    /// How many blobs were sent and read since the last time.
    fn moved(&self) -> (usize, usize) {
        let mut shelf = self.0.lock().unwrap();
        (
            std::mem::take(&mut shelf.sent),
            std::mem::take(&mut shelf.read),
        )
    }
}

impl CacheWriter for Writer {
    fn earlier(&self) -> Option<&Catalogue> {
        self.earlier.as_ref()
    }

    fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble> {
        self.memory.blob(digest, size)
    }

    fn has(&self, digest: &OciDigest, _: u64) -> Result<bool, ExportError> {
        Ok(self.memory.0.lock().unwrap().blobs.contains_key(digest))
    }

    fn put(&self, digest: &OciDigest, size: u64, open: &OpenBlob<'_>) -> Result<bool, ExportError> {
        if self.has(digest, size)? {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        open().unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, size);
        let mut shelf = self.memory.0.lock().unwrap();
        shelf.blobs.insert(*digest, bytes);
        shelf.sent += 1;
        Ok(true)
    }

    fn trust(&self, _: &OciDigest) {}

    fn mistrust(&self, digest: &OciDigest) -> Result<(), ExportError> {
        self.memory.0.lock().unwrap().blobs.remove(digest);
        Ok(())
    }

    fn publish(
        self: Box<Self>,
        catalogue: &[u8],
        blobs: Vec<Descriptor>,
        _: &dyn Fn(&str),
    ) -> Result<(), ExportError> {
        let mut shelf = self.memory.0.lock().unwrap();
        for blob in &blobs {
            let there = shelf
                .blobs
                .get(&blob.digest)
                .expect("what is named is there");
            assert_eq!(Descriptor::of("", there).digest, blob.digest);
            assert_eq!(there.len() as u64, blob.size);
        }
        shelf.named = blobs;
        shelf.catalogue = Some(catalogue.to_vec());
        Ok(())
    }
}

impl CacheReader for Memory {
    fn contents(&self) -> Result<Contents, Trouble> {
        let catalogue = self.0.lock().unwrap().catalogue.clone();
        let catalogue = catalogue.ok_or_else(|| Trouble::with("is empty"))?;
        Ok(Contents::Catalogues(vec![catalogue]))
    }

    fn blob(&self, digest: &OciDigest, _: u64) -> Result<Blob, Trouble> {
        let mut shelf = self.0.lock().unwrap();
        shelf.read += 1;
        let bytes = shelf.blobs.get(digest).cloned();
        let bytes = bytes.ok_or_else(|| Trouble::with("is not there"))?;
        Ok(Box::new(Cursor::new(bytes)))
    }

    fn may_have(&self, digest: &OciDigest, _: u64) -> bool {
        self.0.lock().unwrap().blobs.contains_key(digest)
    }
}

/// A machine with its store.
struct Machine {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        Self { _dir: dir, store }
    }

    /// A step that came to a layer with one file. Its bytes are a registry's.
    fn step(&self, number: u16) -> Known {
        let mut tree = TreeBuilder::new();
        let meta = Meta {
            mode: 0o644,
            ..Meta::default()
        };
        let link = NewNode::Symlink {
            target: format!("to {number}").into_bytes(),
        };
        tree.insert(b"file", meta, link);
        let tree = tree.finish(self.store.trees());
        self.store.trees().persist(&tree.tree).unwrap();
        let digest = OciDigest::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let layer = LayerRef {
            layer: tree,
            origin: Some(Origin {
                digest,
                size: 1,
                media_type: "layer".into(),
                diff_id: digest,
                source: Some("registry.example/base".into()),
                urls: Vec::new(),
            }),
            created: None,
            single: false,
        };
        Known {
            keys: vec![key(number)],
            answer: Answer {
                outputs: Arc::new(vec![Snapshot {
                    layers: vec![layer],
                    root: tree,
                }]),
                created: 1,
                duration_ms: 2,
            },
        }
    }

    fn export(&self, steps: &[Known], to: &Memory) {
        self.export_again(steps, to, &BTreeSet::new());
    }

    fn export_again(&self, steps: &[Known], to: &Memory, doubted: &BTreeSet<OciDigest>) {
        let layers = steps.iter().flat_map(|step| &step.answer.outputs[0].layers);
        let bytes = layers.map(|layer| {
            let origin = layer.origin.clone().unwrap();
            (identity(layer), Bytes::Origin(origin))
        });
        let bytes: BTreeMap<Identity, Bytes> = bytes.collect();
        let mut mounts = |_: &dyn CacheWriter| Ok(Vec::new());
        let did = |_: &str, _| {};
        export(
            &self.store,
            to.writer(),
            steps,
            &bytes,
            &mut mounts,
            doubted,
            &did,
        )
        .unwrap();
    }
}

fn key(number: u16) -> CacheKey {
    blake3::hash(&number.to_be_bytes())
        .to_hex()
        .parse()
        .unwrap()
}

fn import(memory: &Memory) -> Import {
    let reader = Box::new(memory.clone());
    Import::open(reader, "cache:memory".into(), "memory".into()).unwrap()
}

/// Far away each blob is a request: small ones travel together, and only what is new.
#[test]
fn small_blobs_travel_together_and_what_is_there_does_not() {
    let (first, second) = (Machine::new(), Machine::new());
    let memory = Memory::default();
    let steps: Vec<Known> = (0..500).map(|number| first.step(number)).collect();
    first.export(&steps, &memory);
    let (sent, _) = memory.moved();
    assert!((2..40).contains(&sent), "{sent}");
    let written = memory.0.lock().unwrap().catalogue.clone();
    first.export(&steps, &memory);
    assert_eq!(memory.moved(), (0, 0));
    assert_eq!(memory.0.lock().unwrap().catalogue, written);
    // A step more is a pack or two more.
    let more: Vec<Known> = (0..501).map(|number| first.step(number)).collect();
    first.export(&more, &memory);
    assert!(memory.moved().0 <= 2);
    // Who begins with nothing comes to the same.
    let other = Memory::default();
    first.export(&more, &other);
    assert_eq!(
        other.0.lock().unwrap().catalogue,
        memory.0.lock().unwrap().catalogue
    );
    let imports = Imports::new(&second.store, vec![import(&memory)]);
    for step in &more {
        let found = imports.find(&step.keys[0]).unwrap();
        assert_eq!(found, Some(Elsewhere::Answer(step.answer.clone())));
    }
    let (_, read) = memory.moved();
    assert!(read <= sent + 2, "{read}");
    assert_eq!(imports.find(&key(600)).unwrap(), None);
    assert_eq!(imports.troubles(), [""; 0]);
}

/// What a pack lacks, or has wrong, is missing; nothing else is.
#[test]
fn a_damaged_pack_is_of_no_use_and_nothing_else() {
    let (first, second) = (Machine::new(), Machine::new());
    let memory = Memory::default();
    let steps: Vec<Known> = (0..200).map(|number| first.step(number)).collect();
    first.export(&steps, &memory);
    let pack = {
        let mut shelf = memory.0.lock().unwrap();
        let pack = shelf.named.iter().find(|blob| blob.media_type == PACK);
        let pack = pack.unwrap().digest;
        let bytes = shelf.blobs.get_mut(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        pack
    };
    let imports = Imports::new(&second.store, vec![import(&memory)]);
    let (mut found, mut failed) = (0, 0);
    for step in &steps {
        match imports.find(&step.keys[0]) {
            Ok(Some(_)) => found += 1,
            Ok(None) => panic!("it is in the catalogue"),
            Err(error) => {
                assert!(error.to_string().contains("a list of files"), "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed > 0 && found > failed, "{found} {failed}");
    assert_eq!(imports.troubles().len(), 1);
    memory.0.lock().unwrap().blobs.remove(&pack);
    let third = Machine::new();
    let imports = Imports::new(&third.store, vec![import(&memory)]);
    let ask = |step: &&Known| imports.find(&step.keys[0]).is_ok();
    assert!(steps.iter().filter(ask).count() > found / 2);
    // A pack that did not come is not asked for again and again.
    assert!(memory.moved().1 < 40);
}

/// What went from a place without its catalogue is noticed by who misses it, and is brought there again.
#[test]
fn lists_that_went_are_written_again() {
    let (first, second, third) = (Machine::new(), Machine::new(), Machine::new());
    let memory = Memory::default();
    let steps: Vec<Known> = (0..300).map(|number| first.step(number)).collect();
    first.export(&steps, &memory);
    let named = memory.0.lock().unwrap().blobs.len();
    memory.0.lock().unwrap().blobs.clear();
    let again: Vec<Known> = (0..300).map(|number| second.step(number)).collect();
    let fresh = Machine::new();
    let cold = Imports::new(&fresh.store, vec![import(&memory)]);
    assert!(steps.iter().all(|step| cold.find(&step.keys[0]).is_err()));
    assert!(cold.doubted().len() > named, "{named}");
    second.export_again(&again, &memory, &cold.doubted());
    let imports = Imports::new(&third.store, vec![import(&memory)]);
    for step in &steps {
        let found = imports.find(&step.keys[0]).unwrap();
        assert_eq!(found, Some(Elsewhere::Answer(step.answer.clone())));
    }
}

/// Of several catalogues those that can be read are of use.
#[test]
fn a_catalogue_of_another_version_takes_no_others_with_it() {
    struct Two(Memory);
    impl CacheReader for Two {
        fn contents(&self) -> Result<Contents, Trouble> {
            let Contents::Catalogues(mut all) = self.0.contents()? else {
                unreachable!("it has a catalogue");
            };
            all.insert(0, br#"{"version":9999}"#.to_vec());
            Ok(Contents::Catalogues(all))
        }
        fn blob(&self, digest: &OciDigest, size: u64) -> Result<Blob, Trouble> {
            self.0.blob(digest, size)
        }
        fn may_have(&self, digest: &OciDigest, size: u64) -> bool {
            self.0.may_have(digest, size)
        }
    }
    let (first, second) = (Machine::new(), Machine::new());
    let memory = Memory::default();
    let step = first.step(1);
    first.export(std::slice::from_ref(&step), &memory);
    let import = Import::open(
        Box::new(Two(memory)),
        "cache:memory".into(),
        "memory".into(),
    );
    let imports = Imports::new(&second.store, vec![import.unwrap()]);
    let found = imports.find(&step.keys[0]).unwrap();
    assert_eq!(found, Some(Elsewhere::Answer(step.answer)));
    assert_eq!(imports.troubles().len(), 1);
}

/// What a cache says of a key goes into other caches only with a result that came from it.
#[test]
fn keys_beside_a_result_are_taken_only_with_it() {
    let (first, second) = (Machine::new(), Machine::new());
    let read = Memory::default();
    let mut step = first.step(1);
    step.keys.push(key(1001));
    first.export(std::slice::from_ref(&step), &read);
    let imports = Imports::new(&second.store, vec![import(&read)]);
    let (keys, answer) = ([key(1)], &step.answer);
    let (made, own) = (second.step(2).answer, Some("memory"));
    // The result is the machine's own, though another has the same.
    assert_eq!(imports.other_keys(&keys, answer, None), []);
    let written_again = imports.other_keys(&keys, answer, own);
    assert!(written_again.contains(&key(1001)));
    imports.find(&key(1)).unwrap().unwrap();
    assert!(imports.other_keys(&keys, answer, None).contains(&key(1001)));
    // It was found, and another was made after all.
    assert_eq!(imports.other_keys(&keys, &made, None), []);
    assert_eq!(imports.other_keys(&keys, &made, own), []);
}

/// A place that refuses is asked nothing more.
#[test]
fn who_does_not_answer_is_left_alone() {
    struct Refuses(Memory);
    impl CacheReader for Refuses {
        fn contents(&self) -> Result<Contents, Trouble> {
            self.0.contents()
        }
        fn blob(&self, _: &OciDigest, _: u64) -> Result<Blob, Trouble> {
            self.0.0.lock().unwrap().read += 1;
            Err(Trouble {
                what: "takes no more requests".into(),
                lasting: true,
            })
        }
        fn may_have(&self, _: &OciDigest, _: u64) -> bool {
            true
        }
    }
    let (first, second) = (Machine::new(), Machine::new());
    let memory = Memory::default();
    let steps: Vec<Known> = (0..100).map(|number| first.step(number)).collect();
    first.export(&steps, &memory);
    memory.moved();
    let refuses = Box::new(Refuses(memory.clone()));
    let import = Import::open(refuses, "cache:memory".into(), "memory".into()).unwrap();
    let imports = Imports::new(&second.store, vec![import]);
    assert!(imports.find(&steps[0].keys[0]).is_err());
    for step in &steps[1..] {
        assert_eq!(imports.find(&step.keys[0]).unwrap(), None);
    }
    assert_eq!(memory.moved().1, 1);
    assert!(!imports.reaches("cache:memory"));
    assert_eq!(
        imports.troubles(),
        ["memory: a list of files cannot be read: takes no more requests"]
    );
}
