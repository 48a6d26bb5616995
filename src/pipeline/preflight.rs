//! Before a build that has something to do: whether the disk will do.
//!
//! It is an error only if it is known that it will not: the blobs of bases alone are larger than what is free. Files of
//! contexts that processes will see count for what is told of before; on some disks they take nothing. What steps write nobody
//! knows beforehand.

use rbuild_cache::Store;
use rbuild_llb::VertexId;
use rbuild_llb::definition::Vertex;

use super::failure;
use super::remark_on;
use crate::ops::Engine;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::ui;
use crate::ui::EventSink;

/// So little free is told of before processes run, whatever they do.
const FLOOR: u64 = 100 << 20;

/// Looks at the free space of the store's disk. `processes` are to run.
///
/// # Errors
/// If it is surely too small.
pub(super) fn look<'v>(
    store: &Store,
    engine: &Engine<'_>,
    pending: impl Iterator<Item = (VertexId, &'v Vertex)> + Clone,
    processes: usize,
    events: &EventSink,
) -> Result<(), BuildError> {
    let (least, likely) = engine
        .bytes_to_come(pending.clone(), processes > 0)
        .map_err(failure::op)?;
    // A file system that does not say has not said that it is full.
    let Ok(disk) = store.space() else {
        return Ok(());
    };
    let wanted = match processes {
        0 => likely,
        _ => {
            let enough = disk.free.saturating_sub(likely);
            let copied = engine.bytes_to_copy(pending, enough).map_err(failure::op)?;
            likely.saturating_add(copied).max(FLOOR)
        }
    };
    if disk.free >= wanted {
        return Ok(());
    }
    let reclaimable = store.usage().map_or(0, |usage| usage.reclaimable);
    let path = store.path().display();
    let free = ui::size(disk.free);
    let prune = match reclaimable {
        0 => "nothing in the store can be removed; `--root` chooses another place".to_owned(),
        bytes => format!("`rbuild prune --all` would free {}", ui::size(bytes)),
    };
    if least > disk.free {
        let error = anyhow::anyhow!(
            "the disk of the store `{path}` has {free} free, and the base images take {} at least",
            ui::size(least)
        );
        return Err(BuildError::new(ErrorKind::Environment, error).hint(prune));
    }
    remark_on(
        events,
        &format!(
            "the disk of the store `{path}` has {free} free, and the build may take {}; {prune}",
            ui::size(wanted)
        ),
    );
    Ok(())
}
