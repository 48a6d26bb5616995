//! Decides which steps run, and runs them in parallel.
//!
//! Generic over [`Evaluate`]: the solver knows no op, no sandbox, no registry, and is proven with arithmetic.
//! One thread owns the state of the graph; workers tell it things over a channel; there are no locks here, and no
//! state is shared between processes: builds meet only in the store.

use rbuild_llb::CancelToken;
use rbuild_llb::KeyRecord;
use rbuild_llb::Vertex;

/// Evaluates steps. The real one is [`crate::ops`]; tests add numbers.
pub trait Evaluate: Sync {
    /// All outputs of a step.
    type Output: Clone + Send + Sync;
    /// Why a step could not be evaluated.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The record of the definition key: the op, pinned, and the definition keys of its inputs. Called for every
    /// step, inputs first, before anything runs; must be cheap.
    ///
    /// # Errors
    /// For a local source: what cannot be read.
    fn definition_record(
        &self,
        vertex: &Vertex,
        inputs: &[rbuild_llb::CacheKey],
    ) -> Result<KeyRecord, Self::Error>;

    /// The record of the content key: the op and the content of what it consumes of its inputs. `None` for ops
    /// that have no better key than their definition (sources).
    ///
    /// # Errors
    /// If an input's tree cannot be read.
    fn content_record(
        &self,
        vertex: &Vertex,
        inputs: &[Self::Output],
    ) -> Result<Option<KeyRecord>, Self::Error>;

    /// The stored result of a key, if it is there and its bytes are still usable. An unusable one is a miss, with
    /// the reason.
    fn load(&self, key: &rbuild_llb::CacheKey) -> Load<Self::Output>;

    /// Carries the step out.
    ///
    /// # Errors
    /// Why it failed.
    fn execute(
        &self,
        vertex: &Vertex,
        inputs: &[Self::Output],
        step: &StepControl<'_>,
    ) -> Result<Self::Output, Self::Error>;

    /// Publishes a result under both keys of the step.
    ///
    /// # Errors
    /// If the store cannot be written.
    fn store(
        &self,
        vertex: &Vertex,
        records: &[KeyRecord],
        output: &Self::Output,
    ) -> Result<(), Self::Error>;
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

/// What a running step gets from the solver.
pub struct StepControl<'a> {
    /// Stop when it says so.
    pub cancel: &'a CancelToken,
    /// `digest` of the step in events.
    pub digest: &'a str,
    /// Where logs and progress go.
    pub events: &'a (dyn Fn(rbuild_llb::event::Event) + Sync),
}
