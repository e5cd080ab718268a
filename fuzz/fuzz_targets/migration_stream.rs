//! QEMU's migration stream: pages stay inside their blocks, whatever it says.
#![no_main]

use impound_backends::qemu::stream::{Sink, StreamError, read};
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Blocks(Vec<u64>);

impl Sink for Blocks {
    fn block(&mut self, _: usize, _: &str, len: u64) -> Result<(), StreamError> {
        self.0.push(len);
        Ok(())
    }
    fn armed(&mut self) {}
    fn page(&mut self, block: usize, offset: u64, bytes: &[u8]) -> Result<(), StreamError> {
        assert!(offset + bytes.len() as u64 <= self.0[block]);
        Ok(())
    }
    fn zero(&mut self, block: usize, offset: u64, len: u64) -> Result<(), StreamError> {
        assert!(offset + len <= self.0[block]);
        Ok(())
    }
    fn rest(&mut self, _: &[u8]) -> Result<(), StreamError> {
        Ok(())
    }
    fn raw(&mut self, _: &[u8]) {}
}

fuzz_target!(|bytes: &[u8]| {
    let _ = read(bytes, &mut Blocks::default());
});
