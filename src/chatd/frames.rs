//! WebSocket frames (RFC 6455 §5) over a stream. Nothing is kept between them: a relay has thousands of links that mostly say nothing, and
//! reads what one of them says once there is room for it.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};
use tungstenite::protocol::frame::{
    Frame, FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::outbox::{Load, Outgoing};

/// Bytes of a message.
pub const MAX_MESSAGE: usize = 1 << 20;
/// KiB of messages that may wait for the hub or be on their way, of all links together.
pub const ROOM: usize = 16 << 10;
/// A link that says nothing for so long is dead.
pub const SILENCE: Duration = Duration::from_secs(10);
/// How long a message may be on its way when there is little room left.
const HURRY: Duration = Duration::from_secs(2);
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes of a control frame (RFC 6455 §5.5).
const MAX_CONTROL: usize = 125;

/// What comes.
#[derive(Debug)]
pub enum Incoming {
    /// A message, and the room that it takes.
    Message(Vec<u8>, OwnedSemaphorePermit),
    /// To be answered with the same.
    Ping(Vec<u8>),
    Pong,
    Close,
}

/// Reads frames.
pub struct Reader<S> {
    stream: ReadHalf<S>,
    /// The other end has dialed, and masks what it sends.
    masked: bool,
    room: Arc<Semaphore>,
    /// A message that comes in several frames.
    begun: Option<(Vec<u8>, OwnedSemaphorePermit)>,
}

fn odd(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

async fn make_room(room: &Arc<Semaphore>, bytes: usize) -> io::Result<OwnedSemaphorePermit> {
    let size = u32::try_from(bytes.min(MAX_MESSAGE) / 1024 + 1).unwrap_or(u32::MAX);
    Arc::clone(room).acquire_many_owned(size).await.map_err(io::Error::other)
}

impl<S: AsyncRead> Reader<S> {
    pub fn new(stream: ReadHalf<S>, masked: bool, room: Arc<Semaphore>) -> Self {
        Self { stream, masked, room, begun: None }
    }

    /// What comes next.
    ///
    /// # Errors
    /// The connection has ended, nothing came for [`SILENCE`], or what came is no WebSocket.
    pub async fn next(&mut self) -> io::Result<Incoming> {
        loop {
            let (header, len) = self.header().await?;
            let data = match header.opcode {
                OpCode::Control(control) => {
                    if len > MAX_CONTROL || !header.is_final {
                        return Err(odd("expected a control frame of at most 125 bytes"));
                    }
                    let mut bytes = Vec::with_capacity(len);
                    self.payload(&mut bytes, len, header.mask).await?;
                    return Ok(match control {
                        Control::Close => Incoming::Close,
                        Control::Ping => Incoming::Ping(bytes),
                        _ => Incoming::Pong,
                    });
                }
                OpCode::Data(data) => data,
            };
            let (mut bytes, place) = match (data, self.begun.take()) {
                (Data::Continue, Some(begun)) => begun,
                (Data::Continue, None) | (_, Some(_)) => return Err(odd("expected a message to begin and to go on")),
                // How long it will be in the end is not known yet.
                (_, None) => {
                    (Vec::new(), make_room(&self.room, if header.is_final { len } else { MAX_MESSAGE }).await?)
                }
            };
            if bytes.len() + len > MAX_MESSAGE {
                return Err(odd("expected a message of at most 1 MiB"));
            }
            self.payload(&mut bytes, len, header.mask).await?;
            if header.is_final {
                return Ok(Incoming::Message(bytes, place));
            }
            self.begun = Some((bytes, place));
        }
    }

    async fn header(&mut self) -> io::Result<(FrameHeader, usize)> {
        let mut head = [0; 14];
        time::timeout(SILENCE, self.stream.read_exact(&mut head[..2])).await??;
        let length = match head[1] & 127 {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let end = 2 + length + if head[1] & 128 == 0 { 0 } else { 4 };
        time::timeout(SILENCE, self.stream.read_exact(&mut head[2..end])).await??;
        let parsed = FrameHeader::parse(&mut io::Cursor::new(&head[..end])).map_err(io::Error::other)?;
        let (header, len) = parsed.ok_or_else(|| odd("expected the head of a frame"))?;
        if header.rsv1 || header.rsv2 || header.rsv3 || header.mask.is_some() != self.masked {
            return Err(odd("expected no extension, and a mask from who dialed alone"));
        }
        let len = usize::try_from(len).ok().filter(|len| *len <= MAX_MESSAGE);
        Ok((header, len.ok_or_else(|| odd("expected a message of at most 1 MiB"))?))
    }

    /// Reads so many bytes more. Who sends them slowly must not take the room of all others.
    async fn payload(&mut self, bytes: &mut Vec<u8>, len: usize, mask: Option<[u8; 4]>) -> io::Result<()> {
        let from = bytes.len();
        bytes.reserve_exact(len);
        let mut haste = Haste::new();
        let mut stream = (&mut self.stream).take(len as u64);
        while bytes.len() < from + len {
            if let Ok(read) = time::timeout(HURRY, stream.read_buf(bytes)).await {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                haste.moved();
            }
            if bytes.len() < from + len {
                haste.check(self.room.available_permits() < ROOM / 4)?;
            }
        }
        if let Some(mask) = mask {
            bytes[from..].iter_mut().enumerate().for_each(|(i, byte)| *byte ^= mask[i % 4]);
        }
        Ok(())
    }
}

/// How long a frame takes: it may take its time while it moves, unless others wait for its room.
struct Haste {
    start: Instant,
    last: Instant,
}

impl Haste {
    fn new() -> Self {
        Self { start: Instant::now(), last: Instant::now() }
    }

    fn moved(&mut self) {
        self.last = Instant::now();
    }

    fn check(&self, is_short: bool) -> io::Result<()> {
        let is_slow = is_short && self.start.elapsed() > HURRY;
        if is_slow || self.last.elapsed() > SILENCE { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

/// Writes frames.
pub struct Writer<S> {
    stream: WriteHalf<S>,
    /// This side has dialed, and masks what it sends (RFC 6455 §5.3).
    masks: bool,
    load: Load,
    /// A frame may have been cut off.
    torn: bool,
}

impl<S: AsyncWrite> Writer<S> {
    pub fn new(stream: WriteHalf<S>, masks: bool, load: Load) -> Self {
        Self { stream, masks, load, torn: false }
    }

    /// Sends a message, which counts as waiting until then.
    pub async fn message(&mut self, mut message: Outgoing) -> io::Result<()> {
        let bytes = std::mem::take(&mut message.bytes);
        self.send(Frame::message(bytes, OpCode::Data(Data::Binary), true)).await
    }

    pub async fn ping(&mut self) -> io::Result<()> {
        self.send(Frame::ping(Vec::new())).await
    }

    pub async fn pong(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.send(Frame::pong(bytes)).await
    }

    async fn send(&mut self, mut frame: Frame) -> io::Result<()> {
        if self.masks {
            let mut mask = [0; 4];
            aws_lc_rs::rand::fill(&mut mask).map_err(io::Error::other)?;
            frame.header_mut().mask = Some(mask);
        }
        let mut bytes = Vec::with_capacity(frame.len());
        frame.format(&mut bytes).map_err(io::Error::other)?;
        self.torn = true;
        let mut left = &bytes[..];
        let mut haste = Haste::new();
        while !left.is_empty() {
            if let Ok(written) = time::timeout(HURRY, self.stream.write(left)).await {
                left = left.get(written?..).unwrap_or_default();
                haste.moved();
            }
            if !left.is_empty() {
                haste.check(self.load.is_short())?;
            }
        }
        self.stream.flush().await?;
        self.torn = false;
        Ok(())
    }

    /// Says goodbye, if there is still a way to.
    pub async fn close(mut self) {
        let goodbye = async {
            if !self.torn {
                self.send(Frame::close(None)).await?;
            }
            self.stream.shutdown().await
        };
        // Who is gone hears nothing.
        let _ = time::timeout(FAREWELL, goodbye).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex, split};

    use super::*;
    use crate::crypto::Rng;

    /// What a client sends, byte by byte as the tests want it, and what a server reads of it.
    fn server(room: usize) -> (DuplexStream, Reader<DuplexStream>) {
        let (here, there) = duplex(64 << 10);
        (here, Reader::new(split(there).0, true, Arc::new(Semaphore::new(room))))
    }

    fn frame(opcode: OpCode, is_final: bool, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        let header = FrameHeader { is_final, opcode, mask, ..FrameHeader::default() };
        let mut out = Vec::new();
        Frame::from_payload(header, payload.to_vec().into()).format(&mut out).unwrap();
        out
    }

    const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);
    const BINARY: OpCode = OpCode::Data(Data::Binary);
    const MORE: OpCode = OpCode::Data(Data::Continue);
    const PING: OpCode = OpCode::Control(Control::Ping);

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(test);
    }

    #[test]
    fn what_one_end_writes_the_other_reads() {
        run(async {
            for masks in [true, false] {
                let (here, there) = duplex(1000);
                let mut writer = Writer::new(split(here).1, masks, Load::default());
                let mut reader = Reader::new(split(there).0, masks, Arc::new(Semaphore::new(ROOM)));
                let mut rng = Rng::from_seed([3; 32]);
                let all: Vec<Vec<u8>> =
                    [0, 1, 125, 126, 65_535, 65_536, MAX_MESSAGE].map(|n| vec![rng.bytes::<1>()[0]; n]).into();
                let sent = all.clone();
                let writing = async move {
                    for bytes in sent {
                        writer.message(Load::default().hold(bytes)).await.unwrap();
                        writer.ping().await.unwrap();
                    }
                    writer.pong(b"x".to_vec()).await.unwrap();
                    writer.close().await;
                };
                let reading = async {
                    for expected in all {
                        let Incoming::Message(bytes, _) = reader.next().await.unwrap() else { panic!() };
                        assert!(bytes == expected, "{}", expected.len());
                        assert!(matches!(reader.next().await.unwrap(), Incoming::Ping(bytes) if bytes.is_empty()));
                    }
                    assert!(matches!(reader.next().await.unwrap(), Incoming::Pong));
                    assert!(matches!(reader.next().await.unwrap(), Incoming::Close));
                    assert!(reader.next().await.is_err());
                };
                tokio::join!(writing, reading);
            }
        });
    }

    #[test]
    fn a_message_may_come_in_frames_with_others_between() {
        run(async {
            let (mut client, mut reader) = server(ROOM);
            let parts = [
                frame(BINARY, false, b"one ", MASK),
                frame(PING, true, b"there?", MASK),
                frame(MORE, false, b"", MASK),
            ];
            for byte in parts.concat().into_iter().chain(frame(MORE, true, b"message", MASK)) {
                client.write_all(&[byte]).await.unwrap();
            }
            assert!(matches!(reader.next().await.unwrap(), Incoming::Ping(bytes) if bytes == b"there?"));
            assert!(matches!(reader.next().await.unwrap(), Incoming::Message(bytes, _) if bytes == b"one message"));
        });
    }

    #[test]
    fn what_is_no_websocket_ends_it() {
        let long = |n: u64| [vec![0x82, 0xff], n.to_be_bytes().to_vec(), vec![0; 4]].concat();
        let two = |a: Vec<u8>, b: Vec<u8>| [a, b].concat();
        let cases = [
            frame(BINARY, true, b"x", None),
            frame(MORE, true, b"x", MASK),
            two(frame(BINARY, false, b"x", MASK), frame(BINARY, true, b"y", MASK)),
            two(frame(BINARY, false, b"x", MASK), long(MAX_MESSAGE as u64)),
            frame(PING, true, &[0; 126], MASK),
            frame(PING, false, b"", MASK),
            long(MAX_MESSAGE as u64 + 1),
            long(u64::MAX),
            vec![0xc2, 0x80, 0, 0, 0, 0],
            vec![0x83, 0x80, 0, 0, 0, 0],
            frame(BINARY, true, b"cut", MASK)[..7].to_vec(),
        ];
        run(async {
            for (n, case) in cases.into_iter().enumerate() {
                let (mut client, mut reader) = server(ROOM);
                client.write_all(&case).await.unwrap();
                drop(client);
                assert!(reader.next().await.is_err(), "case {n}");
            }
        });
    }

    proptest::proptest! {
        /// Whatever comes is read, or ends it; and never takes more memory than a message may have.
        #[test]
        fn bytes_of_any_kind(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), op in 0..16_u8, len in 0..128_u8) {
            run(async {
                for head in [Vec::new(), vec![0x80 | op, 0x80 | len], vec![op, 0x80 | len]] {
                    let (mut client, mut reader) = server(ROOM);
                    client.write_all(&[&head[..], &bytes].concat()).await.unwrap();
                    drop(client);
                    while let Ok(incoming) = reader.next().await {
                        if let Incoming::Message(bytes, _) = incoming {
                            assert!(bytes.len() <= MAX_MESSAGE);
                        }
                    }
                    assert!(reader.begun.is_none_or(|(bytes, _)| bytes.capacity() <= MAX_MESSAGE));
                }
            });
        }
    }

    #[test]
    fn who_is_slow_takes_the_room_of_nobody() {
        run(async {
            let (mut client, mut reader) = server(ROOM);
            let message = frame(BINARY, true, &[7; 40_000], MASK);
            // Slowly, and there is room: it may take its time.
            let sending = async {
                for some in message.chunks(4000) {
                    client.write_all(some).await.unwrap();
                    time::sleep(Duration::from_secs(8)).await;
                }
            };
            let (got, ()) = tokio::join!(reader.next(), sending);
            assert!(matches!(got.unwrap(), Incoming::Message(bytes, _) if bytes.len() == 40_000));
            // There is little: two seconds.
            let taken = Arc::clone(&reader.room).acquire_many_owned(ROOM as u32 - 64).await.unwrap();
            client.write_all(&message[..30_000]).await.unwrap();
            let start = Instant::now();
            assert_eq!(reader.next().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!(start.elapsed() <= 2 * HURRY, "{:?}", start.elapsed());
            drop(taken);
            // Nothing at all: as a link that says nothing.
            let (mut client, mut reader) = server(ROOM);
            client.write_all(&message[..30_000]).await.unwrap();
            assert_eq!(reader.next().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            // No room: it is not read, and a ping is.
            let (mut client, mut reader) = server(0);
            client.write_all(&frame(PING, true, b"", MASK)).await.unwrap();
            client.write_all(&message).await.unwrap();
            assert!(matches!(reader.next().await.unwrap(), Incoming::Ping(_)));
            assert!(time::timeout(Duration::from_secs(60), reader.next()).await.is_err());
        });
    }
}
