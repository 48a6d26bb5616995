//! A BuildKit daemon as the engine; the only home of gRPC.
//!
//! It knows nothing of Dockerfiles, stores and layers. [`Connection::open`] reaches a daemon, [`Connection::build`] has it
//! solve graphs (LLB, protobuf) and serves what it asks for meanwhile: files, secrets, credentials. Nothing of an async
//! runtime is seen from outside: both block, and what they started has ended when the [`Connection`] is dropped.
//!
//! | file | what it knows |
//! |---|---|
//! | `dial` | from a name to a stream of bytes: sockets, TLS, programs, the Docker API |
//! | `about` | what a daemon says about itself |
//! | `build` | one build: `Control.Solve`, the gateway that runs beside it, `Control.Status` |
//! | `session` | the services that a daemon calls: a gRPC server on a stream that the client opened |
//! | `session/files` | files from here (fsutil's protocol, sending side) |
//! | `session/receive` | results to here: an archive, or fsutil's receiving side |
//! | `status` | what a daemon tells about steps, as our events |
//! | `pulse` | whether it is still heard of |
//!
//! A build goes through the gateway (`moby.buildkit.v1.frontend.LLBBridge`), as buildx' do: what the daemon can do is
//! known before graphs are sent, and one result has several platforms.
//!
//! Invariants:
//! - A connection is opened once. When it is lost, the build has failed; nothing is sent twice.
//! - What a daemon asks for is given if it was offered, by its name; paths that it sends lead nowhere outside the directory
//!   that the user named.

mod about;
mod build;
mod dial;
mod pulse;
mod session;
mod status;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::ListWorkersRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use hyper_util::rt::TokioIo;
use rbuild_llb::CancelToken;
use rbuild_llb::Platform;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::transport::Endpoint;

use crate::request::BUILDER_SILENCE;
use crate::request::BuilderAddress;
use pulse::Pulse;

pub use build::Answer;
pub use build::Build;
pub use build::Part;
pub use session::files::Directory;
pub use session::files::SentFile;
pub use session::files::SentKind;
pub use session::random_id;
pub use session::receive::Sink;

/// How long a daemon may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(20);
/// Graphs, and what is told about them, may be larger than the 4 MiB that are tonic's limit.
const LARGEST_MESSAGE: usize = 256 << 20;

