//! UPnP Internet Gateway Device: found by SSDP (UPnP Device Architecture 1.1 §1.3), asked in SOAP over HTTP
//! (WANIPConnection:1 §2.4). Only as much of XML is read as these few answers take.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};

use super::{Mapping, PortMapError};

const SSDP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
const SEARCH_TIME: Duration = Duration::from_millis(1500);
const HTTP_TIME: Duration = Duration::from_secs(3);
/// The longest answer that is read.
const MAX_BODY: u64 = 256 << 10;
const DESCRIPTION: &str = "AegisRay";
/// "OnlyPermanentLeasesSupported" (WANIPConnection:1 §2.4.16.4).
const ONLY_PERMANENT: u16 = 725;

/// A router that takes mappings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Where its control requests go.
    host: SocketAddr,
    path: String,
    service: String,
    /// This host's address on the way there.
    local: Ipv4Addr,
}

/// Looks for the gateway in the local network. It has to be `router`, where the default route leads: any host there may
/// answer, and what it said would be announced in this node's name.
pub fn find(router: Ipv4Addr) -> Result<Gateway, PortMapError> {
    let socket = crate::host::bind_udp((Ipv4Addr::UNSPECIFIED, 0).into())?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let start = Instant::now();
    let mut buffer = [0; 2048];
    let mut asked = 0;
    while start.elapsed() < SEARCH_TIME {
        if asked * 500 <= start.elapsed().as_millis() {
            asked += 1;
            for version in 1..=2 {
                let search = format!(
                    "M-SEARCH * HTTP/1.1\r\nHOST: {SSDP}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
                     ST: urn:schemas-upnp-org:device:InternetGatewayDevice:{version}\r\n\r\n"
                );
                socket.send_to(search.as_bytes(), SSDP)?;
            }
        }
        let Ok((n, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some((host, path)) = location(router, from, &buffer[..n])
            && let Ok(gateway) = describe(host, &path)
        {
            return Ok(gateway);
        }
    }
    Err(PortMapError::NoRouter)
}

/// Where the router's answer says that it is described: at the router itself.
fn location(router: Ipv4Addr, from: SocketAddr, answer: &[u8]) -> Option<(SocketAddr, String)> {
    if from.ip() != router {
        return None;
    }
    let location = header(&String::from_utf8_lossy(answer), "location")?;
    parse_url(&location).filter(|(host, _)| host.ip() == router)
}

/// Reads a device's description.
fn describe(host: SocketAddr, path: &str) -> Result<Gateway, PortMapError> {
    let stream = crate::host::connect(&host, HTTP_TIME)?;
    let std::net::IpAddr::V4(local) = stream.local_addr()?.ip() else { return Err(PortMapError::NoRouter) };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let (_, body) = exchange(stream, &request)?;
    let (service, control) = control_url(&body).ok_or(PortMapError::NoRouter)?;
    let path = match parse_url(&control) {
        Some((other, path)) if other == host => path,
        Some(_) => return Err(PortMapError::NoRouter),
        None if control.starts_with('/') => control,
        None => format!("/{control}"),
    };
    Ok(Gateway { host, path, service, local })
}

/// The service that keeps mappings, and where it is controlled.
#[must_use]
pub fn control_url(description: &str) -> Option<(String, String)> {
    let services = description.split("<service>").skip(1);
    let mut found = services.filter_map(|s| {
        let service = element(s, "serviceType")?;
        let known = service.contains(":WANIPConnection:") || service.contains(":WANPPPConnection:");
        known.then_some((service, element(s, "controlURL")?))
    });
    found.next()
}

impl Gateway {
    /// Maps public UDP port `outside` to `port` of this host, for `lifetime_s` seconds or, where the router can't do
    /// that, until it is removed.
    pub fn add(&self, port: u16, outside: u16, lifetime_s: u32) -> Result<Mapping, PortMapError> {
        let ip: Ipv4Addr = {
            let answer = self.call("GetExternalIPAddress", "")?;
            let text = element(&answer, "NewExternalIPAddress").unwrap_or_default();
            text.parse().map_err(|_| PortMapError::NoAddress)?
        };
        let add = |lifetime: u32| {
            self.call(
                "AddPortMapping",
                &format!(
                    "<NewRemoteHost></NewRemoteHost><NewExternalPort>{outside}</NewExternalPort>\
                     <NewProtocol>UDP</NewProtocol><NewInternalPort>{port}</NewInternalPort>\
                     <NewInternalClient>{}</NewInternalClient><NewEnabled>1</NewEnabled>\
                     <NewPortMappingDescription>{DESCRIPTION}</NewPortMappingDescription>\
                     <NewLeaseDuration>{lifetime}</NewLeaseDuration>",
                    self.local
                ),
            )
        };
        match add(lifetime_s) {
            Err(PortMapError::Refused(ONLY_PERMANENT)) => add(0)?,
            other => other?,
        };
        Ok(Mapping { external: SocketAddr::new(ip.into(), outside), lifetime_s })
    }

    /// Removes a mapping.
    pub fn remove(&self, outside: u16) -> Result<(), PortMapError> {
        let arguments = format!(
            "<NewRemoteHost></NewRemoteHost><NewExternalPort>{outside}</NewExternalPort><NewProtocol>UDP</NewProtocol>"
        );
        self.call("DeletePortMapping", &arguments).map(|_| ())
    }

    fn call(&self, action: &str, arguments: &str) -> Result<String, PortMapError> {
        let service = &self.service;
        let body = format!(
            "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
             <u:{action} xmlns:u=\"{service}\">{arguments}</u:{action}></s:Body></s:Envelope>"
        );
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: text/xml; charset=\"utf-8\"\r\n\
             SOAPAction: \"{service}#{action}\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.path,
            self.host,
            body.len()
        );
        let (code, answer) = exchange(crate::host::connect(&self.host, HTTP_TIME)?, &request)?;
        if code == 200 {
            return Ok(answer);
        }
        let error = element(&answer, "errorCode").and_then(|c| c.trim().parse().ok()).unwrap_or(code);
        Err(PortMapError::Refused(error))
    }
}

/// Sends a request and reads the answer to its end: status and body.
fn exchange(mut stream: TcpStream, request: &str) -> io::Result<(u16, String)> {
    stream.set_read_timeout(Some(HTTP_TIME))?;
    stream.set_write_timeout(Some(HTTP_TIME))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_BODY).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split_whitespace().nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
    Ok((code, body.to_owned()))
}

