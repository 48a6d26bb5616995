//! The build graph: the one language that frontends write and the engine reads.
//!
//! Pure data and pure functions; no I/O, no clock, no environment. What lives where:
//!
//! - [`op`]: what a step does, with LLB's fields; [`definition`]: steps wired into a graph
//! - [`id`]: typed identifiers; [`encode`]: the canonical bytes they are computed over; [`key`]: cache key records
//! - [`config`]: the OCI image config that travels beside the graph
//! - [`frontend`]: the trait a plan language implements; [`inspect`]: what else can be asked of a plan
//! - [`diagnostic`]: source files, spans, findings; [`event`]: progress; [`cancel`]: stopping
//! - [`suggest`]: "did you mean"; [`paths`]: paths without detours; [`secrets`]: names of variables that hold secrets
//! - [`pattern`]: include and exclude patterns, wildcards
//! - [`proto`]: BuildKit's protobuf form, in and out; [`dump`]: forms for people and programs to read

pub mod cancel;
pub mod config;
pub mod definition;
pub mod diagnostic;
pub mod dump;
pub mod encode;
pub mod event;
pub mod frontend;
pub mod id;
pub mod inspect;
pub mod key;
pub mod op;
pub mod paths;
pub mod pattern;
pub mod platform;
pub mod proto;
pub mod secrets;
pub mod suggest;

pub use cancel::CancelToken;
pub use config::ImageConfig;
pub use definition::Definition;
pub use definition::Edge;
pub use definition::Vertex;
pub use diagnostic::Diagnostic;
pub use diagnostic::Severity;
pub use diagnostic::SourceFile;
pub use diagnostic::Span;
pub use frontend::Frontend;
pub use id::CacheKey;
pub use id::ContentDigest;
pub use id::FileDigest;
pub use id::OciDigest;
pub use id::TreeId;
pub use id::VertexId;
pub use key::KeyRecord;
pub use op::Op;
pub use platform::Platform;
