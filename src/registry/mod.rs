//! Images in registries and in OCI image layouts, and files by URL; the only home of HTTP.
//!
//! [`Client`] pulls and pushes by the OCI distribution-spec, [`Layout`] reads the same things from a directory.
//! Both hand out [`Resolved`] images and verifying readers. What to fetch, in which order and how many at once is
//! the caller's: all calls block, and a [`Client`] is shared by cloning it.
//!
//! | file | what it knows |
//! |---|---|
//! | `reference` | docker's reference grammar |
//! | `places` | where a registry's requests go, and how: mirrors, schemes, certificates |
//! | `endpoint` | one such place, and its URLs |
//! | `transport` | connections: proxies, redirects, time limits; `tls` certificates, `forward` plain requests to a proxy |
//! | `auth` | challenges, tokens, credentials |
//! | `call` | retries, authorization, what refusals mean |
//! | `client` | the pull calls; `push` and `upload` the others; `blob` the resuming reader |
//! | `download` | files by URL |
//! | `service` | requests to services that keep caches, and are no registries |
//! | `referrers` | what is about an image: signatures, lists of what is in it |
//! | `resolve` | from a name to the image for a platform |
//! | `layout` | OCI image layouts |
//! | `archive` | images in archives, OCI's and docker's |
//! | `together` | several calls at once, for those who make them |
//! | `login` | whether credentials are accepted |
//! | `docker_config` | writing credentials where docker keeps them |
//!
//! Invariants:
//! - Every document and blob is compared with its digest and size before its end is reported; documents are at
//!   most [`MAX_DOCUMENT`] bytes long.
//! - Credentials and client certificates go to the registry they are for and to the token server it names, never to
//!   where a redirect or an upload leads elsewhere. Credentials go over plain HTTP only to registries that are spoken
//!   to in plain HTTP.
//! - No call leaves a thread behind, and none starts one: names are looked up on the calling thread. [`side_by_side`] has
//!   threads that are gone when it returns.

pub mod archive;
mod auth;
mod blob;
mod call;
mod client;
pub mod docker_config;
pub mod download;
mod endpoint;
mod error;
mod forward;
pub mod layout;
mod login;
mod places;
mod push;
pub mod reference;
mod referrers;
mod resolve;
mod service;
mod tls;
mod together;
mod transport;
mod upload;

#[cfg(test)]
pub(crate) mod tests;

pub use archive::Archive;
pub use auth::DOCKER_AUTH;
pub use auth::credentials;
pub use blob::BlobReader;
pub use client::Client;
pub use download::Validators;
pub use error::RegistryError;
pub use layout::Layout;
pub use login::Login;
pub use push::Pushed;
pub use reference::ParseReferenceError;
pub use reference::Reference;
pub use resolve::Resolved;
pub use service::Call;
pub use service::Reply;
pub use together::side_by_side;
pub use transport::OpenBlob;
pub(crate) use upload::BlobParts;

/// Manifests, indexes and configs larger than this are refused (distribution-spec, Pushing Manifests: registries
/// should take at least that much).
pub const MAX_DOCUMENT: u64 = 4 << 20;
