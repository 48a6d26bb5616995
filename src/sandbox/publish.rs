//! Ports of this machine that lead to a container's.
//!
//! A thread takes connections on the host's side and makes each anew inside: a thread may be in another network namespace
//! than its process. The container sees them come from its own loopback address.

use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use rustix::thread::LinkNameSpaceType;

use super::SandboxError;

/// A port of this machine and the container's that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Where to listen; port 0 for any that is free.
    pub host: SocketAddr,
    /// The container's.
    pub container: u16,
}

/// Ports that are listened on.
#[derive(Debug, Default)]
pub struct Published(Vec<(TcpListener, u16)>);

impl Published {
    /// Listens on all of them.
    ///
    /// # Errors
    /// If one is taken, or may not be had.
    pub fn listen(ports: &[Port]) -> Result<Self, SandboxError> {
        let listen = |port: &Port| {
            let failed = |source| SandboxError::Port {
                address: port.host,
                source,
            };
            let listener = TcpListener::bind(port.host).map_err(failed)?;
            Ok((listener, port.container))
        };
        ports.iter().map(listen).collect::<Result<_, _>>().map(Self)
    }

    /// What is listened on, with the numbers of ports that were any that is free.
    pub fn ports(&self) -> Vec<Port> {
        let found = self.0.iter().filter_map(|(listener, container)| {
            Some(Port {
                host: listener.local_addr().ok()?,
                container: *container,
            })
        });
        found.collect()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands connections on from now on, into `netns` or the network of this process, until it ends.
    pub(super) fn serve(&self, netns: Option<OwnedFd>) -> io::Result<()> {
        for (listener, port) in &self.0 {
            // It would connect to itself, and that to itself.
            if netns.is_none() && listener.local_addr()?.port() == *port {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    format!(
                        "the container has this machine's network, where port {port} is taken for it: \
                         publish it as another, or leave it out"
                    ),
                ));
            }
        }
        let netns = Arc::new(netns);
        for (listener, port) in &self.0 {
            let (listener, port, netns) = (listener.try_clone()?, *port, Arc::clone(&netns));
            let accept = move || {
                for client in listener.incoming().flatten() {
                    let netns = Arc::clone(&netns);
                    // A connection that cannot be served is closed.
                    let serve = move || hand_on(client, port, netns.as_ref().as_ref());
                    drop(named("connection").spawn(serve));
                }
            };
            drop(named("port").spawn(accept)?);
        }
        Ok(())
    }
}

fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned())
}

fn hand_on(client: TcpStream, port: u16, netns: Option<&OwnedFd>) -> io::Result<()> {
    if let Some(netns) = netns {
        let kind = Some(LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(netns.as_fd(), kind)?;
    }
    let inside = TcpStream::connect((IpAddr::V4(Ipv4Addr::LOCALHOST), port))?;
    let (mut from, mut to) = (client.try_clone()?, inside.try_clone()?);
    let there = named("connection").spawn(move || pass(&mut from, &mut to))?;
    let (mut from, mut to) = (inside, client);
    pass(&mut from, &mut to);
    drop(there.join());
    Ok(())
}

/// Passes on all that comes, then the end. An error is an end as well.
fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    drop(io::copy(from, to));
    // It fails if the other side is gone.
    drop(to.shutdown(Shutdown::Write));
}
