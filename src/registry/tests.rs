//! The client against a scripted server, against Debian's `docker-registry`, and layouts that `skopeo` reads.

mod auth;
mod distribution;
mod fixture;
mod hostile;
mod http;
mod layouts;
mod login;
mod places;
mod referrers;
pub(crate) mod server;
mod tls;
mod uploads;
