//! One build: `Control.Solve` opens it and ends when the result is where it belongs; the gateway beside it says what is
//! to be solved; `Control.Status` tells how it goes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::google::rpc;
use bollard_buildkit_proto::moby::buildkit::v1 as api;
use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use bollard_buildkit_proto::pb;
use prost::Message as _;
use rbuild_llb::Platform;
use rbuild_llb::event::Event;
use tonic::Request;
use tonic::Status;
use tonic::transport::Channel;

use super::Capabilities;
use super::Connection;
use super::EngineError;
use super::LARGEST_MESSAGE;
use super::Offer;
use super::control;
use super::dial::Guard;
use super::dial::chain;
use super::session::Session;
use super::session::random_id;
use super::session::receive::Sink;
use super::status;
use super::status::Failures;
use crate::request::BuilderAddress;
use crate::request::BuilderCache;

/// The metadata by which calls of the gateway find their build.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// Result metadata (exporter/containerimage/exptypes).
const CONFIG: &str = "containerimage.config";
const PLATFORMS: &str = "refs.platforms";
/// How long is waited for the last of what a daemon tells, when the build has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What is made for one platform.
#[derive(Debug, Clone)]
pub struct Part {
    /// Which.
    pub platform: Platform,
    /// Its files: a graph as `pb.Definition`; none for no files at all.
    pub definition: Vec<u8>,
    /// The config of its image, JSON.
    pub config: Vec<u8>,
}

/// What is to be built, and what becomes of it.
pub struct Build<'a> {
    /// What the daemon may ask for.
    pub offer: Arc<Offer>,
    /// Which platforms the result is to have; a daemon warns of others, and takes its own for it if nothing is said.
    pub platforms: Vec<Platform>,
    /// The parts, as a daemon that can so much takes them.
    pub parts: &'a dyn Fn(&Capabilities) -> Result<Vec<Part>, EngineError>,
    /// Whether the result is written as for several platforms.
    pub several: bool,
    /// BuildKit's exporter with its options.
    pub exporter: Option<(&'static str, BTreeMap<String, String>)>,
    /// Where what it exports goes.
    pub sink: Sink,
    /// Caches to read.
    pub cache_from: Vec<BuilderCache>,
    /// Caches to write.
    pub cache_to: Vec<BuilderCache>,
    /// `network.host`, `security.insecure`.
    pub entitlements: Vec<String>,
    /// Whether it is none that anybody asked for, so that the daemon keeps no record of it.
    pub internal: bool,
}

/// What the exporter says of the result, in BuildKit's words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer(pub BTreeMap<String, String>);

impl Connection {
    /// Builds, and hands on what is told meanwhile.
    ///
    /// # Errors
    /// If it fails, there or here, or is cancelled: then the daemon is told so.
    pub fn build(&self, build: Build<'_>, events: &dyn Fn(Event)) -> Result<Answer, EngineError> {
        self.carry_through(self.carry_out(build, events))
    }

    async fn carry_out(
        &self,
        build: Build<'_>,
        events: &dyn Fn(Event),
    ) -> Result<Answer, EngineError> {
        let session = Session::open(
            &self.address,
            &self.channel,
            &self.pulse,
            &build.offer,
            build.sink,
        );
        let session = session.await?;
        let id = random_id();
        let (exporter, options) = build.exporter.unwrap_or_default();
        let options: HashMap<String, String> = options.into_iter().collect();
        let exporters = (!exporter.is_empty()).then(|| api::Exporter {
            r#type: exporter.to_owned(),
            attrs: options.clone(),
        });
        let entry = |entry: &BuilderCache| api::CacheOptionsEntry {
            r#type: entry.kind.clone(),
            attrs: entry.options.clone().into_iter().collect(),
        };
        let platforms: Vec<String> = build.platforms.iter().map(ToString::to_string).collect();
        let platforms =
            (!platforms.is_empty()).then(|| ("platform".to_owned(), platforms.join(",")));
        let request = api::SolveRequest {
            r#ref: id.clone(),
            frontend_attrs: platforms.into_iter().collect(),
            session: session.id.clone(),
            exporters: exporters.into_iter().collect(),
            // What daemons before 0.13 read.
            exporter_deprecated: exporter.to_owned(),
            exporter_attrs_deprecated: options,
            cache: Some(api::CacheOptions {
                exports: build.cache_to.iter().map(entry).collect(),
                imports: build.cache_from.iter().map(entry).collect(),
                ..api::CacheOptions::default()
            }),
            entitlements: build.entitlements,
            internal: build.internal,
            ..api::SolveRequest::default()
        };
        let gateway = Gateway {
            channel: &self.channel,
            id: &id,
            address: &self.address,
            guard: &self.guard,
            parts: build.parts,
            several: build.several,
            cache_from: &build.cache_from,
        };
        let failures = RefCell::new(Failures::default());
        let mut told = pin!(self.follow(&id, events, &failures));
        let mut solved = pin!(self.solve(request, gateway));
        let mut told_all = false;
        let solved = loop {
            tokio::select! {
                solved = &mut solved => break solved,
                () = &mut told, if !told_all => told_all = true,
            }
        };
        if !told_all {
            drop(tokio::time::timeout(LAST_WORDS, told).await);
        }
        // What went wrong here is why it went wrong there.
        if let Some(error) = session.trouble.take() {
            return Err(error.into());
        }
        let answer = solved.map_err(|error| match error {
            EngineError::Failed { message, .. } => {
                let failures = failures.borrow();
                let op = failures.behind(&message).map(str::to_owned);
                EngineError::Failed { message, op }
            }
            error => error,
        })?;
        match session.arrival.lacking() {
            None => Ok(answer),
            Some(what) => Err(EngineError::Half {
                address: self.address.to_string(),
                what,
            }),
        }
    }

