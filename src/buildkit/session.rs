//! A session: the services that a daemon calls while it builds. The client opens the stream, and is the server on it
//! (BuildKit, session/session.go).

pub(super) mod files;
pub(super) mod receive;

use std::hash::BuildHasher as _;
use std::hash::RandomState;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;

use bollard_buildkit_proto::health;
use bollard_buildkit_proto::moby::buildkit::secrets::v1 as secrets;
use bollard_buildkit_proto::moby::buildkit::v1::BytesMessage;
use bollard_buildkit_proto::moby::filesync::packet;
use bollard_buildkit_proto::moby::filesync::v1 as filesync;
use bollard_buildkit_proto::moby::sshforward::v1 as sshforward;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;
use tonic::codegen::tokio_stream::Stream;
use tonic::codegen::tokio_stream::StreamExt as _;
use tonic::codegen::tokio_stream::once;
use tonic::codegen::tokio_stream::pending;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::transport::Server;

use super::EngineError;
use super::HereError;
use super::LARGEST_MESSAGE;
use super::Offer;
use super::control;
use super::dial;
use super::pulse::Pulse;
use crate::request::BuilderAddress;

/// What introduces a session: gRPC metadata, and headers of the Docker API.
const ID: &str = "x-docker-expose-session-uuid";
const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
const METHOD: &str = "x-docker-expose-session-grpc-method";
/// The metadata in which a daemon says which agent it wants.
const SSH_ID: &str = "buildkit.ssh.id";
/// An agent that nobody named.
const SSH_DEFAULT: &str = "default";
/// What is read from an agent, or written to the stream of a session, at once.
const CHUNK: usize = 32 << 10;
/// Bytes on their way between a session's server and its stream.
const PIPE: usize = 1 << 20;
/// Messages on their way; more make who sends them wait.
const QUEUE: usize = 64;
/// How much of a call may be on its way, and how much of all of them: an archive whose reader takes its time fills its own window,
/// and the daemon, which asks meanwhile whether we are there, must have room for that.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The first thing that went wrong here while a daemon was served: it hears of it as well, in fewer words.
#[derive(Clone, Default)]
pub(super) struct Trouble(Arc<Mutex<Option<HereError>>>);

impl Trouble {
    /// Remembers an error; gives what the daemon is told.
    pub(super) fn note(&self, error: HereError) -> Status {
        let status = Status::aborted(dial::chain(&error));
        self.locked().get_or_insert(error);
        status
    }

