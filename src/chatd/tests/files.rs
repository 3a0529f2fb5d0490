//! Files that go with messages.

use std::path::PathBuf;

use super::{
    super::{
        payload::PIECE,
        relay::{self, Limits},
        request::{Answer, Bytes, Request, State},
    },
    Net, ducks,
};

impl Net {
    fn hand_in(&mut self, who: usize, name: &str, bytes: &[u8]) -> i64 {
        let new = Request::FileNew { name: name.to_owned(), kind: "text/plain".to_owned() };
        let Answer::Upload { upload } = self.ask(who, new) else { panic!() };
        for piece in bytes.chunks(PIECE) {
            self.done(who, Request::FilePut { upload, bytes: Bytes(piece.to_vec()) });
        }
        upload
    }

    fn send_file(&mut self, who: usize, platform: &str, text: &str, files: Vec<i64>) -> String {
        let (platform, text) = (platform.to_owned(), text.to_owned());
        self.done(who, Request::Send { platform, channel: "general".into(), text, reply_to: None, files })
    }

    /// A file of a message, as far as it is here.
    fn fetch(&mut self, who: usize, platform: &str, message: &str, file: usize) -> Result<Vec<u8>, (usize, usize)> {
        let show = Request::Message { platform: platform.to_owned(), message: message.to_owned() };
        let Answer::Messages { messages, .. } = self.ask(who, show) else { panic!() };
        let file = messages[0].files[file].clone();
        let mut out = Vec::new();
        for piece in 0..file.pieces {
            let (platform, message, file) = (platform.to_owned(), message.to_owned(), file.file.clone());
            let get = Request::FileGet { platform, message, file, piece };
            match self.ask(who, get) {
                Answer::Piece { bytes } => out.extend(bytes.0),
                Answer::Fetching { here, pieces } => return Err((here, pieces)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((out.len() as u64, file.here), (file.size, file.pieces));
        Ok(out)
    }

    /// The beginnings of the pieces that a node keeps, as they are on the disk.
    fn sealed(&self, who: usize, message: &str) -> Vec<Vec<u8>> {
        let m = self.message(who, message);
        let store = &self.hubs[who].engine.store;
        let files = store.following(&m.id).unwrap();
        files
            .iter()
            .flat_map(|n| (0..8).filter_map(|i| store.piece_of(*n, i).unwrap()))
            .map(|p| p[..p.len().min(32)].to_vec())
            .collect()
    }

    fn lies_in(&self, dir: &str, needle: &[u8]) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.dir.join(dir)).unwrap().map(|f| f.unwrap().path());
        files.filter(|f| std::fs::read(f).unwrap().windows(needle.len()).any(|w| w == needle)).collect()
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    crate::crypto::Rng::from_seed([4; 32]).fill(&mut bytes);
    bytes
}

#[test]
fn files_go_with_messages_and_are_purged_with_them() {
    let mut net = Net::new(3);
    net.add_relay();
    net.connect(0, 3);
    let platform = net.done(0, Request::Found { name: "Ducks".into(), nick: "ann".into(), private: false });
    for (who, nick) in [(1, "bob"), (2, "cid")] {
        net.connect(who, 3);
        net.done(who, Request::Join { platform: platform.clone(), nick: nick.into() });
    }
    let (small, large) = (noise(3 * PIECE + 5), noise(40 * PIECE));
    let uploads = vec![net.hand_in(0, "small.txt", &small), net.hand_in(0, "large.txt", &large)];
    let empty = net.hand_in(0, "odd.txt", b"x");
    let refused = |net: &mut Net, request| net.refused(0, request);
    assert!(
        refused(&mut net, Request::FilePut { upload: empty, bytes: Bytes(vec![1]) }).contains("in the last one alone")
    );
    assert!(
        refused(&mut net, Request::FileNew { name: "../x".into(), kind: String::new() }).contains("name of a file")
    );
    let id = net.send_file(0, "ducks", "two files", uploads.clone());
    let again = Request::Send {
        platform: ducks(),
        channel: "general".into(),
        text: String::new(),
        reply_to: None,
        files: uploads,
    };
    assert!(refused(&mut net, again).contains("no such file"));
    // Over the relay, which fetches all; of the others who can read it each fetches what is small at once.
    assert_eq!(net.fetch(1, "ducks", &id, 0).unwrap(), small);
    assert_eq!(net.fetch(1, "ducks", &id, 1), Err((0, 40)));
    net.now_ms += 5000;
    net.settle();
    assert_eq!(net.fetch(1, "ducks", &id, 1).unwrap(), large);
    // With nobody else there but the relay; and a restart on the way.
    net.disconnect(0, 3);
    assert_eq!(net.fetch(2, "ducks", &id, 0).unwrap(), small);
    let taken = net.fetch(2, "ducks", &id, 1);
    net.hubs[2] = {
        let hub = net.open(2);
        net.hubs.push(hub);
        net.hubs.swap_remove(2)
    };
    net.disconnect(2, 3);
    net.connect(2, 3);
    net.done(2, Request::Unlock { password: super::PASSWORD.into() });
    assert!(taken.is_err() && net.fetch(2, "ducks", &id, 1).unwrap() == large);
    // What lies there is sealed.
    let dirs = ["0", "1", "2", "relay"];
    let pieces: Vec<Vec<u8>> = net.sealed(0, &id);
    assert_eq!(pieces.len(), 4 + 8);
    for dir in dirs {
        assert!(net.lies_in(dir, &small[..32]).is_empty(), "{dir}");
        assert!(pieces.iter().all(|p| !net.lies_in(dir, p).is_empty()), "{dir}");
    }
    // It goes with its message, everywhere.
    net.connect(0, 3);
    net.done(0, Request::Retract { platform: ducks(), message: id.clone() });
    for (who, dir) in dirs.into_iter().enumerate() {
        assert!(pieces.iter().all(|p| net.lies_in(dir, p).is_empty()), "{dir}");
        assert!(who == 3 || net.read(who)[0].state == State::Purged && net.read(who)[0].files.is_empty());
    }
    let get = Request::FileGet { platform: ducks(), message: id, file: "00".into(), piece: 0 };
    assert!(net.refused(1, get).contains("is gone"));
    // A relay that is full lets go of files first, of those of who has most there, and does not fetch them again.
    let upload = net.hand_in(1, "bobs.txt", &noise(2 * PIECE));
    let bobs = net.send_file(1, "ducks", "", vec![upload]);
    let upload = net.hand_in(0, "more.txt", &noise(20 * PIECE));
    let id = net.send_file(0, "ducks", "", vec![upload]);
    assert_eq!((net.sealed(3, &bobs).len(), net.sealed(3, &id).len()), (2, 8));
    let store = &net.hubs[3].engine.store;
    let limits = Limits { quota: store.bytes().unwrap() - 1, ..Limits::default() };
    assert_eq!(relay::make_room(store, &limits).unwrap(), 20);
    net.disconnect(0, 3);
    net.connect(0, 3);
    assert_eq!((net.sealed(3, &bobs).len(), net.sealed(3, &id).len()), (2, 0));
    assert!(net.hubs[3].engine.store.count(1).unwrap() > 0);
}

#[test]
fn a_relay_asks_for_no_more_of_a_file_than_it_may_take_in() {
    let mut net = Net::with_relay();
    let (pieces, bytes) = (90, noise(90 * PIECE));
    let upload = net.hand_in(0, "large.bin", &bytes);
    let id = net.send_file(0, "ducks", "large", vec![upload]);
    let target = net.message(0, &id).id;
    let mut here = Vec::new();
    for _ in 0..6 {
        let store = &net.hubs[2].engine.store;
        let n = store.following(&target).unwrap()[0];
        here.push(pieces - store.missing_pieces(n).unwrap().len());
        net.now_ms += 500;
        let outputs = net.hubs[2].tick(net.now_ms).unwrap();
        net.carry(2, outputs);
        net.settle();
    }
    // 16 MB at once, and 4 MB a second from there on: without a pause, and without a piece that is thrown away.
    assert_eq!(here, [61, 68, 76, 83, 90, 90]);
    assert_eq!(net.hubs[2].gate.as_ref().unwrap().dropped, 0);
    net.disconnect(0, 2);
    assert_eq!(net.fetch(1, "ducks", &id, 0), Err((0, pieces)));
    for _ in 0..20 {
        net.now_ms += 500;
        net.settle();
    }
    assert!(net.fetch(1, "ducks", &id, 0).unwrap() == bytes);
}

#[test]
fn a_sealed_platforms_files_are_for_who_reads_it() {
    let mut net = Net::new(3);
    net.connect(0, 1);
    net.connect(0, 2);
    net.platform();
    net.done(0, Request::Direct { platform: ducks(), who: "bob".into() });
    let secret = noise(PIECE / 2);
    let upload = net.hand_in(0, "secret.bin", &secret);
    let id = net.send_file(0, "@bob", "look", vec![upload]);
    assert_eq!(net.fetch(1, "@ann", &id, 0).unwrap(), secret);
    assert_eq!(net.seen(1, "@ann"), ["look"]);
    for who in ["0", "1", "2"] {
        assert!(net.lies_in(who, &secret[..32]).is_empty(), "{who}");
        // Who hands a file in has its name in the journal for a while.
        assert!(who == "0" || net.lies_in(who, b"secret.bin").is_empty(), "{who}");
    }
    net.done(0, Request::Retract { platform: "@bob".into(), message: id });
    assert!(["0", "1", "2"].into_iter().all(|who| net.lies_in(who, b"secret.bin").is_empty()));
}
