//! Decides which steps run, and runs them in parallel.
//!
//! Generic over [`Evaluate`]: the solver knows no sandbox, no registry and no store, and is proven with arithmetic.
//! It is entered by two calls: [`plan`] looks everything up and runs nothing, [`solve`] runs what is left.
//!
//! What is hashed, and where. Every step has two keys, each BLAKE3 over a [`KeyRecord`] that [`Evaluate`] writes:
//! the *definition key* (the op and the definition keys of its inputs) answers an unchanged build, the *content
//! key* (the op and the content of what it consumes) answers when an input was made anew and came out the same.
//!
//! | | in both keys | instead of the inputs' definition keys, in the content key | in no key |
//! |---|---|---|---|
//! | image source | manifest digest, platform | (has none) | the tag |
//! | local source | names, types, modes, link targets and BLAKE3 of the files selected | (has none) | mtime, uid, gid, host path, files not selected |
//! | git source | commit, subdirectory, keep-git-dir | (has none) | userinfo, tokens |
//! | http source | checksum, file name, mode | (has none) | userinfo, tokens |
//! | exec | args, env, cwd, user, host name, names of extra hosts, network word, security mode, ulimits, platform, every field of every mount but those on the right | content digest of what each mount shows, and of the layers below the one it makes | values of secrets and ssh agents, contents of cache mounts, proxy variables, CA bundle, resource limits, the rung, what emulates the platform, names in progress |
//! | file | each action's kind, destination, owner, mode and flags, SOURCE_DATE_EPOCH | content of the selected source paths, content digest of what is changed and of its layers | where the source came from |
//! | merge, diff | the kind | (has none) | |
//!
//! Each row is a test in `src/ops/tests/keys`, or where files are read, in `cache/src/context/tests.rs`.
//!
//! Always true:
//!
//! - One thread owns the state of the graph; workers tell it things over a channel; there are no locks here, and
//!   no state is shared between processes: builds meet only in the store.
//! - A step runs at most once in a solve, and never if nothing needs its result. A result nothing needs is not
//!   loaded either.
//! - A result may be used before it is published; when a call returns without error, all are.
//! - No thread is started before something must run. Steps run on threads of their own, never on rayon's: they
//!   wait for children, and would keep hashing and compression waiting with them.
//! - A step that waits for another build counts against no limit. It holds no place while it waits for a turn or a lock, and
//!   waits for no turn while it holds a lock: nobody waits in a circle.
//! - When a call returns, no step of it is running, and every step that was reported as started was reported as
//!   completed.

mod lookup;
mod miss;
mod name;
mod nearest;
mod queue;
mod solve;
mod tail;
#[cfg(test)]
mod tests;
mod worker;

use rbuild_llb::CacheKey;
use rbuild_llb::CancelToken;
use rbuild_llb::KeyRecord;
use rbuild_llb::Vertex;
use rbuild_llb::VertexId;
use rbuild_llb::event::Event;
use rbuild_llb::event::Timestamp;

pub use lookup::Plan;
pub use lookup::PlanError;
pub use lookup::PlannedState;
pub use lookup::PlannedStep;
pub use lookup::plan;
pub use miss::Difference;
pub use miss::Miss;
pub use name::StepName;
pub use nearest::Place;
pub use nearest::pair;
pub use solve::CANCELED;
pub use solve::Root;
pub use solve::SolveError;
pub use solve::SolveOptions;
pub use solve::SolveResult;
pub use solve::Solved;
pub use solve::solve;

/// Evaluates steps. The real one is [`crate::ops`]; tests add numbers.
pub trait Evaluate: Sync {
    /// All outputs of a step; cheap to clone.
    type Output: Clone + Send + Sync + 'static;
    /// Why a step could not be evaluated.
    type Error: std::error::Error + Send + Sync + 'static;
    /// What somebody holds whose turn it is to carry out a step that others may want as well.
    type Turn: Send;

    /// The record of the definition key: the op, pinned, and the definition keys of its inputs. Called once for
    /// every step, inputs first, before anything runs; must be cheap.
    ///
    /// # Errors
    /// For a local source: what cannot be read.
    fn definition_record(
        &self,
        vertex: &Vertex,
        inputs: &[InputKey],
    ) -> Result<KeyRecord, Self::Error>;