    pub(super) fn take(&self) -> Option<HereError> {
        self.locked().take()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Option<HereError>> {
        self.0.lock().expect("nothing panics while it is locked")
    }
}

/// A session that is open until this is dropped.
pub(super) struct Session {
    pub(super) id: String,
    pub(super) trouble: Trouble,
    /// What has come of the result.
    pub(super) arrival: Arc<receive::Arrival>,
    /// What serves it; dropping it ends them.
    _tasks: JoinSet<()>,
    _guard: dial::Guard,
}

impl Session {
    /// Opens a session, in which the daemon may ask for what is offered, and send a result to `sink`.
    pub(super) async fn open(
        address: &BuilderAddress,
        channel: &Channel,
        pulse: &Pulse,
        offer: &Arc<Offer>,
        sink: receive::Sink,
    ) -> Result<Self, EngineError> {
        let id = random_id();
        let mut headers = vec![(ID, id.clone()), (SHARED_KEY, offer.shared_key.clone())];
        headers.extend(methods(&sink).map(|method| (METHOD, method)));
        let mut tasks = JoinSet::new();
        let (stream, guard) = match address {
            // Its API has a door of its own for sessions.
            BuilderAddress::Docker(_) => {
                let dialed = dial::dial(address, dial::Purpose::Session(&headers)).await;
                let (stream, guard) = dialed?;
                (stream.felt_by(pulse), guard)
            }
            _ => {
                let stream = over_call(channel, &headers, &mut tasks).await;
                let stream = stream.map_err(|status| EngineError::Refused {
                    address: address.to_string(),
                    doing: "open a session",
                    message: status.message().to_owned(),
                })?;
                (stream, dial::Guard::default())
            }
        };
        let trouble = Trouble::default();
        let offered = Offered {
            offer: Arc::clone(offer),
            trouble: trouble.clone(),
        };
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .add_service(health::health_server::HealthServer::new(Alive))
            .add_service(filesync::file_sync_server::FileSyncServer::new(
                offered.clone(),
            ))
            .add_service(filesync::auth_server::AuthServer::new(offered.clone()))
            .add_service(secrets::secrets_server::SecretsServer::new(offered.clone()))
            .add_service(sshforward::ssh_server::SshServer::new(offered));
        let received = receive::Receiver::new(sink, trouble.clone());
        let arrival = received.arrival();
        // One method, and two kinds of messages: which it is the daemon does not say.
        let server = match received.takes_packets() {
            true => server.add_service(
                packet::file_send_server::FileSendServer::new(received)
                    .max_decoding_message_size(LARGEST_MESSAGE),
            ),
            false => server.add_service(
                filesync::file_send_server::FileSendServer::new(received)
                    .max_decoding_message_size(LARGEST_MESSAGE),
            ),
        };
        // Without more to come the server would be done at once.
        let incoming = once(Ok::<_, std::io::Error>(stream)).chain(pending());
        tasks.spawn(async move {
            // A stream that breaks is the daemon's end, of which the build hears.
            drop(server.serve_with_incoming(incoming).await);
        });
        Ok(Self {
            id,
            trouble,
            arrival,
            _tasks: tasks,
            _guard: guard,
        })
    }
}

/// As good as no second one: the standard library seeds its hashers with the kernel's random bytes.
pub fn random_id() -> String {
    let half = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", half(), half())
}

/// What the daemon may call; it calls nothing else.
fn methods(sink: &receive::Sink) -> impl Iterator<Item = String> {
    let send =
        (!matches!(sink, receive::Sink::Nothing)).then_some("/moby.filesync.v1.FileSend/diffcopy");
    [
        "/grpc.health.v1.Health/Check",
        "/moby.filesync.v1.FileSync/diffcopy",
        "/moby.filesync.v1.Auth/Credentials",
        "/moby.buildkit.secrets.v1.Secrets/GetSecret",
        "/moby.sshforward.v1.SSH/CheckAgent",
        "/moby.sshforward.v1.SSH/ForwardAgent",
    ]
    .into_iter()
    .chain(send)
    .map(str::to_owned)
}

/// A stream inside a call: `Control.Session` carries bytes both ways.
async fn over_call(
    channel: &Channel,
    headers: &[(&'static str, String)],
    tasks: &mut JoinSet<()>,
) -> Result<dial::Stream, Status> {
    let (outgoing, queue) = mpsc::channel::<BytesMessage>(QUEUE);
    let mut request = Request::new(ReceiverStream::new(queue));
    for (name, value) in headers {
        let value = value
            .parse()
            .map_err(|_| Status::internal("a header of the session is not ASCII"))?;
        request.metadata_mut().append(*name, value);
    }
    let mut incoming = control(channel).session(request).await?.into_inner();
    let (ours, theirs) = tokio::io::duplex(PIPE);
    let (mut read, mut write) = tokio::io::split(ours);
    tasks.spawn(async move {
        while let Ok(Some(message)) = incoming.message().await {
            if write.write_all(&message.data).await.is_err() {
                return;
            }
        }
    });
    tasks.spawn(async move {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            let data = buffer[..count].to_vec();
            if outgoing.send(BytesMessage { data }).await.is_err() {
                return;
            }
        }
    });
    Ok(dial::Stream::new(theirs))
}

/// Says that we are there: a daemon asks every few seconds.
struct Alive;

#[tonic::async_trait]
impl health::health_server::Health for Alive {
    async fn check(
        &self,
        _: Request<health::HealthCheckRequest>,
    ) -> Result<Response<health::HealthCheckResponse>, Status> {
        Ok(Response::new(health::HealthCheckResponse {
            status: health::health_check_response::ServingStatus::Serving.into(),
        }))
    }

    async fn list(
        &self,
        _: Request<health::HealthListRequest>,
    ) -> Result<Response<health::HealthListResponse>, Status> {
        Err(Status::unimplemented("list"))
    }

    type WatchStream = Answers<health::HealthCheckResponse>;

    async fn watch(
        &self,
        _: Request<health::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("watch"))
    }
}

/// What is offered, to a daemon.
#[derive(Clone)]
struct Offered {
    offer: Arc<Offer>,
    trouble: Trouble,
}

#[tonic::async_trait]
impl filesync::file_sync_server::FileSync for Offered {
    type DiffCopyStream = Answers<files::Packet>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<files::Packet>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let name = text(request.metadata(), files::DIRECTORY_NAME)?;
        let directory = self.offer.directories.get(&name);
        let directory = directory
            .ok_or_else(|| Status::not_found(format!("no access allowed to dir \"{name}\"")))?;
        let packets = files::send(directory, request.into_inner(), self.trouble.clone());
        Ok(Response::new(Box::pin(packets)))
    }

