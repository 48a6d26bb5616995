//! Merge and diff: layers stacked and taken apart again, without touching a file.

use rbuild_cache::LayerRef;
use rbuild_cache::Snapshot;
use rbuild_llb::key::KeyValue;

use super::Engine;
use super::OpError;
use super::StepResult;
use crate::solver::Input;

impl Engine<'_> {
    /// The inputs' layers on top of each other.
    pub(super) fn merge(&self, inputs: &[&Snapshot]) -> Result<Snapshot, OpError> {
        let mut result = self.empty();
        for layer in inputs.iter().flat_map(|input| &input.layers) {
            result = self.stack(&result, layer.clone())?;
        }
        Ok(result)
    }

    /// The layers the second input has on top of the first; where it is not built on the first, one layer with the
    /// difference of the two file systems.
    pub(super) fn diff(&self, inputs: &[&Snapshot]) -> Result<Snapshot, OpError> {
        let empty = self.empty();
        let (lower, upper) = match inputs {
            [lower, upper] => (*lower, *upper),
            [lower] => (*lower, &empty),
            _ => {
                return Err(OpError::Unsupported {
                    what: format!("a diff of {} inputs", inputs.len()),
                });
            }
        };
        let same = |(below, above): (&LayerRef, &LayerRef)| below.is_same(above);
        let built_on = lower.layers.len() <= upper.layers.len()
            && lower.layers.iter().zip(&upper.layers).all(same);
        let layers = match built_on {
            true => upper.layers[lower.layers.len()..].to_vec(),
            false => {
                let layer = self
                    .store
                    .trees()
                    .diff(&lower.root.tree, &upper.root.tree)?;
                self.place_copied(upper, b"", &self.store.trees().root(&upper.root.tree)?)?;
                vec![LayerRef {
                    layer,
                    origin: None,
                    created: None,
                    single: false,
                }]
            }
        };
        layers
            .into_iter()
            .try_fold(self.empty(), |snapshot, layer| self.stack(&snapshot, layer))
    }

    /// A file system without files.
    pub(crate) fn empty(&self) -> Snapshot {
        Snapshot {
            layers: Vec::new(),
            root: self.store.trees().empty(),
        }
    }

    /// `snapshot` with one more layer on top.
    ///
    /// A directory that the layer only implies gets the metadata it has below: in an overlay mount the topmost
    /// directory's shows, so a layer's directory form, and with it the layer's identity, depends on it.
    pub(super) fn stack(
        &self,
        snapshot: &Snapshot,
        mut layer: LayerRef,
    ) -> Result<Snapshot, OpError> {
        layer.layer = self
            .store
            .trees()
            .settle(&snapshot.root.tree, &layer.layer.tree)?;
        let root = self
            .store
            .trees()
            .merge(&snapshot.root.tree, &layer.layer.tree)?;
        let mut layers = snapshot.layers.clone();
        layers.push(layer);
        Ok(Snapshot { layers, root })
    }
}

/// What an input of a step is.
pub(super) fn snapshot_of<'a>(inputs: &[Input<'a, StepResult>], index: usize) -> &'a Snapshot {
    let input = &inputs[index];
    &input.output.outputs[input.index as usize]
}

/// The contents of a snapshot's layers. They belong in the key of a step that puts another layer upon them: a result
/// on a file system that is the same, but of other layers, brings those into the image.
pub(super) fn layers_value(snapshot: &Snapshot) -> KeyValue {
    let layers = snapshot.layers.iter();
    layers
        .map(|layer| layer.layer.content.to_string())
        .collect()
}
