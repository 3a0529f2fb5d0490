//! The CLI's side.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use super::{MAX_LINE, Request, Response};

/// Why the daemon couldn't be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers at {0} ({1}): is it running? (`systemctl status aegisray`, or `aegisray up`)")]
    NoDaemon(String, #[source] io::Error),
    #[error("{0}: permission denied: run this as root, or as the daemon's user")]
    Denied(String),
    #[error("the daemon's answer was cut off: {0}")]
    Broken(String),
    #[error("{0}")]
    Refused(String),
}

/// Asks the daemon behind `socket` one thing.
pub fn request(socket: &Path, request: &Request) -> Result<Response, ClientError> {
    let answer = exchange(socket, request)?;
    match serde_json::from_str(&answer).map_err(|e| ClientError::Broken(e.to_string()))? {
        Response::Error { message } => Err(ClientError::Refused(message)),
        response => Ok(response),
    }
}

/// Asks a daemon of whatever build, whose answers may have other fields than this one's.
pub fn request_any(socket: &Path, request: &Request) -> Result<serde_json::Value, ClientError> {
    let answer = exchange(socket, request)?;
    serde_json::from_str(&answer).map_err(|e| ClientError::Broken(e.to_string()))
}

/// Sends a request; returns the line that comes back.
fn exchange(socket: &Path, request: &Request) -> Result<String, ClientError> {
    let name = socket.display().to_string();
    let mut stream = UnixStream::connect(socket).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Denied(name.clone()),
        _ => ClientError::NoDaemon(name.clone(), e),
    })?;
    let broken = |e: &dyn std::fmt::Display| ClientError::Broken(e.to_string());
    stream.set_read_timeout(Some(Duration::from_secs(15))).map_err(|e| broken(&e))?;
    let mut line = serde_json::to_vec(request).map_err(|e| broken(&e))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(|e| broken(&e))?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer).map_err(|e| broken(&e))?;
    Ok(answer)
}
