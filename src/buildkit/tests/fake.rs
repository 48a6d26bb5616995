//! A daemon that records what it is told, and does what a test wants.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::thread::JoinHandle;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1 as api;
use bollard_buildkit_proto::moby::buildkit::v1::apicaps::ApiCap;
use bollard_buildkit_proto::moby::buildkit::v1::control_server::Control;
use bollard_buildkit_proto::moby::buildkit::v1::control_server::ControlServer;
use bollard_buildkit_proto::moby::buildkit::v1::frontend as gateway;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridge;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridgeServer;
use bollard_buildkit_proto::moby::buildkit::v1::types::WorkerRecord;
use bollard_buildkit_proto::pb;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::tokio_stream::iter;
use tonic::codegen::tokio_stream::once;
use tonic::codegen::tokio_stream::pending;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::transport::Server;

use crate::buildkit::dial;
use crate::buildkit::over;
use crate::request::BuilderAddress;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
pub(crate) type Solved = Result<HashMap<String, String>, Status>;
pub(crate) type Deed = dyn Fn(api::SolveRequest, Channel) -> Pin<Box<dyn Future<Output = Solved> + Send>>
    + Send
    + Sync;

/// What was seen of clients.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The last build.
    pub(super) solve: Option<api::SolveRequest>,
    /// What each build exported, and with which options.
    pub(crate) exports: Vec<(String, HashMap<String, String>)>,
    pub(super) parts: Vec<gateway::SolveRequest>,
    pub(super) returned: Option<gateway::ReturnRequest>,
    pub(super) methods: Vec<String>,
    /// A build ended because the client did not wait for it.
    pub(super) abandoned: bool,
}

/// What a daemon does.
pub(crate) struct Script {
    pub(crate) capabilities: Vec<&'static str>,
    /// What it builds for, as `arch`.
    pub(crate) platforms: Vec<&'static str>,
    /// What it tells.
    pub(crate) status: Vec<api::StatusResponse>,
    /// What must be so before it answers anything.
    pub(crate) answers_when: Option<watch::Receiver<bool>>,
    /// What it does with the session when there is something to be solved, and how that ends.
    pub(crate) deed: Box<Deed>,
}

impl Script {
    pub(super) fn new<F, R>(deed: F) -> Self
    where
        F: Fn(Channel) -> R + Send + Sync + 'static,
        R: Future<Output = Solved> + Send + 'static,
    {
        Self::asked(move |_, channel| deed(channel))
    }

    /// One that knows what it is asked for.
    pub(crate) fn asked<F, R>(deed: F) -> Self
    where
        F: Fn(api::SolveRequest, Channel) -> R + Send + Sync + 'static,
        R: Future<Output = Solved> + Send + 'static,
    {
        Self {
            capabilities: Vec::new(),
            platforms: vec!["amd64"],
            status: Vec::new(),
            answers_when: None,
            deed: Box::new(move |request, channel| Box::pin(deed(request, channel))),
        }
    }
}

/// A daemon on a socket of its own.
pub(crate) struct Fake {
    dir: tempfile::TempDir,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    script: Script,
    seen: Mutex<Seen>,
    /// Told when a build was abandoned.
    abandoned: Condvar,
    /// By what introduced them.
    sessions: watch::Sender<HashMap<String, Channel>>,
    /// What builds have come to, by their ids.
    returned: watch::Sender<HashMap<String, gateway::ReturnRequest>>,
    die: Notify,
}

impl Fake {
    pub(crate) fn start(script: Script) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shared = Arc::new(Shared {
            script,
            seen: Mutex::default(),
            abandoned: Condvar::new(),
            sessions: watch::Sender::default(),
            returned: watch::Sender::default(),
            die: Notify::new(),
        });
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let service = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            // What it has started ends with the runtime, in the middle of whatever that is.
            runtime.block_on(serve(listener, service));
            runtime.shutdown_background();
        });
        Self {
            dir,
            shared,
            thread: Some(thread),
        }
    }

    pub(crate) fn address(&self) -> BuilderAddress {
        BuilderAddress::Unix(self.socket())
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// What a deed calls to be gone at once.
    pub(crate) fn dying(&self) -> impl Fn() + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.die.notify_one()
    }

    /// Whether a build is abandoned while the daemon serves, sooner or later.
    pub(super) fn is_abandoned(&self) -> bool {
        let seen = self.shared.seen.lock().unwrap();
        let wait = Duration::from_secs(60);
        let waited = { &self.shared.abandoned }.wait_timeout_while(seen, wait, |s| !s.abandoned);
        waited.unwrap().0.abandoned
    }

    /// What was seen, once the daemon is gone.
    pub(crate) fn stop(mut self) -> Seen {
        self.shared.die.notify_one();
        self.thread.take().unwrap().join().unwrap();
        self.shared.seen.lock().unwrap().clone()
    }
}

