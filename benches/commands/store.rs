//! A store of many records: what it takes to account for it, to find out that nothing of it has to go, and to remove half of it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use rbuild_cache::CacheBackend as _;
use rbuild_cache::LayerRef;
use rbuild_cache::Meta;
use rbuild_cache::NewNode;
use rbuild_cache::Record;
use rbuild_cache::Snapshot;
use rbuild_cache::Store;
use rbuild_cache::TreeBuilder;
use rbuild_llb::KeyRecord;

use super::limits;
use super::measure::Bound;
use super::measure::Measured;
use super::measure::in_turns;
use super::measure::line;
use super::measure::run;
use super::place::Place;

const RECORDS: u32 = 10_000;
/// Bytes of each layer's file.
const FILE: usize = 64 << 10;

pub(crate) fn gc() -> Measured<String> {
    measured(&["prune", "--force", "--all", "--reserved-space", "1000TB"])
}

/// Half of what the store takes goes, each time of another store.
pub(crate) fn gc_half() -> Measured<String> {
    let place = Place::new();
    let (ours, limit) = (place.beside("store"), place.beside("limit"));
    let evict = |_| {
        fill(&ours);
        let total = takes(&ours)?;
        let mut prune = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        prune
            .env_clear()
            .env("HOME", place.beside(""))
            .env("RBUILD_ROOT", &ours)
            .args(["prune", "--force", "--all", "--max-used-space"])
            .arg((total / 2).to_string());
        let time = run(&mut prune)?;
        let left = takes(&ours)?;
        if !(total / 4..=total / 2).contains(&left) {
            return Err(format!("it left {left} of {total} bytes"));
        }
        std::fs::remove_dir_all(&ours).map_err(|error| error.to_string())?;
        Ok(time)
    };
    // The directories of as many layers, and nothing else.
    let remove = |_| {
        fill(&limit);
        let layers = limit.join("v1/layers");
        let shards = std::fs::read_dir(layers).map_err(|error| error.to_string())?;
        let half: Vec<_> = shards
            .flatten()
            .map(|shard| shard.path())
            .step_by(2)
            .collect();
        let began = Instant::now();
        for shard in half {
            std::fs::remove_dir_all(shard).map_err(|error| error.to_string())?;
        }
        let time = began.elapsed();
        std::fs::remove_dir_all(&limit).map_err(|error| error.to_string())?;
        Ok(time)
    };
    let (ours, limit) = in_turns(3, evict, remove)?;
    let bound = Bound {
        within: Some(Duration::from_secs(1)),
        times: None,
    };
    let what = "removing the directories of half of the layers";
    Ok(line(&ours, &limit, what, &bound))
}

/// Bytes of a store.
fn takes(root: &Path) -> Measured<u64> {
    let usage = Store::open(root).and_then(|store| store.usage());
    usage
        .map(|usage| usage.total)
        .map_err(|error| error.to_string())
}

pub(crate) fn du() -> Measured<String> {
    measured(&["du"])
}

fn measured(args: &[&str]) -> Measured<String> {
    let place = Place::new();
    let root = place.beside("store");
    fill(&root);
    let pool = rayon::ThreadPoolBuilder::new().build().unwrap();
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        run(command
            .env_clear()
            .env("HOME", place.beside(""))
            .env("RBUILD_ROOT", &root)
            .args(args))
    };
    command()?;
    let (ours, walk) = in_turns(5, |_| command(), |_| limits::stat_walk(&root, &pool))?;
    let bound = Bound {
        within: Some(Duration::from_secs(1)),
        times: None,
    };
    let text = line(&ours, &walk, "parallel stat walk of the store", &bound);
    Ok(format!("{text}; {}", overhead(&root)))
}

/// Steps that each copied one file into one of 140 directories, all of which the layers' root file systems share.
fn fill(root: &Path) {
    let store = Store::open(root).unwrap();
    for number in 0..RECORDS {
        let form = store.scratch().unwrap();
        let path = format!("srv/{}/{}/file-{number}", number % 20, number % 7);
        let file = form.path().join("form").join(&path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, vec![number as u8; FILE]).unwrap();
        let mut builder = TreeBuilder::new();
        let target = b"where it is does not matter here".to_vec();
        builder.insert(
            path.as_bytes(),
            Meta::default(),
            NewNode::Symlink { target },
        );
        let layer = builder.finish(store.trees());
        store.trees().persist(&layer.tree).unwrap();
        store
            .adopt_layer_dir(&layer.tree, "bench", &form.path().join("form"))
            .unwrap();
        let mut fields = KeyRecord::new("file");
        fields.field("number", number);
        fields.field("action", "copy a file from the context to where it belongs");
        let record = Record {
            key: fields.key(),
            record: fields,
            slot: format!("Dockerfile {}", number % 50),
            outputs: vec![Snapshot {
                layers: vec![LayerRef {
                    layer,
                    origin: None,
                    created: Some(u128::from(number)),
                    single: false,
                }],
                root: layer,
            }],
            created: u128::from(number),
            duration_ms: 10,
            name: format!("[{number}/{RECORDS}] COPY file /srv/"),
        };
        store.records().publish(&record).unwrap();
    }
}

/// What the store takes besides the layers it holds.
fn overhead(root: &Path) -> String {
    let usage = Store::open(root).and_then(|store| store.usage()).unwrap();
    let layers = usage.kinds.iter().find(|(kind, _)| *kind == "layers");
    let layers = layers.map_or(0, |(_, bytes)| *bytes);
    let rest = usage.total - layers;
    format!(
        "{} MiB of layers, {} MiB for the rest",
        layers >> 20,
        rest >> 20
    )
}
