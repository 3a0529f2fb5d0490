//! Listening on a cable.

use std::{io, sync::atomic::Ordering, time::Duration};

use aegisray::lab::topology::Host;

/// Shows every frame on the interfaces of a host to `see`, while `during` runs.
pub fn watch(host: &Host, mut see: impl FnMut(&[u8]) + Send, during: impl FnOnce()) -> io::Result<()> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = host.ns.run(|| {
        let every_protocol = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every_protocol))?;
        socket.set_recv_buffer_size(32 << 20)?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(socket)
    })?;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buf = vec![std::mem::MaybeUninit::new(0u8); 65_536];
            while !done.load(Ordering::Relaxed) {
                let Ok(n) = socket.recv(&mut buf) else { continue };
                // SAFETY: every byte of the buffer was initialised above.
                let frame: Vec<u8> = buf[..n].iter().map(|b| unsafe { b.assume_init() }).collect();
                see(&frame);
            }
        });
        during();
        std::thread::sleep(Duration::from_millis(300));
        done.store(true, Ordering::Relaxed);
        reader.join().map_err(|_| io::Error::other("the capture failed"))
    })
}
