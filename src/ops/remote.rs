//! Results that come from caches elsewhere, and the bytes of their layers.
//!
//! A result that is taken in becomes a record of the store, as if the step had run here: with what its key was made of, which
//! this build knows. Its layers then are lists of files; a blob is fetched when somebody needs bytes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rbuild_cache::Answer;
use rbuild_cache::BlobOptions;
use rbuild_cache::CACHE;
use rbuild_cache::Elsewhere;
use rbuild_cache::LayerBlob;
use rbuild_cache::LayerRef;
use rbuild_cache::LeaseRoot;
use rbuild_cache::Origin;
use rbuild_cache::Record;
use rbuild_cache::RemoteCache;
use rbuild_cache::Snapshot;
use rbuild_cache::Unread;
use rbuild_llb::CacheKey;
use rbuild_llb::KeyRecord;
use rbuild_llb::OciDigest;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::definition::PrunedDefinition;

use super::Engine;
use super::NearBy;
use super::OpError;
use super::StepResult;
use super::pull::Forms;
use super::pull::cache_of;
use super::pull::layout_of;
use super::pull::on_all_cores;
use super::pull::side_by_side;
use super::transfer::Reporter;
use crate::registry::Layout;
use crate::registry::Reference;
use crate::solver::Evaluate as _;
use crate::solver::Input;
use crate::solver::InputKey;
use crate::solver::Load;

/// What is known of layers whose bytes are not in the store.
#[derive(Debug, Default)]
pub(super) struct Far {
    /// Whether there are any.
    seen: AtomicBool,
    /// Whether steps are carried out: what is found meanwhile has to have its bytes.
    solving: AtomicBool,
    /// Blobs that were not what they should be.
    bad: Mutex<BTreeSet<OciDigest>>,
    /// Blobs that those who are to get them have.
    stay: Mutex<BTreeSet<OciDigest>>,
    near_by: NearBy,
}