async fn serve(listener: std::os::unix::net::UnixListener, shared: Arc<Shared>) {
    let listener = UnixListener::from_std(listener).unwrap();
    let accepting = async {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = Daemon(Arc::clone(&shared));
            let server = Server::builder()
                .add_service(ControlServer::new(service.clone()))
                .add_service(LlbBridgeServer::new(service));
            let stream = dial::Stream::new(stream);
            let incoming = tonic::codegen::tokio_stream::StreamExt::chain(
                once(Ok::<_, std::io::Error>(stream)),
                pending(),
            );
            tokio::spawn(server.serve_with_incoming(incoming));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shared.die.notified() => {}
    }
}

#[derive(Clone)]
struct Daemon(Arc<Shared>);

impl Daemon {
    fn see(&self, what: impl FnOnce(&mut Seen)) {
        what(&mut self.0.seen.lock().unwrap());
    }
}

/// Notices that a call was given up.
struct Abandoned(Option<Daemon>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(daemon) = &self.0 {
            daemon.see(|seen| seen.abandoned = true);
            daemon.0.abandoned.notify_all();
        }
    }
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no test needs it"))
}

#[tonic::async_trait]
impl Control for Daemon {
    async fn list_workers(
        &self,
        _: Request<api::ListWorkersRequest>,
    ) -> Result<Response<api::ListWorkersResponse>, Status> {
        if let Some(mut when) = self.0.script.answers_when.clone()
            && when.wait_for(|so| *so).await.is_err()
        {
            std::future::pending::<()>().await;
        }
        let platforms = self.0.script.platforms.iter().map(|arch| pb::Platform {
            os: "linux".into(),
            architecture: (*arch).into(),
            ..pb::Platform::default()
        });
        Ok(Response::new(api::ListWorkersResponse {
            record: vec![WorkerRecord {
                platforms: platforms.collect(),
                ..WorkerRecord::default()
            }],
        }))
    }

    async fn solve(
        &self,
        request: Request<api::SolveRequest>,
    ) -> Result<Response<api::SolveResponse>, Status> {
        let request = request.into_inner();
        self.see(|seen| {
            seen.solve = Some(request.clone());
            let exports = request.exporters.iter();
            let exports = exports.map(|own| (own.r#type.clone(), own.attrs.clone()));
            seen.exports.extend(exports);
        });
        let mut abandoned = Abandoned(Some(self.clone()));
        let mut returned = self.0.returned.subscribe();
        let returned = returned.wait_for(|all| all.contains_key(&request.r#ref));
        let error = returned.await.unwrap()[&request.r#ref].error.clone();
        let solved = match error {
            Some(error) => Err(Status::new(error.code.into(), error.message)),
            None => {
                let mut sessions = self.0.sessions.subscribe();
                let open = sessions.wait_for(|all| all.contains_key(&request.session));
                let channel = open.await.unwrap()[&request.session].clone();
                (self.0.script.deed)(request, channel).await
            }
        };
        abandoned.0 = None;
        let exporter_response = solved?;
        Ok(Response::new(api::SolveResponse { exporter_response }))
    }

    type StatusStream = Answers<api::StatusResponse>;

    async fn status(
        &self,
        _: Request<api::StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let told: Vec<_> = self.0.script.status.iter().cloned().map(Ok).collect();
        Ok(Response::new(Box::pin(iter(told))))
    }

    type SessionStream = Answers<api::BytesMessage>;

    async fn session(
        &self,
        request: Request<Streaming<api::BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let methods = request
            .metadata()
            .get_all("x-docker-expose-session-grpc-method");
        let methods = methods
            .iter()
            .map(|method| method.to_str().unwrap().to_owned());
        let methods = methods.collect();
        self.see(|seen| seen.methods = methods);
        let id = request.metadata().get("x-docker-expose-session-uuid");
        let id = id.unwrap().to_str().unwrap().to_owned();
        let mut incoming = request.into_inner();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (mut read, mut write) = tokio::io::split(ours);
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                write.write_all(&message.data).await.unwrap();
            }
        });
        let (outgoing, stream) = mpsc::channel(8);
        tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 14];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                let data = buffer[..count].to_vec();
                if outgoing.send(Ok(api::BytesMessage { data })).await.is_err() {
                    return;
                }
            }
        });
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            let channel = over(dial::Stream::new(theirs)).await.unwrap();
            shared
                .sessions
                .send_modify(|all| drop(all.insert(id, channel)));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type PruneStream = Answers<api::UsageRecord>;
    type ListenBuildHistoryStream = Answers<api::BuildHistoryEvent>;

    async fn disk_usage(
        &self,
        _: Request<api::DiskUsageRequest>,
    ) -> Result<Response<api::DiskUsageResponse>, Status> {
        not_here()
    }

    async fn prune(
        &self,
        _: Request<api::PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        not_here()
    }

    async fn info(
        &self,
        _: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        not_here()
    }

    async fn listen_build_history(
        &self,
        _: Request<api::BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        not_here()
    }

    async fn update_build_history(
        &self,
        _: Request<api::UpdateBuildHistoryRequest>,
    ) -> Result<Response<api::UpdateBuildHistoryResponse>, Status> {
        not_here()
    }
}

