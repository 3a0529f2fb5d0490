//! One clear error: file, line, column, key, and what was expected.

use std::path::Path;

use serde_saphyr::Location;

/// A configuration that can't be used. The CLI exits with 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {}{message}", if key.is_empty() { String::new() } else { format!("{key}: ") })]
pub struct ConfigError {
    pub file: String,
    /// From 1; 0 if the file as a whole is meant.
    pub line: usize,
    pub column: usize,
    /// The dotted path of the key, for example `mesh.mtu`.
    pub key: String,
    pub message: String,
}

impl ConfigError {
    pub(super) fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        let message = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "no such file: make one with `aegisray init` or `aegisray join`, or copy a template".to_owned()
            }
            _ => format!("cannot read: {error}"),
        };
        Self { file: path.display().to_string(), line: 0, column: 0, key: String::new(), message }
    }

    pub(super) fn at(path: &Path, text: &str, at: &Location, message: impl Into<String>) -> Self {
        let (line, column) = (at.line() as usize, at.column() as usize);
        Self { file: path.display().to_string(), line, column, key: key_path(text, line), message: message.into() }
    }

    /// About a key that is not in the file: placed at the nearest section that is.
    pub(super) fn missing(path: &Path, text: &str, key: &str, message: &str) -> Self {
        let section = key.split('.').next().unwrap_or(key);
        let line = text.lines().position(|l| l.starts_with(&format!("{section}:"))).map_or(1, |i| i + 1);
        Self { file: path.display().to_string(), line, column: 1, key: key.to_owned(), message: message.to_owned() }
    }

    pub(super) fn from_yaml(path: &Path, text: &str, error: &serde_saphyr::Error) -> Self {
        let full = error.without_snippet().to_string();
        // The library ends its message with the place, which this error has already.
        let message = full.split(" at line ").next().unwrap_or(&full).trim_end_matches([',', ' ']).to_owned();
        match error.location() {
            Some(at) => Self::at(path, text, &at, message),
            None => Self { file: path.display().to_string(), line: 1, column: 1, key: String::new(), message },
        }
    }
}

/// The dotted path of the key on a line (from 1), by indentation.
fn key_path(text: &str, line: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let mut path = Vec::new();
    let mut limit = usize::MAX;
    for l in lines[..line.min(lines.len())].iter().rev() {
        let body = l.trim_start();
        let indent = l.len() - body.len();
        if body.is_empty() || body.starts_with('#') || indent >= limit {
            continue;
        }
        let item = body.starts_with("- ");
        let content = body.trim_start_matches("- ");
        if item && l.len() - content.len() >= limit {
            // The first key of the same item, which stands beside this one.
            limit = indent + 1;
            continue;
        }
        let key = content.split_once(':').map(|(k, _)| k.trim());
        match key.filter(|k| !k.contains([' ', '"', '\'', '[', '{'])) {
            Some(k) => path.push(k.to_owned()),
            None if limit == usize::MAX => {}
            None => continue,
        }
        // The items of a list may stand as far left as their key does.
        limit = if item { indent + 1 } else { indent };
        if limit == 0 {
            break;
        }
    }
    path.reverse();
    path.join(".")
}