    async fn solve(
        &self,
        request: api::SolveRequest,
        gateway: Gateway<'_>,
    ) -> Result<Answer, EngineError> {
        let mut control = control(&self.channel);
        let mut solving = pin!(control.solve(request));
        let gave_up = RefCell::new(None);
        let solved = tokio::select! {
            // It has failed before there was anything to solve, or because there will be nothing.
            solved = &mut solving => Some(solved),
            () = gateway.run(&gave_up) => {
                let has_result = gave_up.borrow().is_none();
                match has_result {
                    true => Some(solving.await),
                    false => tokio::time::timeout(LAST_WORDS, solving).await.ok(),
                }
            }
        };
        match (gave_up.into_inner(), solved) {
            (None, Some(Ok(response))) => {
                let response = response.into_inner().exporter_response;
                Ok(Answer(response.into_iter().collect()))
            }
            (None, Some(Err(status))) => Err(failed(&self.address, "build", &status, &self.guard)),
            (Some(error), _) => Err(error),
            (None, None) => Err(EngineError::Cancelled),
        }
    }

    /// Hands on what the daemon tells, until it has told all.
    async fn follow(&self, id: &str, events: &dyn Fn(Event), failures: &RefCell<Failures>) {
        let request = api::StatusRequest {
            r#ref: id.to_owned(),
        };
        // Why it ends early the build will tell.
        let Ok(stream) = control(&self.channel).status(request).await else {
            return;
        };
        let mut stream = stream.into_inner();
        while let Ok(Some(response)) = stream.message().await {
            let told = status::events(response, &mut failures.borrow_mut());
            told.into_iter().for_each(events);
        }
    }
}

/// What a call ended with, if it did not succeed.
pub(super) fn failed(
    address: &BuilderAddress,
    doing: &'static str,
    status: &Status,
    guard: &Guard,
) -> EngineError {
    use std::error::Error as _;
    // Only what the transport says has a cause.
    if status.source().is_some() || status.code() == tonic::Code::Unavailable {
        let message = match status.source() {
            Some(_) => guard.explain(status),
            None => status.message().to_owned(),
        };
        return EngineError::Lost {
            address: address.to_string(),
            message,
        };
    }
    if status.code() == tonic::Code::ResourceExhausted || is_exhausted(status.message()) {
        return EngineError::Exhausted {
            address: address.to_string(),
            message: status.message().to_owned(),
        };
    }
    match doing {
        "build" => EngineError::Failed {
            message: status.message().to_owned(),
            op: None,
        },
        _ => EngineError::Refused {
            address: address.to_string(),
            doing,
            message: status.message().to_owned(),
        },
    }
}

/// Whether a daemon says that its machine is out of something (strerror(3), as Go has it), and not that a step's process
/// is.
fn is_exhausted(message: &str) -> bool {
    const LACKS: [&str; 4] = [
        "no space left on device",
        "disk quota exceeded",
        "too many open files",
        "no buffer space available",
    ];
    !message.contains("did not complete successfully")
        && !message.contains("exit code: ")
        && LACKS.iter().any(|lack| message.contains(lack))
}

/// The frontend that a build has: this program.
struct Gateway<'a> {
    channel: &'a Channel,
    id: &'a str,
    address: &'a BuilderAddress,
    guard: &'a Guard,
    parts: &'a dyn Fn(&Capabilities) -> Result<Vec<Part>, EngineError>,
    several: bool,
    cache_from: &'a [BuilderCache],
}

