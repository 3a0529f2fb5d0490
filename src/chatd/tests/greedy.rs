//! Those who ask for much and read little.

use prost::Message as _;

use super::{
    super::{
        hub::{Hub, Input},
        links::{LinkId, Output, to_wire},
        outbox::Load,
        sync::{Comparison, Scope},
    },
    Net,
};
use crate::chat::{
    Hlc, Id,
    wire::{self, frame::What},
};

/// A visitor of the first node, who does only what the test says.
struct Visitor {
    link: LinkId,
    load: Load,
}

impl Visitor {
    fn of(net: &mut Net, link: LinkId) -> Self {
        let load = Load::default();
        let name = "visitor".to_owned();
        let come = Input::Connected { link, source: name.clone(), name, dialed: false, load: load.clone() };
        net.hubs[0].handle(net.now_ms, vec![come]).unwrap();
        let visitor = Self { link, load };
        visitor.says(net, What::Hello(wire::Hello { version: 1, ..wire::Hello::default() }));
        visitor
    }

    /// What it is sent for it; nothing of that is read as long as it is held.
    fn says(&self, net: &mut Net, what: What) -> Vec<Output> {
        let bytes = wire::Frame { what: Some(what) }.encode_to_vec();
        net.hubs[0].handle(net.now_ms, vec![Input::Frame { link: self.link, bytes }]).unwrap()
    }
}

fn frames(outputs: &[Output], to: LinkId) -> Vec<What> {
    let frame = |output: &Output| match output {
        Output::Send(link, frame) if *link == to => wire::Frame::decode(&*frame.bytes).unwrap().what,
        _ => None,
    };
    outputs.iter().filter_map(frame).collect()
}

fn closed(outputs: &[Output], link: LinkId) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Close(closed, _) if *closed == link))
}

fn messages(outputs: &[Output], to: LinkId) -> usize {
    let count = |what: What| if let What::Bundle(bundle) = what { bundle.messages.len() } else { 0 };
    frames(outputs, to).into_iter().map(count).sum()
}

#[test]
fn who_does_not_read_is_sent_no_more() {
    let mut net = Net::new(1);
    net.platform();
    let said: Vec<Id> = (0..200).map(|n| net.say(0, &format!("{n} {}", "so much ".repeat(4000)))).map(id).collect();
    let visitor = Visitor::of(&mut net, 1000);
    let mut unread = visitor.says(&mut net, What::Want(to_wire(&said)));
    let first = messages(&unread, 1000);
    assert!((20..100).contains(&first), "{first} of 32 kB each");
    assert!((1 << 20..4 << 20).contains(&visitor.load.own()), "{}", visitor.load.own());
    // It does not help to ask again, or for a piece of a file.
    assert_eq!(messages(&visitor.says(&mut net, What::Want(to_wire(&said))), 1000), 0);
    let piece = frames(&visitor.says(&mut net, What::WantPieces(to_wire(&said[..1]))), 1000);
    assert!(matches!(&piece[..], [What::Piece(piece)] if piece.bytes.is_empty()));
    // As it reads, the rest comes.
    let mut all = 0;
    while !unread.is_empty() {
        all += messages(&unread, 1000);
        unread.clear();
        assert_eq!(visitor.load.own(), 0);
        unread = net.hubs[0].handle(net.now_ms, Vec::new()).unwrap();
    }
    assert_eq!(all, 400);
    // What is new is told, not sent, while there is much to read.
    let asked = visitor.says(&mut net, What::Want(to_wire(&said)));
    assert!(messages(&asked, 1000) > 0 && !visitor.load.has_room());
    // So much at once that it cannot be meant.
    let many: Vec<Id> = (0..3000_u32).map(|n| Id(crate::crypto::sha256(&[&n.to_be_bytes()]))).collect();
    assert!(closed(&visitor.says(&mut net, What::Want(to_wire(&many))), 1000));
}

fn id(text: String) -> Id {
    Id::of(&data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()).unwrap()
}

#[test]
fn sets_of_many_who_compare_are_not_all_kept() {
    let mut net = Net::new(1);
    let platform = id(net.platform());
    let said: Vec<Id> = (0..100).map(|n| id(net.say(0, &format!("number {n}")))).collect();
    net.hubs[0].answering.most = 250;
    let scope = Scope { platform, acts: false, from: Hlc(0), to: Hlc(u64::MAX) };
    let sync = |first, step| {
        What::Sync(wire::Sync { platform: platform.0.to_vec(), acts: false, from: 0, to: u64::MAX, first, step })
    };
    let kept = |hub: &Hub| hub.links.all.values().filter(|l| l.comparison.is_some()).count();
    let visitors: Vec<Visitor> = (0..5).map(|n| Visitor::of(&mut net, 1000 + n)).collect();
    // Each has nothing, and asks; then each goes on.
    let mut sides: Vec<(Comparison, Vec<u8>, Vec<Id>)> = Vec::new();
    for _ in &visitors {
        let mut side = Comparison::new(scope, &[(Hlc(1), Id([1; 32]))]).unwrap();
        let step = side.initiate().unwrap();
        sides.push((side, step, Vec::new()));
    }
    let mut first = true;
    while sides.iter().any(|(_, step, _)| !step.is_empty()) {
        for (visitor, (side, step, found)) in visitors.iter().zip(&mut sides) {
            if step.is_empty() {
                continue;
            }
            let answered = visitor.says(&mut net, sync(first, std::mem::take(step)));
            let [What::Sync(answer)] = &frames(&answered, visitor.link)[..] else { panic!() };
            let (more, next) = side.proceed(&answer.step).unwrap();
            found.extend(more.need);
            *step = next.unwrap_or_default();
            assert!(kept(&net.hubs[0]) <= 2, "{}", kept(&net.hubs[0]));
        }
        first = false;
    }
    for (_, _, mut found) in sides {
        found.sort_unstable();
        let mut said = said.clone();
        said.sort_unstable();
        assert_eq!(found, said);
    }
    // When it is over, none is.
    net.now_ms += 100_000;
    net.hubs[0].tick(net.now_ms).unwrap();
    assert_eq!(kept(&net.hubs[0]), 0);
    // Two questions at once are one too many.
    let question = |step: &[u8]| wire::Frame { what: Some(sync(true, step.to_vec())) }.encode_to_vec();
    let step = Comparison::new(scope, &[]).unwrap().initiate().unwrap();
    let link = visitors[0].link;
    let both = [0, 1].map(|_| Input::Frame { link, bytes: question(&step) });
    let outputs = net.hubs[0].handle(net.now_ms, both.into()).unwrap();
    assert!(closed(&outputs, link));
}