/// Calls that no test needs.
macro_rules! refused {
    ($($method:ident($request:ident) -> $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl LlbBridge for Daemon {
            $(
                async fn $method(
                    &self,
                    _: Request<gateway::$request>,
                ) -> Result<Response<gateway::$response>, Status> {
                    not_here()
                }
            )*

            async fn ping(
                &self,
                request: Request<gateway::PingRequest>,
            ) -> Result<Response<gateway::PongResponse>, Status> {
                assert!(request.metadata().contains_key("buildkit-controlapi-buildid"));
                let caps = self.0.script.capabilities.iter().map(|id| ApiCap {
                    id: (*id).to_owned(),
                    enabled: true,
                    ..ApiCap::default()
                });
                Ok(Response::new(gateway::PongResponse {
                    llb_caps: caps.collect(),
                    ..gateway::PongResponse::default()
                }))
            }

            async fn solve(
                &self,
                request: Request<gateway::SolveRequest>,
            ) -> Result<Response<gateway::SolveResponse>, Status> {
                let mut id = String::new();
                self.see(|seen| {
                    seen.parts.push(request.into_inner());
                    id = format!("ref{}", seen.parts.len());
                });
                let reference = gateway::Ref { id, def: None };
                Ok(Response::new(gateway::SolveResponse {
                    result: Some(gateway::Result {
                        result: Some(gateway::result::Result::Ref(reference)),
                        ..gateway::Result::default()
                    }),
                    ..gateway::SolveResponse::default()
                }))
            }

            async fn r#return(
                &self,
                request: Request<gateway::ReturnRequest>,
            ) -> Result<Response<gateway::ReturnResponse>, Status> {
                let id = request.metadata().get("buildkit-controlapi-buildid");
                let id = id.unwrap().to_str().unwrap().to_owned();
                let given = request.into_inner();
                self.see(|seen| seen.returned = Some(given.clone()));
                self.0.returned.send_modify(|all| drop(all.insert(id, given)));
                Ok(Response::new(gateway::ReturnResponse {}))
            }

            type ExecProcessStream = Answers<gateway::ExecMessage>;

            async fn exec_process(
                &self,
                _: Request<Streaming<gateway::ExecMessage>>,
            ) -> Result<Response<Self::ExecProcessStream>, Status> {
                not_here()
            }
        }
    };
}

refused! {
    resolve_image_config(ResolveImageConfigRequest) -> ResolveImageConfigResponse,
    resolve_source_meta(ResolveSourceMetaRequest) -> ResolveSourceMetaResponse,
    read_file(ReadFileRequest) -> ReadFileResponse,
    read_dir(ReadDirRequest) -> ReadDirResponse,
    stat_file(StatFileRequest) -> StatFileResponse,
    evaluate(EvaluateRequest) -> EvaluateResponse,
    inputs(InputsRequest) -> InputsResponse,
    new_container(NewContainerRequest) -> NewContainerResponse,
    release_container(ReleaseContainerRequest) -> ReleaseContainerResponse,
    read_file_container(ReadFileRequest) -> ReadFileResponse,
    read_dir_container(ReadDirRequest) -> ReadDirResponse,
    stat_file_container(StatFileRequest) -> StatFileResponse,
    warn(WarnRequest) -> WarnResponse,
}
