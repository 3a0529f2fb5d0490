//! A real web server.

use std::{fs, path::Path};

use aegisray::lab::topology::Host;

use super::{harness::Dir, running::Running};

/// Serves what these `server { … }` blocks say.
pub fn nginx(dir: &Dir, host: &Host, servers: &str) -> Running {
    let d = dir.0.display();
    let config = format!(
        "daemon off; master_process off; error_log {d}/nginx.log crit; pid {d}/nginx.pid; worker_processes 1; user root;
         events {{ worker_connections 256; }}
         http {{ access_log off; client_body_temp_path {d}/body; proxy_temp_path {d}/proxy;
           fastcgi_temp_path {d}/fastcgi; uwsgi_temp_path {d}/uwsgi; scgi_temp_path {d}/scgi;
           client_header_timeout 3s; client_body_timeout 3s; keepalive_timeout 2s; lingering_close off;
           {servers} }}"
    );
    fs::write(dir.0.join("nginx.conf"), config).unwrap();
    let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    let mut command = host.ns.command(program);
    // Its own log, until it has read which one it is to have.
    command.arg("-e").arg(dir.0.join("nginx.log")).arg("-c").arg(dir.0.join("nginx.conf"));
    Running::start(command)
}
