//! Name lookups that go past the tunnel.

use std::{future::Future, io, net::SocketAddr, pin::Pin, time::Duration};

use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider, iocompat::AsyncIoTokioAsStd};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use crate::host;

const CONNECT_TIME: Duration = Duration::from_secs(5);

type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

/// hickory on tokio with marked sockets ([`host::mark`]).
#[derive(Clone, Default)]
pub(super) struct PastTunnel(TokioRuntimeProvider);

impl RuntimeProvider for PastTunnel {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(&self, to: SocketAddr, from: Option<SocketAddr>, limit: Option<Duration>) -> Opening<Self::Tcp> {
        Box::pin(async move {
            let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            host::mark(&socket);
            if let Some(from) = from {
                socket.bind(from)?;
            }
            socket.set_nodelay(true)?;
            let connected = tokio::time::timeout(limit.unwrap_or(CONNECT_TIME), socket.connect(to)).await;
            Ok(AsyncIoTokioAsStd(connected.map_err(|_| io::ErrorKind::TimedOut)??))
        })
    }

    fn bind_udp(&self, at: SocketAddr, _to: SocketAddr) -> Opening<Self::Udp> {
        Box::pin(async move { UdpSocket::bind(at).await.inspect(host::mark) })
    }
}