impl Engine<'_> {
    /// Whether all that is in some results can be had.
    pub(super) fn all_usable(&self, outputs: &[Snapshot]) -> Result<(), String> {
        if self.options.ranges_only && outputs.iter().any(Snapshot::is_single) {
            return Err("it was made on rung 2, which `--min-rung=1` refuses".to_owned());
        }
        outputs
            .iter()
            .try_for_each(|snapshot| self.usable(snapshot))
    }

    /// Takes the result of a key from a cache elsewhere.
    pub(super) fn adopt(
        &self,
        remote: &dyn RemoteCache,
        vertex: &Vertex,
        record: &KeyRecord,
        key: &CacheKey,
    ) -> Load<StepResult> {
        let answer = match remote.find(key) {
            Ok(Some(Elsewhere::Answer(answer))) => answer,
            Ok(Some(Elsewhere::Unread(unread))) => match self.read_answer(unread) {
                Ok(answer) => answer,
                Err(error) => return Load::Unusable(error.to_string()),
            },
            Ok(None) => return Load::Miss,
            Err(error) => return Load::Unusable(error.to_string()),
        };
        // No record says yet that they are used.
        let layers = answer.outputs.iter().flat_map(|output| &output.layers);
        let roots = layers.map(|layer| LeaseRoot::LayerDir(layer.layer.tree));
        let roots: Vec<LeaseRoot> = roots.collect();
        if let Err(error) = self.lease.protect_all(&roots) {
            return Load::Unusable(error.to_string());
        }
        if let Err(reason) = self.all_usable(&answer.outputs) {
            return Load::Unusable(reason);
        }
        match self.keep_answer(vertex, record, key, &answer) {
            Ok(true) => Load::Hit(StepResult {
                outputs: answer.outputs,
            }),
            Ok(false) => Load::Unusable("what a cache says of its layers does not fit".into()),
            Err(error) => Load::Unusable(error.to_string()),
        }
    }

    /// Reads the layers of a result that is known by its blobs alone: they come in, as a base's do.
    fn read_answer(&self, unread: Unread) -> Result<Answer, OpError> {
        let silent = Reporter {
            digest: "",
            events: &|_| {},
        };
        self.far.seen.store(true, Ordering::Relaxed);
        let read = |layers: &Vec<(Origin, Option<u128>)>| {
            let bad = layers
                .iter()
                .find(|(origin, _)| self.is_bad(&origin.digest));
            if let Some((origin, _)) = bad {
                return Err(OpError::Unsupported {
                    what: format!("layer {}, which could not be had", origin.digest),
                });
            }
            let origins: Vec<Origin> = layers.iter().map(|(origin, _)| origin.clone()).collect();
            let read = self.image(&origins, Forms::Tree, &silent);
            let mut snapshot = read.inspect_err(|_| {
                // No other step is to wait for them again.
                let missing = origins.iter().map(|origin| origin.digest);
                let missing = missing.filter(|blob| !self.store.blobs().contains(blob));
                self.make_bad(missing);
            })?;
            for (layer, (_, created)) in snapshot.layers.iter_mut().zip(layers) {
                layer.created = *created;
            }
            Ok(snapshot)
        };
        let outputs = unread.outputs.iter().map(read);
        Ok(Answer {
            outputs: Arc::new(outputs.collect::<Result<_, _>>()?),
            created: unread.created,
            duration_ms: unread.duration_ms,
        })
    }

    fn make_bad(&self, blobs: impl Iterator<Item = OciDigest>) {
        let mut bad = self.far.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.extend(blobs);
    }

    /// Whether something may be had from the cache that origins call `place`.
    fn reaches(&self, place: &str) -> bool {
        let given = self.remote.is_some_and(|remote| remote.reaches(place));
        !self.options.offline && (given || self.cache_registry(place).is_some())
    }

    /// Caches in registries can be asked whoever named them: the rest takes what only the command line gives.
    pub(super) fn cache_registry(&self, place: &str) -> Option<Reference> {
        place
            .strip_prefix(CACHE)?
            .strip_prefix("registry:")?
            .parse()
            .ok()
    }

    /// While steps are carried out, a result whose layers are elsewhere is found only with their bytes: whoever goes on with
    /// it could no longer do without.
    pub(crate) fn set_solving(&self, solving: bool) {
        self.far.solving.store(solving, Ordering::Relaxed);
    }

    /// What was found, if its bytes are there or need not be yet.
    pub(super) fn in_time(&self, found: Load<StepResult>) -> Load<StepResult> {
        let Load::Hit(result) = found else {
            return found;
        };
        if !self.far.solving.load(Ordering::Relaxed) {
            return Load::Hit(result);
        }
        let layers = result.outputs.iter().flat_map(|output| &output.layers);
        match self.fetch_far(layers) {
            Ok(failed) => match failed.first() {
                None => Load::Hit(result),
                Some(error) => Load::Unusable(error.to_string()),
            },
            Err(error) => Load::Unusable(error.to_string()),
        }
    }

    /// Makes a record of an answer. Not if its layers add up to something else than it says.
    fn keep_answer(
        &self,
        vertex: &Vertex,
        record: &KeyRecord,
        key: &CacheKey,
        answer: &Answer,
    ) -> Result<bool, OpError> {
        for snapshot in answer.outputs.iter() {
            let layers = snapshot.layers.iter().cloned();
            let stacked = layers
                .into_iter()
                .try_fold(self.empty(), |below, layer| self.stack(&below, layer))?;
            if stacked != *snapshot {
                return Ok(false);
            }
            self.keep_trees(&snapshot.trees().collect::<Vec<_>>())?;
        }
        self.backend.publish(&Record {
            key: *key,
            record: record.clone(),
            slot: self.slot(vertex),
            outputs: answer.outputs.to_vec(),
            created: answer.created,
            duration_ms: answer.duration_ms,
            name: vertex.meta.name.clone(),
        })?;
        Ok(true)
    }

    /// The blobs of a layer that can be fetched from caches elsewhere.
    fn elsewhere(&self, layer: &LayerRef) -> Result<Vec<Origin>, OpError> {
        let blobs = self.store.layer_blobs_elsewhere(&layer.layer.tree)?;
        let origin = |(blob, place): (LayerBlob, String)| Origin {
            digest: blob.digest,
            size: blob.size,
            media_type: blob.media_type().to_owned(),
            diff_id: blob.diff_id,
            source: Some(place),
            urls: Vec::new(),
        };
        Ok(blobs.into_iter().map(origin).collect())
    }

    /// Whether a blob of a base can be fetched again, as far as is known.
    pub(super) fn is_fetchable(&self, origin: &Origin) -> bool {
        match layout_of(origin) {
            Some(path) => {
                self.far.seen.store(true, Ordering::Relaxed);
                !self.is_bad(&origin.digest)
                    && (!self.options.offline
                        || Layout::has_blob(path, &origin.digest, origin.size))
            }
            None => match cache_of(origin) {
                Some(place) => {
                    self.far.seen.store(true, Ordering::Relaxed);
                    !self.is_bad(&origin.digest) && self.reaches(place)
                }
                None => origin.source.is_some() && !self.options.offline,
            },
        }
    }

    /// Whether a blob is in a directory or in a cache elsewhere, and not in the registry of a base.
    pub(crate) fn is_far(&self, origin: &Origin) -> bool {
        layout_of(origin).is_some() || cache_of(origin).is_some()
    }

    /// Whether a cache elsewhere still has bytes of a layer, as far as can be told without reading them.
    pub(super) fn is_elsewhere(&self, layer: &LayerRef) -> bool {
        self.far.seen.store(true, Ordering::Relaxed);
        let origins = self.elsewhere(layer).unwrap_or_default();
        origins.iter().any(|origin| self.is_there(origin))
    }

    fn is_there(&self, origin: &Origin) -> bool {
        let there = match layout_of(origin) {
            Some(path) => Layout::has_blob(path, &origin.digest, origin.size),
            None => cache_of(origin).is_some_and(|place| self.reaches(place)),
        };
        there && !self.is_bad(&origin.digest)
    }

    /// Whether a blob was fetched in this build and was not what it should be.
    pub(crate) fn is_bad(&self, blob: &OciDigest) -> bool {
        let bad = self.far.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.contains(blob)
    }

    /// How many blobs were not what they should be. What is known of steps changes with it.
    pub(crate) fn bad_blobs(&self) -> usize {
        let bad = self.far.bad.lock().unwrap_or_else(PoisonError::into_inner);
        bad.len()
    }

    /// Notes that a blob of a cache elsewhere need not come: who is to get it has it.
    pub(crate) fn let_stay(&self, blob: OciDigest) {
        let mut stay = self.far.stay.lock().unwrap_or_else(PoisonError::into_inner);
        stay.insert(blob);
    }

    /// A layer's blob that is elsewhere, as far as is known.
    pub(crate) fn far_blob(
        &self,
        layer: &LayerRef,
        options: &BlobOptions,
    ) -> Result<Option<LayerBlob>, OpError> {
        let Some(blob) = self.store.layer_blob(&layer.layer.tree, options)? else {
            return Ok(None);
        };
        let mut origins = self.elsewhere(layer)?.into_iter();
        let there = origins.any(|origin| origin.digest == blob.digest && self.is_there(&origin));
        Ok((there && !self.store.blobs().contains(&blob.digest)).then_some(blob))
    }

    /// A layer's blob that is elsewhere, and need not come.
    pub(crate) fn blob_that_stays(
        &self,
        layer: &LayerRef,
        options: &BlobOptions,
    ) -> Result<Option<LayerBlob>, OpError> {
        let stays = |blob: &LayerBlob| {
            let stay = self.far.stay.lock().unwrap_or_else(PoisonError::into_inner);
            stay.contains(&blob.digest)
        };
        Ok(self.far_blob(layer, options)?.filter(stays))
    }

    /// Fetches the blob of a layer that was made by a build, if it is not here.
    pub(crate) fn fetch_own_blob(&self, layer: &LayerRef, blob: &OciDigest) -> Result<(), OpError> {
        if !self.store.blobs().contains(blob) {
            self.fetch_elsewhere(layer, |origin| origin.digest == *blob)?;
        }
        Ok(())
    }

    /// Where it is noted which blobs were brought to which repository.
    pub(crate) fn near_by(&self) -> NearBy {
        self.far.near_by.clone()
    }

    /// Whether a layer's bytes would have to be fetched.
    pub(crate) fn is_only_elsewhere(&self, layer: &LayerRef) -> bool {
        let elsewhere = self.elsewhere(layer);
        elsewhere.is_ok_and(|blobs| !blobs.is_empty()) && !self.is_here(layer)
    }

    /// The repository of a registry in which a layer's blob is, as far as is known: one that this build brings it to, its
    /// base's, or that of a cache.
    pub(crate) fn near(
        &self,
        layer: &LayerRef,
        blob: &OciDigest,
        registry: &str,
    ) -> Option<String> {
        if let Some(repository) = self.far.near_by.find(blob, registry) {
            return Some(repository);
        }
        let of = |origin: &Origin| {
            let place: Reference = match cache_of(origin) {
                Some(place) => self.cache_registry(place)?,
                None => origin.source.as_deref()?.parse().ok()?,
            };
            (place.registry == registry).then_some(place.repository)
        };
        match &layer.origin {
            Some(origin) if origin.digest == *blob => of(origin),
            Some(_) => None,
            None => {
                let origins = self.elsewhere(layer).ok()?;
                let mut origins = origins.iter().filter(|origin| origin.digest == *blob);
                origins.find_map(of)
            }
        }
    }

    /// Whether the store has bytes of a layer, or the registry of the base that it is of.
    pub(crate) fn is_here(&self, layer: &LayerRef) -> bool {
        let blobs = self.store.blobs();
        match &layer.origin {
            Some(origin) => {
                !self.is_far(origin) || blobs.contains(&origin.digest) || self.has_directory(layer)
            }
            None => {
                let made = self.store.all_layer_blobs(&layer.layer.tree);
                let made = made.unwrap_or_default();
                self.has_directory(layer) || made.iter().any(|blob| blobs.contains(&blob.digest))
            }
        }
    }

    /// Whether a layer's bytes are in the store, or a registry or a cache elsewhere has them.
    ///
    /// # Errors
    /// If what is known of the layer cannot be read.
    pub fn is_kept(&self, layer: &LayerRef) -> Result<bool, OpError> {
        let tree = layer.layer.tree;
        self.lease.protect(LeaseRoot::LayerDir(tree))?;
        if layer.origin.is_some() || self.form(&tree).is_some() {
            return Ok(true);
        }
        let blobs = self.store.layer_blobs(&tree)?;
        let here = |blob: &LayerBlob| self.store.blobs().contains(&blob.digest);
        Ok(blobs.iter().any(here) || self.is_elsewhere(layer))
    }

    /// Fetches a blob of a layer, that with the given digest or any; whether there is one now.
    pub(super) fn fetch_elsewhere(
        &self,
        layer: &LayerRef,
        wanted: impl Fn(&Origin) -> bool,
    ) -> Result<bool, OpError> {
        let origins = self.elsewhere(layer)?;
        let there = |origin: &&Origin| wanted(origin) && self.is_there(origin);
        match origins.iter().find(there) {
            Some(origin) => self.fetch_blob(origin).map(|()| true),
            None => Ok(false),
        }
    }

    /// A layer's blob that need not be written: it is known, and it, or with `keep` false other bytes of the layer, can be
    /// had.
    pub(super) fn blob_made_before(
        &self,
        layer: &LayerRef,
        options: &BlobOptions,
        keep: bool,
        has_dir: bool,
    ) -> Result<Option<LayerBlob>, OpError> {
        let tree = layer.layer.tree;
        let Some(blob) = self.store.known_blob(&tree, options)? else {
            return Ok(None);
        };
        let there = match keep {
            true => match self.fetch_elsewhere(layer, |origin| origin.digest == blob.digest) {
                Ok(came) => came,
                Err(_) if self.cancel.is_cancelled() => return Err(OpError::Cancelled),
                // It can be made of the layer's other bytes.
                Err(_) => {
                    self.make_bad(std::iter::once(blob.digest));
                    false
                }
            },
            false => has_dir || self.exact_blob(layer)?.is_some(),
        };
        if !there {
            return Ok(None);
        }
        if !keep {
            self.keep_tree(&tree)?;
            self.store.set_layer_blob(&tree, options, &blob)?;
        }
        self.lease.protect(LeaseRoot::Blob(blob.digest))?;
        Ok(Some(blob))
    }

    /// Brings in the bytes of layers that only a directory elsewhere has. The answer is what was wrong with those that did
    /// not come: nothing that they are part of is used any more, and whoever planned with it plans again.
    pub(crate) fn fetch_far<'s>(
        &self,
        layers: impl Iterator<Item = &'s LayerRef>,
    ) -> Result<Vec<OpError>, OpError> {
        // An unchanged build has nothing far away, and is not to look for it.
        if !self.far.seen.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let blob = |layer: &'s LayerRef| {
            let origin = layer.origin.as_ref().map(|origin| origin.digest);
            ((layer.layer.tree, origin), layer)
        };
        let layers: BTreeMap<_, &LayerRef> = layers.map(blob).collect();
        let layers: Vec<&LayerRef> = layers.into_values().collect();
        let fetched = side_by_side(&layers, |layer| (*layer, self.fetch_layer(layer)));
        let mut failed = Vec::new();
        for (layer, fetched) in fetched {
            if self.cancel.is_cancelled() {
                return Err(OpError::Cancelled);
            }
            let Err(error) = fetched else {
                continue;
            };
            let blobs = match &layer.origin {
                Some(origin) => vec![origin.clone()],
                None => self.elsewhere(layer)?,
            };
            let mut bad = self.far.bad.lock().unwrap_or_else(PoisonError::into_inner);
            let known = bad.len();
            bad.extend(blobs.iter().map(|origin| origin.digest));
            // Of what is not elsewhere the step that needs it will say what is wrong.
            if bad.len() > known {
                failed.push(error);
            }
        }
        Ok(failed)
    }

    fn fetch_layer(&self, layer: &LayerRef) -> Result<(), OpError> {
        match &layer.origin {
            Some(origin) if self.is_far(origin) => self.fetch_blob(origin),
            Some(_) => Ok(()),
            None if self.has_directory(layer) => Ok(()),
            None => self.any_blob(layer).map(drop),
        }
    }

    /// What is known of all steps, by the keys that it is known by. Steps that are read anew in every build are left out, and
    /// so are those that nobody has the bytes of.
    pub(crate) fn known(
        &self,
        definition: &PrunedDefinition,
    ) -> Result<BTreeMap<VertexId, (Vec<CacheKey>, Answer)>, OpError> {
        let mut keys: BTreeMap<VertexId, CacheKey> = BTreeMap::new();
        let mut steps = Vec::with_capacity(definition.len());
        for (id, vertex) in definition.iter() {
            let inputs = vertex.inputs.iter().map(|edge| InputKey {
                key: keys[&edge.vertex],
                index: edge.output,
            });
            let inputs: Vec<InputKey> = inputs.collect();
            let record = self.definition_record(vertex, &inputs)?;
            let key = record.key();
            keys.insert(id, key);
            steps.push((id, vertex, record, key));
        }
        let roots = steps.iter().map(|(.., key)| LeaseRoot::Record(*key));
        self.lease.protect_all(&roots.collect::<Vec<_>>())?;
        // What this store has need not be read twice.
        let own = on_all_cores(&steps, |(.., key)| -> Result<Option<Record>, OpError> {
            let own = self.backend.lookup(key)?;
            Ok(own.filter(|own| self.all_usable(&own.outputs).is_ok()))
        });
        let mut found: BTreeMap<VertexId, StepResult> = BTreeMap::new();
        let mut kept = Vec::new();
        for ((id, vertex, record, key), own) in steps.into_iter().zip(own) {
            let own = match own? {
                Some(own) => Some(own),
                None => match self.load(vertex, &record, &key) {
                    Load::Hit(result) => {
                        found.insert(id, result);
                        self.backend.lookup(&key)?
                    }
                    Load::Miss | Load::Unusable(_) => None,
                },
            };
            if let Some(own) = own {
                let answer = Answer {
                    outputs: Arc::new(own.outputs),
                    created: own.created,
                    duration_ms: own.duration_ms,
                };
                found.entry(id).or_insert_with(|| StepResult {
                    outputs: Arc::clone(&answer.outputs),
                });
                kept.push((id, vertex, key, answer));
            }
        }
        let keys = on_all_cores(&kept, |(_, vertex, key, _)| {
            let inputs = vertex.inputs.iter().map(|edge| {
                let output = found.get(&edge.vertex)?;
                let index = edge.output;
                Some(Input { output, index })
            });
            let mut keys = vec![*key];
            if let Some(inputs) = inputs.collect::<Option<Vec<_>>>() {
                let content = self.content_record(vertex, &inputs)?;
                keys.extend(content.map(|content| content.key()));
            }
            Ok::<_, OpError>(keys)
        });
        let mut known = BTreeMap::new();
        for ((id, _, _, answer), keys) in kept.into_iter().zip(keys) {
            known.insert(id, (keys?, answer));
        }
        Ok(known)
    }
}
