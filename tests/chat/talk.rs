//! Two, three, four people talk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use aegisray::{
    chatd::{Answer, Request as Ask},
    lab::{
        daemon::wait_for,
        topology::{Host, Internet},
    },
};

use super::{
    harness::{Dir, bootstrap, need_route, node, quiet},
    people::{PASSWORD, PLATFORM, Person, chat, people},
};

/// The middle and the 99th percentile, in milliseconds.
fn summary(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    (at(0.5), at(0.99))
}

/// How long it takes from one node's `send` to the other's event.
fn delivery(from: &Person, to: &Person) -> (f64, f64) {
    let one = |n| {
        let (text, after) = (format!("number {n}"), to.last_event());
        let start = Instant::now();
        from.say(&text);
        to.sees(after, &text) - start
    };
    summary((0..200).map(one).collect())
}

/// Four nodes in a line: the first and the last talk over the two between them, which take no part.
pub fn three_hops() {
    let dir = Dir::new();
    let names = ["ann", "x", "y", "bob"];
    let hosts: Vec<Host> = names.iter().map(|_| Host::bare().unwrap()).collect();
    let ip = |cable: usize, end: usize| format!("10.{}.0.{}", cable + 1, end + 1);
    for cable in 0..3 {
        let [left, right] = [0, 1].map(|end| ip(cable, end).parse().unwrap());
        hosts[cable].cable(&hosts[cable + 1], ("eth1", left), ("eth0", right)).unwrap();
    }
    let mut all: Vec<Person> = Vec::new();
    for (n, (host, name)) in hosts.into_iter().zip(names).enumerate() {
        let meets = if n == 0 { quiet() } else { bootstrap(&ip(n - 1, 0)) };
        let talks = if n == 0 || n == 3 { chat(&dir) + "  page: 0\n" } else { String::new() };
        let mut person = Person { daemon: node(&dir, name, &(meets + &talks)), host };
        person.start();
        all.push(person);
    }
    let (ann, bob) = (&all[0], &all[3]);
    assert_eq!(need_route(&ann.daemon, "bob").next_hop_name, "x");
    [ann, bob].into_iter().for_each(|one| one.done_with_identity(PASSWORD));
    ann.found();
    bob.join();
    let (half, most) = delivery(ann, bob);
    println!("  over three hops, from `send` to the other's event: {half:.1} ms, 99 % within {most:.1} ms");
}

pub fn people_talk() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let all = people(&dir, &mut internet, &["ann", "bob", "cid"]);
    let [ann, bob, cid] = &all[..] else { unreachable!() };
    ann.found();
    bob.join();
    cid.join();
    let first = ann.say("are there any ducks?");
    bob.need_text("are there any ducks?");
    let reply_to = Some(first[..10].to_owned());
    bob.done(Ask::Send {
        platform: PLATFORM.into(),
        channel: "general".into(),
        text: "yes, @ann".into(),
        reply_to,
        files: Vec::new(),
    });
    for one in &all {
        one.need_texts(PLATFORM, &["are there any ducks?", "yes, @ann"]);
    }
    let Answer::Platforms { platforms } = ann.ask(Ask::Platforms) else { panic!() };
    assert_eq!((platforms[0].members, platforms[0].channels[0].unread, platforms[0].channels[0].mentions), (3, 1, 1));
    let copies = || (ann.read()[0].copies == 2).then_some(());
    wait_for(Duration::from_secs(5), copies).expect("the author sees that two others have it");

    let (half, most) = delivery(ann, bob);
    println!("  from `send` to the other's event: {half:.1} ms, 99 % within {most:.1} ms (durable on both sides)");

    // A cut, and what is there after it.
    let bobs = &bob.host;
    internet.set_port(bobs, false).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    ann.say("while you were away");
    std::thread::sleep(Duration::from_secs(12));
    let after = bob.last_event();
    internet.set_port(bobs, true).unwrap();
    let start = Instant::now();
    let seen = bob.sees(after, "while you were away");
    println!("  after a cut of 15 s it is there in {:.2} s", (seen - start).as_secs_f64());
    assert_eq!(bob.texts(), ann.texts());
}

pub fn crash() {
    let dir = Dir::new();
    let mut internet = Internet::new().unwrap();
    let mut all = people(&dir, &mut internet, &["ann", "bob"]);
    all[0].found();
    all[1].join();
    // Ann says one thing after the other; in the middle of it bob's daemon is killed, and then hers.
    let confirmed = Arc::new(AtomicUsize::new(0));
    for victim in [1, 0] {
        let pid = all[victim].daemon.pid().unwrap();
        let killed = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            let pid = i32::try_from(pid).unwrap();
            std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1400) {
            let n = confirmed.load(Ordering::Relaxed);
            let (platform, channel, text) = (PLATFORM.to_owned(), "general".to_owned(), format!("message {n}"));
            let ask = Ask::Send { platform, channel, text, reply_to: None, files: Vec::new() };
            let answer = all[0].daemon.ask(&aegisray::api::Request::Chat { ask: Box::new(ask) });
            match answer {
                Ok(_) => drop(confirmed.fetch_add(1, Ordering::Relaxed)),
                Err(_) => break,
            }
        }
        killed.join().unwrap();
        let one = &mut all[victim];
        one.daemon.kill();
        one.start();
    }
    let n = confirmed.load(Ordering::Relaxed);
    let expected: Vec<String> = (0..n).map(|n| format!("message {n}")).collect();
    for one in &all {
        let here = wait_for(Duration::from_secs(20), || {
            let texts = one.texts();
            expected.iter().rev().take(400).all(|t| texts.contains(t)).then_some(())
        });
        assert!(here.is_some(), "{}: {:?}\n{}", one.daemon.name, one.texts().last(), one.daemon.log_tail());
        assert!(one.read().iter().all(|e| !e.forked), "nobody contradicts himself after a crash");
    }
    println!("  kill -9 of the receiver and of the sender: all {n} confirmed messages are at both");
    all[0].say("and on");
    all[1].need_text("and on");
}
