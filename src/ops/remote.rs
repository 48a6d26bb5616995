//! Results that come from caches elsewhere, and the bytes of their layers.
//!
//! A result that is taken in becomes a record of the store, as if the step had run here: with what its key was made of, which
//! this build knows. Its layers then are lists of files; a blob is fetched when somebody needs bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use rbuild_cache::Answer;
use rbuild_cache::LayerBlob;
use rbuild_cache::LayerRef;
use rbuild_cache::Origin;
use rbuild_cache::Record;
use rbuild_cache::RemoteCache;
use rbuild_cache::Snapshot;
use rbuild_llb::CacheKey;
use rbuild_llb::KeyRecord;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::definition::PrunedDefinition;

use super::Engine;
use super::OpError;
use super::StepResult;
use crate::solver::Evaluate as _;
use crate::solver::Input;
use crate::solver::InputKey;
use crate::solver::Load;

impl Engine<'_> {
    /// Whether all that is in some results can be had.
    pub(super) fn all_usable(&self, outputs: &[Snapshot]) -> Result<(), String> {
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
            Ok(Some(answer)) => answer,
            Ok(None) => return Load::Miss,
            Err(error) => return Load::Unusable(error.to_string()),
        };
        if let Err(reason) = self.all_usable(&answer.outputs) {
            return Load::Unusable(reason);
        }
        match self.keep_answer(vertex, record, key, &answer) {
            Ok(true) => Load::Hit(StepResult {
                outputs: Arc::new(answer.outputs),
            }),
            Ok(false) => Load::Unusable("what a cache says of its layers does not fit".into()),
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
        for snapshot in &answer.outputs {
            let layers = snapshot.layers.iter().cloned();
            let stacked = layers
                .into_iter()
                .try_fold(self.empty(), |below, layer| self.stack(&below, layer))?;
            if stacked != *snapshot {
                return Ok(false);
            }
            self.store.trees().persist(&snapshot.root.tree)?;
            for layer in &snapshot.layers {
                self.store.trees().persist(&layer.layer.tree)?;
            }
        }
        self.backend.publish(&Record {
            key: *key,
            record: record.clone(),
            slot: self.slot(vertex),
            outputs: answer.outputs.clone(),
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

    /// Whether a cache elsewhere still has bytes of a layer, as far as can be told without reading them.
    pub(super) fn is_elsewhere(&self, layer: &LayerRef) -> bool {
        let origins = self.elsewhere(layer).unwrap_or_default();
        origins.iter().any(|origin| self.is_there(origin))
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

    /// What is known of all steps, by the keys that it is known by. Steps that are read anew in every build are left out, and
    /// so are those that nobody has the bytes of.
    pub(crate) fn known(
        &self,
        definition: &PrunedDefinition,
    ) -> Result<BTreeMap<VertexId, (Vec<CacheKey>, Answer)>, OpError> {
        let mut found: BTreeMap<VertexId, (CacheKey, Option<StepResult>)> = BTreeMap::new();
        let mut known = BTreeMap::new();
        for (id, vertex) in definition.iter() {
            let keys: Vec<InputKey> = vertex
                .inputs
                .iter()
                .map(|edge| InputKey {
                    key: found[&edge.vertex].0,
                    index: edge.output,
                })
                .collect();
            let record = self.definition_record(vertex, &keys)?;
            let key = record.key();
            let result = match self.load(vertex, &record, &key) {
                Load::Hit(result) => Some(result),
                Load::Miss | Load::Unusable(_) => None,
            };
            if result.is_some()
                && let Some(record) = self.backend.lookup(&key)?
            {
                let inputs: Option<Vec<Input<'_, StepResult>>> = vertex
                    .inputs
                    .iter()
                    .map(|edge| {
                        Some(Input {
                            output: found[&edge.vertex].1.as_ref()?,
                            index: edge.output,
                        })
                    })
                    .collect();
                let mut keys = vec![key];
                if let Some(inputs) = inputs {
                    let content = self.content_record(vertex, &inputs)?;
                    keys.extend(content.map(|content| content.key()));
                }
                let answer = Answer {
                    outputs: record.outputs,
                    created: record.created,
                    duration_ms: record.duration_ms,
                };
                known.insert(id, (keys, answer));
            }
            found.insert(id, (key, result));
        }
        Ok(known)
    }
}
