//! Certificates that an authority of the test has signed.

use std::{fs, net::IpAddr, path::Path, process::Command};

fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl").current_dir(dir).args(args.split(' ')).output().expect("openssl is installed");
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A certificate for `name`, which may be an address: `NAME.pem` and `NAME.key`, signed by `ca.pem`.
pub fn certify(dir: &Path, name: &str, days: i32) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    if !dir.join("ca.pem").exists() {
        openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -days 10"));
    }
    openssl(dir, &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
    let kind = if name.parse::<IpAddr>().is_ok() { "IP" } else { "DNS" };
    fs::write(dir.join("names"), format!("subjectAltName={kind}:{name}")).unwrap();
    let sign = format!("x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days}");
    openssl(dir, &format!("{sign} -extfile names -out {name}.pem"));
}
