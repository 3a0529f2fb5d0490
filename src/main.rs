fn main() {
    let a: Vec<String> = std::env::args().collect();
    let o = aegisray::sim::Options {
        nodes: a[1].parse().unwrap(),
        seed: a[2].parse().unwrap(),
        loss: a.get(3).map_or(0.0, |s| s.parse().unwrap()),
        churn: a.get(4).map_or(0.0, |s| s.parse().unwrap()),
        chaos: std::time::Duration::from_secs(a.get(5).map_or(0, |s| s.parse().unwrap())),
        partition: std::time::Duration::from_secs(a.get(6).map_or(0, |s| s.parse().unwrap())),
        ..Default::default()
    };
    println!("{:#?}", aegisray::sim::run(&o, &mut |p| eprintln!("{p}")));
}