    /// The record of the content key: the op and the content of what it consumes of its inputs. `None` for ops
    /// that have no better key than their definition (sources).
    ///
    /// # Errors
    /// If an input's tree cannot be read.
    fn content_record(
        &self,
        vertex: &Vertex,
        inputs: &[Input<'_, Self::Output>],
    ) -> Result<Option<KeyRecord>, Self::Error>;

    /// The result that is known for one of the keys of `vertex`, if its bytes are still usable. An unusable one is
    /// a miss, with the reason. A source whose files are at hand since it was pinned may answer without a record.
    /// `record` is what the key was made of: a result that comes from elsewhere is kept with it.
    fn load(&self, vertex: &Vertex, record: &KeyRecord, key: &CacheKey) -> Load<Self::Output>;

    /// What the store remembers of the last time this step, or the one that stood in its place, ran: asked for
    /// steps that miss, to say why and to run the longest path first. `record` is the one that missed; the answer
    /// is of the same kind.
    fn earlier(&self, vertex: &Vertex, record: &KeyRecord) -> Option<Earlier>;

    /// Waits while somebody else, here or in another process, carries out a step whose result will be found under `key`, the
    /// key of `record`. Called
    /// before the step is carried out, and the answer dropped when its result is published. With a turn the result is looked
    /// up once more first. None where nobody else can be about to make it.
    ///
    /// # Errors
    /// Why it cannot be told; anything once `step.cancel` is cancelled.
    fn turn(
        &self,
        vertex: &Vertex,
        record: &KeyRecord,
        key: &CacheKey,
        step: &StepControl<'_>,
    ) -> Result<Option<Self::Turn>, Self::Error>;

    /// The step failed, with its turn: those who wait for it need not wait for each other as well.
    fn fail(&self, turn: Self::Turn);

    /// Carries the step out.
    ///
    /// # Errors
    /// Why it failed; anything once `step.cancel` is cancelled.
    fn execute(
        &self,
        vertex: &Vertex,
        inputs: &[Input<'_, Self::Output>],
        step: &StepControl<'_>,
    ) -> Result<Self::Output, Self::Error>;

    /// Publishes a result under the keys of `records`, in the place of what was there.
    ///
    /// # Errors
    /// If the store cannot be written.
    fn store(
        &self,
        vertex: &Vertex,
        records: &[KeyRecord],
        output: &Self::Output,
        made: Made,
    ) -> Result<(), Self::Error>;
}

/// An input as its definition knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputKey {
    /// The definition key of the step the input is an output of.
    pub key: CacheKey,
    /// Which of that step's outputs.
    pub index: u32,
}

/// An input with its result.
#[derive(Debug)]
pub struct Input<'a, O> {
    /// All outputs of the step the input is an output of.
    pub output: &'a O,
    /// Which of them.
    pub index: u32,
}

/// The answer to a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Load<T> {
    /// There.
    Hit(T),
    /// Not there.
    Miss,
    /// There, but its bytes are gone or cannot be read here: why.
    Unusable(String),
}

/// What is remembered of an earlier run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// Its record.
    pub record: KeyRecord,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// How a result that is published came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// The step ran now.
    Executed {
        /// When it began.
        started: Timestamp,
        /// When it ended.
        completed: Timestamp,
    },
    /// It was known by another key of the step, with the times kept there.
    Found {
        /// The key it was found by.
        by: CacheKey,
    },
}

/// What a running step gets from the solver.
pub struct StepControl<'a> {
    /// Stop when it says so.
    pub cancel: &'a CancelToken,
    /// `digest` of the step in events.
    pub digest: &'a str,
    /// Where logs and progress go.
    pub events: &'a (dyn Fn(Event) + Sync),
    /// Calls what does nothing but wait for somebody who is not a step of this build, without keeping a place that one could
    /// use; and comes back when there is a place again.
    pub idle: &'a dyn Fn(&mut dyn FnMut()),
}

/// What events call the step `id`; see [`VertexEvent::digest`](rbuild_llb::event::VertexEvent::digest).
pub fn event_digest(id: &VertexId) -> String {
    format!("sha256:{}", id.hex())
}
