//! What operators copy: templates, the systemd unit, the container files. No container engine is needed; the compose
//! mesh itself runs in the end-to-end tests.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use aegisray::config::Config;
use serde::Deserialize;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_template_is_a_valid_configuration() {
    let dir = std::env::temp_dir().join(format!("aegisray-templates-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    aegisray::identity::keyfile::write_secret(&dir.join("network.key"), b"a-secret-for-the-templates").unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap() + "\nstate_dir: state\n";
        assert!(text.starts_with("# "), "{}: a template says what it is", path.display());
        Config::parse(&dir.join("peer.yaml"), &text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(
        names,
        [
            "basic-peer",
            "client-behind-nat",
            "exit-client",
            "exit-node",
            "portal",
            "relay",
            "stealth-client",
            "stealth-site"
        ]
    );
    fs::remove_dir_all(dir).unwrap();
}

#[derive(Deserialize)]
struct Compose {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
struct Service {
    build: Build,
    command: Vec<String>,
    volumes: Vec<String>,
    cap_add: Vec<String>,
    devices: Vec<String>,
}

#[derive(Deserialize)]
struct Build {
    context: String,
    dockerfile: String,
}

#[test]
fn the_compose_file_names_things_that_are_there() {
    let text = fs::read_to_string(root().join("docker/compose.yaml")).unwrap();
    let compose: Compose = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(compose.services.len(), 2);
    for (name, service) in compose.services {
        let context = root().join("docker").join(&service.build.context);
        assert!(context.join(&service.build.dockerfile).exists(), "{name}");
        assert_eq!((service.cap_add, service.devices.len()), (vec!["NET_ADMIN".to_owned()], 1), "{name}");
        let (from, to) = service.volumes[0].split_once(':').unwrap();
        let file = service.command[1].strip_prefix(to.trim_end_matches(":ro")).unwrap().trim_start_matches('/');
        assert!(root().join("docker").join(from).join(file).exists(), "{name}: {file}");
        assert_eq!(service.command[0], "-config");
    }
}

#[test]
fn the_dockerfile_copies_what_the_build_needs() {
    let text = fs::read_to_string(root().join("docker/Dockerfile")).unwrap();
    let context = std::env::temp_dir().join(format!("aegisray-context-{}", std::process::id()));
    fs::create_dir_all(&context).unwrap();
    let known = ["FROM", "WORKDIR", "COPY", "RUN", "VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"];
    for line in text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let (instruction, rest) = line.split_once(' ').unwrap();
        assert!(known.contains(&instruction), "{line}");
        if instruction == "COPY" && !rest.starts_with("--from") {
            let words: Vec<&str> = rest.split_whitespace().collect();
            for source in &words[..words.len() - 1] {
                let copied = Command::new("cp").arg("-r").arg(root().join(source)).arg(&context).status().unwrap();
                assert!(copied.success(), "COPY {source}");
            }
        }
    }
    let read = ["metadata", "--no-deps", "--locked", "--offline", "--format-version", "1"];
    let read = Command::new(env!("CARGO")).args(read).current_dir(&context).output().unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    fs::remove_dir_all(context).unwrap();
}

#[test]
fn the_systemd_unit_is_sound() {
    let units = ["aegisray", "aegisray-fence"].map(|name| root().join(format!("systemd/{name}.service")));
    let text = units.iter().map(|unit| fs::read_to_string(unit).unwrap()).collect::<Vec<_>>();
    for setting in ["Type=notify", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="] {
        assert!(text[0].contains(setting), "{setting}");
    }
    assert!(text[1].contains("Before=network-pre.target"), "the kill switch is closed before there is a network");
    text.iter().for_each(|text| is_sound(text));
}

fn is_sound(text: &str) {
    // The verifier wants the program in place; on a copy that names one that is.
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else { return };
    assert!(version.status.success());
    let copy = std::env::temp_dir().join(format!("aegisray-{}.service", std::process::id()));
    let program = env!("CARGO_BIN_EXE_aegisray");
    fs::write(&copy, text.replace("/usr/local/bin/aegisray", program)).unwrap();
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&copy).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("aegisray")).collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
    fs::remove_file(copy).unwrap();
}
