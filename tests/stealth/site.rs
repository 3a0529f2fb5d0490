//! A website: nginx behind a node, with a certificate that a test authority has signed.

use std::{fs, path::PathBuf};

use aegisray::lab::{
    daemon::Daemon,
    topology::{Host, Internet},
};

use super::{
    certify::certify,
    harness::{Dir, need, node, quiet},
    nginx::nginx,
    running::Running,
};

pub const NAME: &str = "www.example.test";
pub const ADDRESS: &str = "203.0.113.10";
/// Where somebody else's site is.
pub const DECOY: &str = "203.0.113.99";
/// Where the pages come from.
pub const UPSTREAM: &str = "127.0.0.1:8080";

pub struct Site {
    pub host: Host,
    pub daemon: Daemon,
    pub authority: PathBuf,
    _nginx: Option<Running>,
}

fn write_pages(dir: &Dir) {
    let pages = dir.0.join("pages");
    fs::create_dir_all(&pages).unwrap();
    fs::write(pages.join("index.html"), "<h1>A site about ducks</h1>\n".repeat(40)).unwrap();
}

/// nginx with some pages: plain HTTP at [`UPSTREAM`], and HTTPS for [`NAME`] at `https` if given.
fn pages(dir: &Dir, host: &Host, https: Option<&str>) -> Running {
    write_pages(dir);
    let d = dir.0.display();
    let https = https.map_or(String::new(), |at| {
        format!(
            "server {{ listen {at} ssl; root {d}/pages; ssl_certificate {d}/{NAME}.pem; ssl_certificate_key {d}/{NAME}.key;
               ssl_protocols TLSv1.2 TLSv1.3; }}"
        )
    });
    nginx(dir, host, &format!("server {{ listen {UPSTREAM}; root {d}/pages; }} {https}"))
}

impl Site {
    /// A site at [`ADDRESS`], whose certificate is for [`NAME`] and so many days.
    pub fn open(dir: &Dir, internet: &mut Internet, days: i32) -> Self {
        let host = internet.public(ADDRESS.parse().unwrap()).unwrap();
        certify(&dir.0, NAME, days);
        let nginx = pages(dir, &host, None);
        let serve =
            format!("certificate: {d}/{NAME}.pem, key: {d}/{NAME}.key, upstream: \"{UPSTREAM}\"", d = dir.0.display());
        Self::start(dir, "site", host, Some(nginx), &serve, "")
    }

    /// The same with the pages out of a folder: a node of this name at this address, with `more` for its disguise.
    pub fn of_folder(dir: &Dir, internet: &mut Internet, name: &str, address: &str, more: &str) -> Self {
        let host = internet.public(address.parse().unwrap()).unwrap();
        certify(&dir.0, NAME, 10);
        write_pages(dir);
        let d = dir.0.display();
        let serve = format!("certificate: {d}/{NAME}.pem, key: {d}/{NAME}.key, folder: {d}/pages");
        Self::start(dir, name, host, None, &serve, more)
    }

    /// A node at [`ADDRESS`] before a site of somebody else's at [`DECOY`].
    pub fn borrow(dir: &Dir, internet: &mut Internet) -> (Self, Host) {
        certify(&dir.0, NAME, 10);
        let theirs = internet.public(DECOY.parse().unwrap()).unwrap();
        let nginx = pages(dir, &theirs, Some(&format!("{DECOY}:443")));
        let host = internet.public(ADDRESS.parse().unwrap()).unwrap();
        let serve = format!("decoy: \"{DECOY}:443\", sni: {NAME}");
        (Self::start(dir, "site", host, Some(nginx), &serve, ""), theirs)
    }

    fn start(dir: &Dir, name: &str, host: Host, nginx: Option<Running>, serve: &str, more: &str) -> Self {
        let authority = dir.0.join("ca.pem");
        let more = format!(
            "{}stealth:\n  mode: auto\n  roots: {}\n  serve: {{ port: 443, {serve} }}\n{more}",
            quiet(),
            authority.display()
        );
        let mut daemon = node(dir, name, &more);
        daemon.start(&host).unwrap();
        need(&daemon, "status", || daemon.status());
        Self { host, daemon, authority, _nginx: nginx }
    }

    /// What a client's configuration says to come here.
    pub fn way_in(&self, mode: &str, sni: &str) -> String {
        format!(
            "stealth:\n  mode: {mode}\n  roots: {}\n  sites:\n    - {{ address: \"{ADDRESS}:443\", sni: {sni} }}\n",
            self.authority.display()
        )
    }
}
