//! Where a secret may go: scheme, host and port of an address that somebody gave, by HTTPS, or in clear to this very machine.

use std::net::IpAddr;

/// Scheme, host and port of an address without a path: HTTPS, or HTTP to this very machine.
///
/// # Errors
/// What it is instead, in words that repeat nothing of it.
pub fn origin(text: &str) -> Result<String, &'static str> {
    let text = text.trim_end_matches('/');
    let (scheme, authority) = text.split_once("://").ok_or("no address with a scheme")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if authority.is_empty() || !authority.chars().all(plain) {
        return Err("no host, or more than one");
    }
    match scheme.to_ascii_lowercase().as_str() {
        "https" => Ok(format!("https://{}", authority.to_ascii_lowercase())),
        "http" if is_loopback(authority) => Ok(format!("http://{authority}")),
        _ => Err("neither HTTPS nor on loopback"),
    }
}

/// The host of `host:port`, if it is an address and no name.
pub fn ip(authority: &str) -> Option<IpAddr> {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(_, port)| port.is_empty() || port.starts_with(':'))?.0,
        None => authority.split(':').next()?,
    };
    host.parse().ok()
}

fn is_loopback(authority: &str) -> bool {
    let host = authority.split(':').next().unwrap_or_default();
    host == "localhost" || ip(authority).is_some_and(|ip| ip.is_loopback())
}