    type TarStreamStream = Answers<files::Packet>;

    async fn tar_stream(
        &self,
        _: Request<Streaming<files::Packet>>,
    ) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("tarstream"))
    }
}

/// Credentials are given as they are, and the daemon gets its tokens itself: who may ask for a registry's name may use
/// what it has for it either way.
#[tonic::async_trait]
impl filesync::auth_server::Auth for Offered {
    async fn credentials(
        &self,
        request: Request<filesync::CredentialsRequest>,
    ) -> Result<Response<filesync::CredentialsResponse>, Status> {
        let offer = Arc::clone(&self.offer);
        let host = request.into_inner().host;
        // A credential helper is a program that may ask somebody.
        let found = tokio::task::spawn_blocking(move || (offer.credentials)(&host));
        let found = found
            .await
            .map_err(|error| Status::internal(error.to_string()))?;
        let (username, secret) = found.unwrap_or_default();
        Ok(Response::new(filesync::CredentialsResponse {
            username,
            secret,
        }))
    }

    async fn fetch_token(
        &self,
        _: Request<filesync::FetchTokenRequest>,
    ) -> Result<Response<filesync::FetchTokenResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by the builder"))
    }

    async fn get_token_authority(
        &self,
        _: Request<filesync::GetTokenAuthorityRequest>,
    ) -> Result<Response<filesync::GetTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by the builder"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<filesync::VerifyTokenAuthorityRequest>,
    ) -> Result<Response<filesync::VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unimplemented("tokens are fetched by the builder"))
    }
}

#[tonic::async_trait]
impl secrets::secrets_server::Secrets for Offered {
    async fn get_secret(
        &self,
        request: Request<secrets::GetSecretRequest>,
    ) -> Result<Response<secrets::GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        match (self.offer.secrets)(&id) {
            Ok(Some(data)) => Ok(Response::new(secrets::GetSecretResponse { data })),
            Ok(None) => Err(Status::not_found(format!("secret {id} not found"))),
            Err(source) => Err(self.trouble.note(HereError::Read {
                path: PathBuf::from(format!("secret {id}")),
                source,
            })),
        }
    }
}

impl Offered {
    fn agent(&self, id: &str) -> Result<&PathBuf, Status> {
        let id = match id {
            "" => SSH_DEFAULT,
            id => id,
        };
        let agent = self.offer.ssh.get(id);
        agent.ok_or_else(|| Status::not_found(format!("unset ssh forward key {id}")))
    }
}

#[tonic::async_trait]
impl sshforward::ssh_server::Ssh for Offered {
    async fn check_agent(
        &self,
        request: Request<sshforward::CheckAgentRequest>,
    ) -> Result<Response<sshforward::CheckAgentResponse>, Status> {
        self.agent(&request.into_inner().id)?;
        Ok(Response::new(sshforward::CheckAgentResponse {}))
    }

    type ForwardAgentStream = Answers<sshforward::BytesMessage>;

