//! Image documents: manifests, indexes and configs, in OCI's and docker's media types. Pure: bytes in, bytes out.
//!
//! It fetches nothing and hashes no layer; [`crate::registry`] does the former, `rbuild-cache` the latter.
//! [`manifest::Document::parse`] reads what somebody else wrote, [`history::finish`] writes what a build made.
//!
//! Invariants:
//! - What is read is either a manifest or an index, never something that could be taken for both (CVE-2021-41190).
//! - What is written has sorted keys and its `mediaType`, so equal images are equal bytes.

pub mod history;
pub mod manifest;
pub mod media_type;

pub use history::FinishedImage;
pub use history::ImageLayer;
pub use manifest::Descriptor;
pub use manifest::Document;
pub use manifest::DocumentError;
pub use manifest::Index;
pub use manifest::Manifest;
pub use media_type::Format;