/// A header's value in an HTTP-like message.
fn header(message: &str, name: &str) -> Option<String> {
    let mut lines = message.lines().filter_map(|l| l.split_once(':'));
    lines.find(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}

/// Address and path of `http://ADDRESS:PORT/PATH`.
fn parse_url(url: &str) -> Option<(SocketAddr, String)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let addr = host.parse().or_else(|_| format!("{host}:80").parse()).ok()?;
    Some((addr, format!("/{path}")))
}

/// The text of the first element of that name.
fn element(xml: &str, name: &str) -> Option<String> {
    let start = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let end = start + xml[start..].find("</")?;
    Some(xml[start..end].trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_and_answers_are_read() {
        let description = "<root><service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType>\
            <controlURL>/ctl/L3F</controlURL></service><service>\
            <serviceType>urn:schemas-upnp-org:service:WANIPConnection:2</serviceType>\
            <controlURL> /ctl/IPConn </controlURL></service></root>";
        let (service, url) = control_url(description).unwrap();
        assert!(service.ends_with("WANIPConnection:2"));
        assert_eq!(url, "/ctl/IPConn");
        let answer = "HTTP/1.1 200 OK\r\nLocation:  http://192.168.1.1:5000/root.xml\r\n\r\n";
        let expected = ("192.168.1.1:5000".parse().unwrap(), "/root.xml".to_owned());
        assert_eq!(parse_url(&header(answer, "LOCATION").unwrap()), Some(expected));
        assert_eq!(parse_url("http://192.168.1.1").map(|u| u.0), Some("192.168.1.1:80".parse().unwrap()));
        assert_eq!(parse_url("http://router.local/x"), None, "names could lead elsewhere");
        let router = Ipv4Addr::new(192, 168, 1, 1);
        let found = |from: &str, answer: &str| location(router, from.parse().unwrap(), answer.as_bytes());
        assert!(found("192.168.1.1:1900", answer).is_some());
        assert_eq!(found("192.168.1.66:1900", answer), None, "somebody else answers for the router");
        let elsewhere = answer.replace("192.168.1.1:", "192.168.1.66:");
        assert_eq!(found("192.168.1.66:1900", &elsewhere), None, "or for itself");
        assert_eq!(found("192.168.1.1:1900", &elsewhere), None, "or leads away");
        for odd in ["", "<a>", "<a>x", "<a></a><b>", "<controlURL><service>"] {
            let _ = (element(odd, "a"), control_url(odd), header(odd, "location"));
        }
    }
}
