//! What the tests stand on: a private environment for each, a loopback registry, base images, foreign tools.

mod actions;
mod bases;
mod dockerd;
mod env;
mod gate;
mod http;
mod layout;
mod objects;
mod output;
mod registry;
mod schema;
mod servers;
mod terminal;
pub(crate) mod tools;
pub(crate) mod yaml;

pub(crate) use actions::ActionsCache;
pub(crate) use bases::Base;
pub(crate) use bases::FOREIGN;
pub(crate) use bases::PACKAGES_WITH_USERS;
pub(crate) use bases::copy_image;
pub(crate) use dockerd::Dockerd;
pub(crate) use env::TestEnv;
pub(crate) use gate::Gate;
pub(crate) use layout::Image;
pub(crate) use layout::list_tar;
pub(crate) use objects::ObjectStore;
pub(crate) use output::Output;
pub(crate) use registry::Registry;
pub(crate) use registry::USER;
pub(crate) use registry::Watched;
pub(crate) use schema::assert_valid;
pub(crate) use servers::FileServer;
pub(crate) use servers::GitServer;
pub(crate) use servers::Tap;
pub(crate) use terminal::AtTerminal;
