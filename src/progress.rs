//! How long work tells of its progress, without knowing whether a terminal, a log or nobody listens.

/// Somebody who wants to know how work goes on.
pub trait Progress: Send + Sync {
    /// Work on `what` begins; `total` in bytes, if known.
    fn begin(&self, what: &str, total: Option<u64>) -> Box<dyn Task>;
    /// The same, counted in `unit` ("files") instead of bytes.
    fn count(&self, what: &str, unit: &'static str, total: Option<u64>) -> Box<dyn Task>;
    /// Something worth a line, that is no error.
    fn note(&self, text: &str);
}

/// One piece of work under way. Ends when it is dropped.
pub trait Task: Send + Sync {
    /// This many more bytes, or whatever is counted, are done.
    fn add(&self, more: u64);
    /// What is being done now: "copying", "hashing".
    fn phase(&self, name: &str);
}

/// Nobody listens.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: Option<u64>) -> Box<dyn Task> {
        Box::new(Self)
    }
    fn count(&self, _what: &str, _unit: &'static str, _total: Option<u64>) -> Box<dyn Task> {
        Box::new(Self)
    }
    fn note(&self, _text: &str) {}
}

impl Task for Silent {
    fn add(&self, _more: u64) {}
    fn phase(&self, _name: &str) {}
}
