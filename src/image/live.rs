//! The memory of a running guest as an image: pages as they are when they are read. What the guest never touched is a gap.

use std::sync::Arc;

use impound_backends::{LiveError, LiveMemory};

use super::bytes::within;
use super::{Content, Extent, Image, Kind, Layer, ReadAt, ReadError};

/// The name of its only layer.
const NAME: &str = "live";

impl Image {
    /// The memory of a running guest. Two reads of one place may differ.
    pub fn live(memory: Arc<dyn LiveMemory>) -> Self {
        let len = memory.len();
        let mut layer = Layer { len, stored: len, ..Layer::new(NAME, Content::Memory) };
        layer.fact("read from", memory.source());
        Self { bytes: Arc::new(Bytes(memory)), layers: vec![layer], machine: None }
    }
}

struct Bytes(Arc<dyn LiveMemory>);

impl Bytes {
    fn broke(&self, error: std::io::Error) -> ReadError {
        ReadError::io("read the guest's memory", self.0.source())(error)
    }
}

impl ReadAt for Bytes {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), ReadError> {
        within(self.len(), at, into.len() as u64)?;
        self.0.read(at, into).map_err(|error| match error {
            LiveError::Absent { at, len, why } => ReadError::Gap { at, len, why },
            LiveError::Io(error) => self.broke(error),
        })
    }

    fn extent(&self, at: u64) -> Result<Extent, ReadError> {
        within(self.len(), at, 1)?;
        let span = self.0.span(at).map_err(|error| self.broke(error))?;
        let len = span.len.clamp(1, self.len() - at);
        Ok(Extent { at, len, kind: span.absent.map_or(Kind::Data, Kind::Gap) })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use impound_backends::{LiveSpan, Why};

    use super::super::map;
    use super::*;

    /// Three pages: the second is not there, the third does not read.
    struct Pages;

    impl LiveMemory for Pages {
        fn len(&self) -> u64 {
            0x3000
        }

        fn source(&self) -> &'static str {
            "a test"
        }

        fn span(&self, at: u64) -> io::Result<LiveSpan> {
            // Longer than there is, as a careless one might answer.
            let (len, absent) = if at / 0x1000 == 1 { (0x2000 - at, Some(Why::Sparse)) } else { (u64::MAX, None) };
            Ok(LiveSpan { len: if at < 0x1000 { 0x1000 - at } else { len }, absent })
        }

        fn read(&self, at: u64, into: &mut [u8]) -> Result<(), LiveError> {
            match at / 0x1000 {
                0 => {
                    into.fill(9);
                    Ok(())
                }
                1 => Err(LiveError::Absent { at, len: 0x2000 - at, why: Why::Sparse }),
                _ => Err(LiveError::Io(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    #[test]
    fn what_is_not_there_is_a_gap_and_what_breaks_is_told() {
        let image = Image::live(Arc::new(Pages));
        let mut some = [0; 4];
        image.bytes().read_at(8, &mut some).unwrap();
        assert_eq!(some, [9; 4]);
        assert!(matches!(image.bytes().read_at(0x1008, &mut some), Err(ReadError::Gap { at: 0x1008, len: 0xff8, .. })));
        assert!(image.bytes().read_at(0x2000, &mut some).is_err_and(|error| error.to_string().contains("a test")));
        assert!(matches!(image.bytes().read_at(0x2ffe, &mut some), Err(ReadError::Caller { .. })));
        let kinds: Vec<_> = map::walk(image.bytes().as_ref(), 0..0x3000).map(|extent| extent.unwrap().len).collect();
        assert_eq!(kinds, [0x1000; 3]);
        assert_eq!((image.layers().len(), image.content()), (1, Content::Memory));
    }
}