/// Why a build on a daemon failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The daemon cannot be reached.
    #[error("cannot connect to the builder `{address}`")]
    Connect {
        /// As the user wrote it.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something answers, and it is not BuildKit.
    #[error("what answers at `{address}` is not BuildKit: {message}")]
    Foreign {
        /// As the user wrote it.
        address: String,
        /// What it said.
        message: String,
    },
    /// A file for TLS.
    #[error("cannot use `{}` for the builder", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// It was there, and is no more.
    #[error("the connection to the builder `{address}` was lost: {message}")]
    Lost {
        /// As the user wrote it.
        address: String,
        /// What was seen of it.
        message: String,
    },
    /// It is connected, and not heard of any more.
    #[error(
        "nothing has come from the builder `{address}` for {seconds} seconds: it hangs, or its machine does"
    )]
    Silent {
        /// As the user wrote it.
        address: String,
        /// How long that was waited for.
        seconds: u64,
    },
    /// It says that it has sent a result, and has not.
    #[error("the builder `{address}` says that it is done, and has sent {what}")]
    Half {
        /// As the user wrote it.
        address: String,
        /// What has come.
        what: &'static str,
    },
    /// The daemon does not answer a call that all daemons must know.
    #[error("the builder `{address}` refused to {doing}: {message}")]
    Refused {
        /// As the user wrote it.
        address: String,
        /// What it was asked for.
        doing: &'static str,
        /// Its reason.
        message: String,
    },
    /// It has run out of something that builds need.
    #[error("the builder `{address}` ran out of what it needs: {message}")]
    Exhausted {
        /// As the user wrote it.
        address: String,
        /// What the daemon said.
        message: String,
    },
    /// The build failed there.
    #[error("{message}")]
    Failed {
        /// What the daemon said.
        message: String,
        /// The digest of the op that failed, if it was one.
        op: Option<String>,
    },
    /// It lacks what the graph needs.
    #[error("the builder `{address}` is too old for {what}")]
    Missing {
        /// As the user wrote it.
        address: String,
        /// What of the build needs it.
        what: String,
        /// The capability, as BuildKit calls it.
        capability: &'static str,
    },
    /// Something here went wrong: a file that cannot be read, a place that cannot be written to.
    #[error(transparent)]
    Here(#[from] HereError),
    /// The build was cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Why this side could not keep up its part.
#[derive(Debug, thiserror::Error)]
pub enum HereError {
    /// A file of a context.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of a context that was written to meanwhile.
    #[error("`{}` changed while it was read", path.display())]
    Changed {
        /// Which.
        path: PathBuf,
    },
    /// What a result was to be written to.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The daemon sends what no honest one does.
    #[error("the builder sent {what}")]
    Hostile {
        /// What.
        what: String,
    },
    /// No runtime.
    #[error("cannot start what speaks to builders")]
    Runtime(#[source] io::Error),
}

/// Gives a secret by its id; `None` if it was not offered.
pub type GiveSecret = dyn Fn(&str) -> io::Result<Option<Vec<u8>>> + Send + Sync;
/// Gives user and password (or, with an empty user, an identity token) for a registry's host.
pub type GiveCredentials = dyn Fn(&str) -> Option<(String, String)> + Send + Sync;

/// What a daemon may ask for during a build.
pub struct Offer {
    /// Says which directories are those of an earlier build: what is there of them already is not sent again.
    pub shared_key: String,
    /// Directories, by the names of local sources.
    pub directories: BTreeMap<String, Arc<Directory>>,
    /// Secrets.
    pub secrets: Box<GiveSecret>,
    /// Sockets of ssh agents, by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Credentials of registries.
    pub credentials: Box<GiveCredentials>,
}

/// What a daemon says it can do (solver/pb/caps.go).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities(BTreeSet<String>);

impl Capabilities {
    /// Whether it has one, by BuildKit's name.
    pub fn has(&self, capability: &str) -> bool {
        self.0.contains(capability)
    }
}

impl<S: Into<String>> FromIterator<S> for Capabilities {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

/// A daemon that has answered.
pub struct Connection {
    channel: Channel,
    address: BuilderAddress,
    platforms: Vec<Platform>,
    cancel: CancelToken,
    guard: dial::Guard,
    pulse: Pulse,
    /// How long nothing may come of it.
    silence: Duration,
    /// Last, for the rest is used in it.
    runtime: Background,
}

/// Where a connection's tasks run. Nobody waits for them when it ends: one may be writing to a pipe that nobody reads any more, ask
/// a name server that does not answer, or wait for a helper that asks for a password.
struct Background(Option<Runtime>);

impl Background {
    fn start() -> Result<Self, EngineError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HereError::Runtime)?;
        Ok(Self(Some(runtime)))
    }

    fn block_on<T>(&self, task: impl Future<Output = T>) -> T {
        let runtime = self.0.as_ref().expect("it is there until it is dropped");
        runtime.block_on(task)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Connection {
    /// Connects, and asks what the daemon builds for.
    ///
    /// # Errors
    /// If it is not there, or is no BuildKit.
    pub fn open(address: &BuilderAddress, cancel: &CancelToken) -> Result<Self, EngineError> {
        Self::open_within(PATIENCE, address, cancel)
    }

    /// The same, but that the daemon must have answered within `patience`.
    ///
    /// # Errors
    /// If it is not there by then, or is no BuildKit.
    pub fn open_within(
        patience: Duration,
        address: &BuilderAddress,
        cancel: &CancelToken,
    ) -> Result<Self, EngineError> {
        Self::open_telling(patience, address, cancel, &|| {})
    }

    /// The same; `reached` is called when something there has taken the connection, which a machine that is gone does not.
    ///
    /// # Errors
    /// If it is not there by then, or is no BuildKit.
    pub fn open_telling(
        patience: Duration,
        address: &BuilderAddress,
        cancel: &CancelToken,
        reached: &(dyn Fn() + Sync),
    ) -> Result<Self, EngineError> {
        let runtime = Background::start()?;
        let pulse = Pulse::default();
        let opening = async {
            let (stream, guard) = dial::dial(address, dial::Purpose::Control(reached)).await?;
            let stream = stream.felt_by(&pulse);
            let unreached = |message: String| EngineError::Connect {
                address: address.to_string(),
                source: io::Error::other(message),
            };
            let channel = over(stream)
                .await
                .map_err(|error| unreached(guard.explain(&error)))?;
            let mut control = control(&channel);
            let workers = control.list_workers(ListWorkersRequest::default());
            let workers = workers.await.map_err(|status| match status.code() {
                tonic::Code::Unimplemented => EngineError::Foreign {
                    address: address.to_string(),
                    message: status.message().to_owned(),
                },
                _ => match build::failed(address, "list its workers", &status, &guard) {
                    EngineError::Lost { message, .. } => unreached(message),
                    error => error,
                },
            })?;
            let platforms = workers.into_inner().record.into_iter().take(1);
            let platforms = platforms.flat_map(|worker| worker.platforms);
            let platforms = platforms
                .map(|p| Platform::new(&p.os, &p.architecture, &p.variant))
                .collect();
            Ok((channel, guard, platforms))
        };
        let opened = runtime.block_on(cancellable(cancel, async {
            match tokio::time::timeout(patience, opening).await {
                Ok(opened) => opened,
                Err(_) => Err(EngineError::Connect {
                    address: address.to_string(),
                    source: io::ErrorKind::TimedOut.into(),
                }),
            }
        }));
        let (channel, guard, platforms) = opened?;
        Ok(Self {
            channel,
            address: address.clone(),
            platforms,
            cancel: cancel.clone(),
            guard,
            pulse,
            silence: BUILDER_SILENCE,
            runtime,
        })
    }

    /// The same, of which nothing may come for `silence` while it builds.
    #[must_use]
    pub fn bearing(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    /// What its default worker builds for, native platforms first.
    pub fn platforms(&self) -> &[Platform] {
        &self.platforms
    }

    /// Does what takes the daemon, until that is done, cancelled, or the daemon is not heard of any more.
    fn carry_through<T>(
        &self,
        work: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        self.runtime.block_on(cancellable(&self.cancel, async {
            tokio::select! {
                done = work => done,
                () = self.pulse.has_stopped(self.silence) => Err(EngineError::Silent {
                    address: self.address.to_string(),
                    seconds: self.silence.as_secs(),
                }),
            }
        }))
    }
}

/// A channel over a stream that is there already.
async fn over(stream: dial::Stream) -> Result<Channel, tonic::transport::Error> {
    let stream = Arc::new(Mutex::new(Some(stream)));
    // The name is in no request that a daemon looks at.
    let endpoint = Endpoint::from_static("http://buildkit")
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    let connector = tower::service_fn(move |_| {
        let stream = stream.lock().expect("nothing panics while it is locked");
        let stream = { stream }.take();
        // What a build has on the daemon is gone with the connection, so there is no second.
        std::future::ready(
            stream
                .map(TokioIo::new)
                .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)),
        )
    });
    endpoint.connect_with_connector(connector).await
}

fn control(channel: &Channel) -> ControlClient<Channel> {
    ControlClient::new(channel.clone()).max_decoding_message_size(LARGEST_MESSAGE)
}

/// Gives up what is being done when the token is cancelled.
async fn cancellable<T>(
    cancel: &CancelToken,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    let stop = Arc::new(tokio::sync::Notify::new());
    let notify = Arc::clone(&stop);
    // A permit is kept for whoever waits later.
    let _registered = cancel.on_cancel(move || notify.notify_one());
    tokio::select! {
        done = work => done,
        () = stop.notified() => Err(EngineError::Cancelled),
    }
}
