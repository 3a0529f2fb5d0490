//! The chat beside the mesh: what the daemon gives it are mesh addresses, and who is at which.

use std::{collections::BTreeMap, io, net::IpAddr, sync::Arc};

use super::{StartError, control::Control};
use crate::{
    api::Response,
    chatd::{Listen, Options, Request, Service},
    config::{Chat, Config},
    host,
    identity::keyfile::read_secret,
    stealth,
};

/// The master password, where the configuration names a file that has it.
pub(super) fn password(chat: &Chat) -> Result<Option<String>, StartError> {
    let text = chat.password_file.as_ref().map(|file| read_secret(file)).transpose();
    let text = text.map_err(|e| StartError::Chat(format!("{e} (chat.password_file)")))?;
    Ok(text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Starts the service of this node.
pub(super) fn start(config: &Config, chat: &Chat) -> Result<Service, StartError> {
    let wrong = |e: String| StartError::Chat(e);
    let password = password(chat)?;
    let options = Options {
        dir: config.state_dir.join("chat"),
        // From the mesh alone, whatever its addresses are.
        listen: vec![Listen::on(([0u16; 8], chat.port).into(), &config.interface)],
        page: chat.page,
        irc: chat.irc,
        // Without public authorities there are no relays behind HTTPS; all else works.
        client_tls: stealth::public_client(config.stealth.roots.as_deref()).ok().map(Arc::new),
        port: chat.port,
        relays: chat.relays.clone(),
        password,
        seed: host::random().map_err(|e: io::Error| wrong(e.to_string()))?,
        ..Options::default()
    };
    Service::start(options).map_err(|e| wrong(e.to_string()))
}

impl Control {
    /// Tells the chat who is in the mesh.
    pub fn follow_chat(&self) {
        let Some(chat) = &self.chat else { return };
        let mut neighbours: BTreeMap<IpAddr, String> = BTreeMap::new();
        for known in self.node.routing().announcements().filter(|known| known.id != self.node.id()) {
            // One address is enough: IPv4, which every host has, unless another node has that of this one.
            if let Some(ip) = self.node.owners().addresses_of(&known.id).next() {
                neighbours.insert(ip, self.name_of(&known.id));
            }
        }
        chat.set_neighbours(self.addresses.to_vec(), neighbours);
    }

    /// Hands a question to the chat, which answers by itself.
    pub fn ask_chat(&self, request: Request, answer: tokio::sync::oneshot::Sender<Response>) {
        let Some(chat) = &self.chat else {
            let message = "this node has no chat: set `chat.enabled: true` and restart it".to_owned();
            let _ = answer.send(Response::Error { message });
            return;
        };
        let handle = chat.handle();
        tokio::task::spawn_local(async move {
            let reply = Response::Chat { answer: Box::new(handle.ask(request).await) };
            // Who asked may be gone.
            let _ = answer.send(reply);
        });
    }
}
