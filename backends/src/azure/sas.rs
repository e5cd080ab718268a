//! The right to read a snapshot for some hours: a shared access signature, got from ARM, never shown, and ended whatever happens.
//!
//! `beginGetAccess` gives an address that is a secret; whoever has it may read, without any token. The token of ARM is never sent
//! there. When the address has run out in the middle of a copy, another is asked for, once for all who were refused by the old one.
//! `endGetAccess` makes all of them void; the journal knows of it before the first is asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Mutex;

use super::address::Address;
use super::api::{Api, DISK, Refused, text, with_body};
use crate::wire::http::{Method, Request, Sign};
use crate::{BackendError, Kind};

/// How long one lasts, in seconds. It is renewed when it has run out, so that it need not be long.
const LASTS: u32 = 4 * 3600;
/// How often another is asked for with which nothing is read.
const VAIN_MAX: u32 = 3;
/// What it is for.
const BEGIN: &str = "get access to the snapshot";

/// Access to one snapshot.
pub(super) struct Access {
    api: Arc<Api>,
    /// The snapshot's id.
    pub(super) id: String,
    held: Mutex<Held>,
    /// Addresses that were asked for since anything was read.
    vain: AtomicU32,
}

#[derive(Default)]
struct Held {
    address: Option<Address>,
    /// Which one it is.
    number: u64,
}

impl Access {
    pub(super) fn new(api: &Arc<Api>, id: &str) -> Self {
        Self { api: Arc::clone(api), id: id.to_owned(), held: Mutex::default(), vain: AtomicU32::new(0) }
    }

    /// The address that holds now, and its number.
    async fn address(&self) -> Result<(Address, u64), BackendError> {
        let mut held = self.held.lock().await;
        if let Some(address) = &held.address {
            return Ok((address.clone(), held.number));
        }
        let address = begin(&self.api, &self.id).await?;
        held.address = Some(address.clone());
        Ok((address, held.number))
    }

    /// A request to the blob, for errors and the log; what proves the right to it is put on by a [`Ticket`].
    pub(super) async fn request(&self, purpose: &'static str) -> Result<Request, BackendError> {
        let (address, _) = self.address().await?;
        let mut request = address.request(purpose, Method::Get);
        request.query.clear();
        Ok(request)
    }

    /// Something was read.
    pub(super) fn went_well(&self) {
        self.vain.store(0, Ordering::Relaxed);
    }

    /// Address number `number` was refused.
    async fn renew(&self, number: u64) -> Result<(), BackendError> {
        let mut held = self.held.lock().await;
        if held.number != number {
            // Somebody was faster.
            return Ok(());
        }
        if self.vain.fetch_add(1, Ordering::Relaxed) >= VAIN_MAX {
            let why = "each address that ARM gives is refused";
            return Err(BackendError::new(Kind::Unsupported, "read the snapshot", &self.id, why)
                .advise("is public network access to it forbidden? look at networkAccessPolicy of the snapshot"));
        }
        let mut address = begin(&self.api, &self.id).await?;
        if held.address.as_ref().is_some_and(|old| old.is(&address)) {
            end(&self.api, &self.id).await?;
            address = begin(&self.api, &self.id).await?;
        }
        *held = Held { address: Some(address), number: number.saturating_add(1) };
        Ok(())
    }
}

/// Asks for an address.
async fn begin(api: &Api, id: &str) -> Result<Address, Refused> {
    let request = api.request(BEGIN, Method::Post, &format!("{id}/beginGetAccess"), DISK)?;
    let request = with_body(request, &json!({ "access": "Read", "durationInSeconds": LASTS }));
    let came = api.secret(request).await?;
    Ok(api.shared(BEGIN, text(&came, "/accessSAS"))?)
}

/// Makes all addresses of a snapshot void. One that has none, or is gone, is fine.
pub(super) async fn end(api: &Api, id: &str) -> Result<(), Refused> {
    let request = api.request("end the access to the snapshot", Method::Post, &format!("{id}/endGetAccess"), DISK)?;
    match api.act(request).await {
        Err(refused) if matches!(refused.code.as_str(), "ResourceNotFound" | "NotFound") => Ok(()),
        other => other,
    }
}

/// Proves the right to read, for one call.
pub(super) struct Ticket<'a> {
    access: &'a Access,
    /// Number of the address that was used last.
    used: Mutex<u64>,
}

impl<'a> Ticket<'a> {
    pub(super) fn new(access: &'a Access) -> Self {
        Self { access, used: Mutex::default() }
    }
}

#[async_trait]
impl Sign for Ticket<'_> {
    async fn sign(&self, request: &mut Request) -> Result<(), BackendError> {
        let (address, number) = self.access.address().await?;
        *self.used.lock().await = number;
        address.put_on(request);
        Ok(())
    }

    async fn renew(&self) -> Result<(), BackendError> {
        let used = *self.used.lock().await;
        self.access.renew(used).await
    }
}
