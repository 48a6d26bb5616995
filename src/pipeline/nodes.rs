//! What the nodes of a builder are: whether they are there, and what they can do.

use std::time::Duration;

use rbuild_cache::threads;
use rbuild_llb::CancelToken;
use rbuild_llb::Platform;

use super::builder::ABILITIES;
use super::failure;
use crate::buildkit::Connection;
use crate::buildkit::EngineError;
use crate::outcome::BuildError;
use crate::request::BuilderAddress;
use crate::request::Node;
use crate::request::Place;
use crate::sandbox;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found out about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// BuildKit's version, if the daemon says it.
    pub version: Option<String>,
    /// What it builds for, its own platform first.
    pub platforms: Vec<Platform>,
    /// What builds cannot ask of it: the capability, and what takes it.
    pub lacks: Vec<(&'static str, &'static str)>,
}

/// Asks nodes, all at once. Why one did not answer is a clause.
///
/// # Errors
/// If who waits wants the answers no more.
pub fn ask(nodes: &[Node]) -> Result<Vec<Result<Found, String>>, BuildError> {
    let cancel = CancelToken::new();
    sandbox::on_termination_signals(&cancel).map_err(failure::signals)?;
    let found = threads::side_by_side(nodes, nodes.len(), |node| find_out(node, &cancel));
    match cancel.is_cancelled() {
        true => Err(BuildError::interrupted()),
        false => Ok(found),
    }
}

fn find_out(node: &Node, cancel: &CancelToken) -> Result<Found, String> {
    match &node.place {
        Place::Here => Ok(Found {
            version: None,
            platforms: vec![Platform::host()],
            lacks: Vec::new(),
        }),
        Place::Daemon(address) => {
            asked(address, cancel).map_err(|error| format!("{:#}", anyhow::Error::new(error)))
        }
    }
}

fn asked(address: &BuilderAddress, cancel: &CancelToken) -> Result<Found, EngineError> {
    let connection = Connection::open_within(PATIENCE, address, cancel)?;
    let capabilities = connection.capabilities()?;
    let lacks = ABILITIES.into_iter();
    Ok(Found {
        version: connection.version()?,
        platforms: connection.platforms().to_vec(),
        lacks: lacks
            .filter(|(capability, _)| !capabilities.has(capability))
            .collect(),
    })
}
