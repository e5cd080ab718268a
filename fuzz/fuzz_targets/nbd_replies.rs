//! An NBD server that says these bytes, whatever is asked.
#![no_main]

use impound_backends::Piece;
use impound_backends::wire::nbd::{Client, Take};
use libfuzzer_sys::fuzz_target;

struct Few(u64);

impl Take for Few {
    async fn take(&mut self, _: Piece) -> bool {
        self.0 -= 1;
        self.0 > 0
    }
}

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let stream = tokio::io::join(bytes, tokio::io::sink());
        if let Ok(mut client) = Client::open(stream, "disk").await {
            let _ = client.read_all(&mut Few(1000)).await;
        }
    });
});
