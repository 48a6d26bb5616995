//! What a daemon says about itself.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::InfoRequest;

use super::Build;
use super::Capabilities;
use super::Connection;
use super::EngineError;
use super::Offer;
use super::Sink;
use super::build::failed;
use super::control;

impl Connection {
    /// Its version; `None` of those that do not say (before 0.11, so all dockerds until 23).
    ///
    /// # Errors
    /// If it does not answer.
    pub fn version(&self) -> Result<Option<String>, EngineError> {
        self.carry_through(async {
            let info = control(&self.channel).info(InfoRequest {}).await;
            match info {
                Ok(info) => Ok(info.into_inner().buildkit_version.map(|own| own.version)),
                Err(status) if status.code() == tonic::Code::Unimplemented => Ok(None),
                Err(status) => Err(failed(
                    &self.address,
                    "say what it is",
                    &status,
                    &self.guard,
                )),
            }
        })
    }

    /// What it can do. It says so to builds alone, so it is given one of nothing.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn capabilities(&self) -> Result<Capabilities, EngineError> {
        let seen = RefCell::new(Capabilities::default());
        let parts = |capabilities: &Capabilities| {
            seen.replace(capabilities.clone());
            Ok(Vec::new())
        };
        let offer = Offer {
            shared_key: String::new(),
            directories: BTreeMap::new(),
            secrets: Box::new(|_| Ok(None)),
            ssh: BTreeMap::new(),
            credentials: Box::new(|_| None),
        };
        let nothing = Build {
            offer: Arc::new(offer),
            platforms: Vec::new(),
            parts: &parts,
            several: false,
            exporter: None,
            sink: Sink::Nothing,
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            entitlements: Vec::new(),
            internal: true,
        };
        self.build(nothing, &|_| {})?;
        Ok(seen.into_inner())
    }
}