    async fn forward_agent(
        &self,
        request: Request<Streaming<sshforward::BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = text(request.metadata(), SSH_ID).unwrap_or_default();
        let path = self.agent(&id)?;
        let agent = UnixStream::connect(path).await.map_err(|source| {
            let path = path.clone();
            self.trouble.note(HereError::Read { path, source })
        })?;
        Ok(Response::new(Box::pin(agent::forward(
            agent,
            request.into_inner(),
        ))))
    }
}

mod agent {
    //! An ssh agent for steps on a daemon, which may ask of it what steps here may.

    use super::*;
    use crate::agent::LONGEST;
    use crate::agent::refusal;

    /// Hands requests on, one after the other, and gives the answers.
    pub(super) fn forward(
        mut agent: UnixStream,
        mut asked: Streaming<sshforward::BytesMessage>,
    ) -> impl Stream<Item = Result<sshforward::BytesMessage, Status>> {
        let (answers, stream) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let mut buffer = Vec::new();
            while let Ok(Some(message)) = asked.message().await {
                buffer.extend_from_slice(&message.data);
                while let Some(request) = take_message(&mut buffer) {
                    let answer = match refusal(&request) {
                        None => ask(&mut agent, &request).await,
                        Some(refusal) => Ok(refusal),
                    };
                    let Ok(data) = answer else { return };
                    let sent = answers.send(Ok(sshforward::BytesMessage { data })).await;
                    if sent.is_err() {
                        return;
                    }
                }
                if buffer.len() > LONGEST {
                    return;
                }
            }
        });
        ReceiverStream::new(stream)
    }

    async fn ask(agent: &mut UnixStream, request: &[u8]) -> std::io::Result<Vec<u8>> {
        agent.write_all(request).await?;
        let length = agent.read_u32().await?;
        if length as usize > LONGEST {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut answer = length.to_be_bytes().to_vec();
        answer.resize(4 + length as usize, 0);
        agent.read_exact(&mut answer[4..]).await?;
        Ok(answer)
    }

    /// The first whole message, its length before it.
    fn take_message(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
        let length = u32::from_be_bytes(*buffer.first_chunk()?) as usize;
        let rest = buffer.get(4 + length..)?.to_vec();
        let mut message = std::mem::replace(buffer, rest);
        message.truncate(4 + length);
        Some(message)
    }

    #[cfg(test)]
    mod t {
        use super::*;

        #[test]
        fn messages_are_taken_whole() {
            let mut buffer = vec![0, 0, 0, 2, 11, 1, 0, 0];
            assert_eq!(take_message(&mut buffer), Some(vec![0, 0, 0, 2, 11, 1]));
            assert_eq!(take_message(&mut buffer), None);
            buffer.extend([0, 0]);
            assert_eq!(take_message(&mut buffer), Some(vec![0; 4]));
            assert!(buffer.is_empty());
        }
    }
}

/// A value of a call's metadata, which a daemon escapes where it is not ASCII (BuildKit, `encodeStringForHeader`).
fn text(metadata: &MetadataMap, key: &str) -> Result<String, Status> {
    let value = metadata.get(key).and_then(|value| value.to_str().ok());
    let value = value.ok_or_else(|| Status::invalid_argument(format!("`{key}` is missing")))?;
    let escaped = metadata
        .get(format!("{key}-encoded"))
        .is_some_and(|value| value == "1");
    match escaped {
        true => Ok(unescape(value)),
        false => Ok(value.to_owned()),
    }
}

/// Go's `url.QueryUnescape`.
fn unescape(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || (bytes.next()? as char).to_digit(16);
                let (high, low) = (digit().unwrap_or(0), digit().unwrap_or(0));
                (high << 4 | low) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn names_are_unescaped() {
        // From Go's url.QueryEscape("größe 1+1%").
        assert_eq!(unescape("gr%C3%B6%C3%9Fe+1%2B1%25"), "größe 1+1%");
    }

    #[test]
    fn ids_differ() {
        assert_ne!(random_id(), random_id());
        assert_eq!(random_id().len(), 32);
    }
}
