//! The daemon's side: reads requests, hands them to the control loop, writes the answers.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use super::{MAX_LINE, Request, Response};

/// A request with the place for its answer.
pub type Call = (Request, oneshot::Sender<Response>);

/// Requests that may wait for the control loop.
const BACKLOG: usize = 32;
/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(20);

/// Listens on a Unix socket with mode 0600; requests come out of the receiver. A socket left by a daemon that is no
/// longer there is replaced; one that answers is an error.
pub fn serve(path: &Path) -> io::Result<mpsc::Receiver<Call>> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let message = format!("another daemon is running: it answers at {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let (calls, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(converse(stream, calls.clone()))),
                // Out of descriptors, as a rule: the next one may have better luck.
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    });
    Ok(receiver)
}

async fn converse(stream: UnixStream, calls: mpsc::Sender<Call>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read.take(MAX_LINE));
    let mut line = String::new();
    while lines.read_line(&mut line).await.is_ok_and(|n| n > 0) {
        let response = match serde_json::from_str::<Request>(&line) {
            Ok(request) => {
                let (answer, answered) = oneshot::channel();
                if calls.send((request, answer)).await.is_err() {
                    return;
                }
                answered.await.unwrap_or_else(|_| Response::Error { message: "the daemon is stopping".to_owned() })
            }
            Err(e) => Response::Error { message: format!("not a request: {e}") },
        };
        let Ok(mut bytes) = serde_json::to_vec(&response) else { return };
        bytes.push(b'\n');
        if write.write_all(&bytes).await.is_err() {
            return;
        }
        line.clear();
    }
}