impl Gateway<'_> {
    fn client(&self) -> LlbBridgeClient<Channel> {
        LlbBridgeClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let id = self.id.parse().expect("it is hexadecimal digits");
        request.metadata_mut().insert(BUILD_ID, id);
        request
    }

    fn failed(&self, status: &Status) -> EngineError {
        failed(self.address, "build", status, self.guard)
    }

    /// Gives the daemon a result, or says that there is none: why is in `gave_up` before the daemon knows.
    async fn run(self, gave_up: &RefCell<Option<EngineError>>) {
        let mut answer = gateway::ReturnRequest::default();
        match self.result().await {
            Ok(result) => answer.result = Some(result),
            Err(error) => {
                answer.error = Some(rpc::Status {
                    code: tonic::Code::Aborted as i32,
                    message: chain(&error),
                    details: Vec::new(),
                });
                gave_up.replace(Some(error));
            }
        }
        if let Err(status) = self.client().r#return(self.request(answer)).await {
            let error = self.failed(&status);
            gave_up.borrow_mut().get_or_insert(error);
        }
    }

    async fn result(&self) -> Result<gateway::Result, EngineError> {
        let ping = self.request(gateway::PingRequest {});
        let pong = self.client().ping(ping).await;
        let pong = pong.map_err(|status| self.failed(&status))?.into_inner();
        let enabled = pong.llb_caps.into_iter().filter(|cap| cap.enabled);
        let capabilities: Capabilities = enabled.map(|cap| cap.id).collect();
        let parts = (self.parts)(&capabilities)?;
        let mut metadata = HashMap::new();
        let mut references = HashMap::new();
        for part in &parts {
            let name = part.platform.to_string();
            let key = match self.several {
                true => format!("{CONFIG}/{name}"),
                false => CONFIG.to_owned(),
            };
            metadata.insert(key, part.config.clone());
            references.insert(name, self.part(part).await?);
        }
        if self.several {
            let platforms: Vec<&Platform> = parts.iter().map(|part| &part.platform).collect();
            metadata.insert(PLATFORMS.to_owned(), platforms_json(&platforms));
        }
        let result = match self.several {
            true => gateway::result::Result::Refs(gateway::RefMap { refs: references }),
            false => {
                let only = references.into_values().next().unwrap_or_default();
                gateway::result::Result::Ref(only)
            }
        };
        Ok(gateway::Result {
            metadata,
            result: Some(result),
            ..gateway::Result::default()
        })
    }

    /// Hands in a graph. Nothing of it runs before the result is wanted, then all of it side by side.
    async fn part(&self, part: &Part) -> Result<gateway::Ref, EngineError> {
        let definition = pb::Definition::decode(part.definition.as_slice())
            .expect("what was encoded here can be decoded");
        let entry = |entry: &BuilderCache| gateway::CacheOptionsEntry {
            r#type: entry.kind.clone(),
            attrs: entry.options.clone().into_iter().collect(),
        };
        let request = gateway::SolveRequest {
            definition: Some(definition),
            allow_result_return: true,
            allow_result_array_ref: true,
            cache_imports: self.cache_from.iter().map(entry).collect(),
            ..gateway::SolveRequest::default()
        };
        let solved = self.client().solve(self.request(request)).await;
        let solved = solved.map_err(|status| self.failed(&status))?.into_inner();
        let reference = match solved.result.and_then(|result| result.result) {
            Some(gateway::result::Result::Ref(reference)) => reference,
            Some(gateway::result::Result::RefDeprecated(id)) => gateway::Ref { id, def: None },
            _ => gateway::Ref::default(),
        };
        Ok(gateway::Ref {
            id: reference.id,
            def: None,
        })
    }
}

/// Which platforms a result has, in BuildKit's and the image-spec's words.
fn platforms_json(platforms: &[&Platform]) -> Vec<u8> {
    let entries = platforms.iter().map(|platform| {
        let mut fields = serde_json::Map::new();
        fields.insert("architecture".into(), platform.arch.to_string().into());
        fields.insert("os".into(), platform.os.to_string().into());
        if !platform.variant.is_empty() {
            fields.insert("variant".into(), platform.variant.to_string().into());
        }
        serde_json::json!({"ID": platform.to_string(), "Platform": fields})
    });
    let entries: Vec<serde_json::Value> = entries.collect();
    serde_json::json!({ "Platforms": entries })
        .to_string()
        .into_bytes()
}
