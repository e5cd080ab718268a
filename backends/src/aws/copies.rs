//! Copies under way: asked for, looked at, told of.

use super::copy::Vault;
use super::ec2::Snapshot;
use super::undo::AwsUndo;
use crate::{Finished, Kind};

/// How often in a row nothing can be learned of a copy before it is given up.
const MISSES_MAX: u32 = 10;
/// How often it is looked for a copy that was asked for without an answer, before it is asked for again.
const LOOKS: u32 = 3;

/// See the module.
pub(super) struct Copies {
    vault: Vault,
    open: Vec<Copy>,
}

/// One that has not ended.
struct Copy {
    source: Snapshot,
    id: Option<String>,
    misses: u32,
    /// It may be that it was asked for: so many times it is only looked for.
    unsure: u32,
}

/// What came of looking at one.
enum Seen {
    Open,
    Ended,
}

impl Copies {
    /// None is asked for yet.
    pub(super) fn new(vault: Vault, sources: Vec<Snapshot>) -> Self {
        let copy = |source| Copy { source, id: None, misses: 0, unsure: 0 };
        Self { vault, open: sources.into_iter().map(copy).collect() }
    }

    /// What the journal is to know before the first is asked for.
    pub(super) fn undo(&self, from: &str) -> AwsUndo {
        AwsUndo::Copies {
            profile: self.vault.profile().to_owned(),
            account: self.vault.account.clone(),
            from: from.to_owned(),
            to: self.vault.region().to_owned(),
            of: self.open.iter().map(|copy| copy.source.id.clone()).collect(),
        }
    }

    /// Asks for what was not asked for and looks at the rest. Answers what is waited for, if anything.
    /// The `last` time none is asked for.
    pub(super) async fn look(&mut self, finished: &mut Finished, last: bool) -> Option<String> {
        for mut copy in std::mem::take(&mut self.open) {
            if let Seen::Open = copy.look(&self.vault, finished, last).await {
                self.open.push(copy);
            }
        }
        let (open, account) = (self.open.len(), &self.vault.account);
        (open > 0).then(|| format!("waiting for {open} copies to account {account}, which go on in AWS by themselves"))
    }

    /// Says what was not waited for.
    pub(super) fn give_up(&mut self, finished: &mut Finished) {
        for copy in std::mem::take(&mut self.open) {
            let (source, account) = (&copy.source.id, &self.vault.account);
            match &copy.id {
                Some(id) => {
                    finished.left.push(self.vault.left(id, source));
                    finished.problems.push(format!(
                        "the copy {id} of {source} in account {account} was not complete yet, and was not waited for"
                    ));
                }
                None => finished
                    .problems
                    .push(format!("{source} is not known to be copied to account {account}: the run was ended before")),
            }
        }
    }
}

impl Copy {
    async fn look(&mut self, vault: &Vault, finished: &mut Finished, last: bool) -> Seen {
        let Some(id) = self.id.clone() else { return self.begin(vault, finished, last).await };
        let copy = match vault.copy(&id).await {
            Ok(copy) => copy,
            // What was made a moment ago may not be listed yet.
            Err(refused) if refused.error.kind == Kind::Io || refused.code.starts_with("InvalidSnapshot") => {
                return self.missed(vault, finished, &refused.error.to_string());
            }
            Err(refused) => {
                return self.ends(vault, finished, Some(&format!("it cannot be looked at: {}", refused.error)));
            }
        };
        self.misses = 0;
        match copy.state.as_str() {
            "pending" => Seen::Open,
            "completed" => {
                let wrong = vault.wrong(&self.source, &copy);
                self.ends(vault, finished, wrong.as_deref())
            }
            state => {
                let said = copy.about.get("statusMessage").unwrap_or("no reason given");
                self.ends(vault, finished, Some(&format!("it is {state}: {said}")))
            }
        }
    }

    /// Takes up a copy that is there, or asks for one.
    async fn begin(&mut self, vault: &Vault, finished: &mut Finished, last: bool) -> Seen {
        let found = match vault.copies(&[&self.source.id]).await {
            Ok(found) => found,
            Err(error) if error.kind == Kind::Io => return self.missed(vault, finished, &error.to_string()),
            Err(error) => return self.ends(vault, finished, Some(&error.to_string())),
        };
        // One that failed is none.
        if let Some(copy) = found.into_iter().find(|copy| copy.state != "error") {
            self.id = Some(copy.id);
            return Seen::Open;
        }
        if last || self.unsure > 0 {
            self.unsure = self.unsure.saturating_sub(1);
            return Seen::Open;
        }
        match vault.ask(&self.source).await {
            Ok(id) => self.id = Some(id),
            // So many at once and no more; those that are under way end some time.
            Err(refused) if refused.code == "ResourceLimitExceeded" => {}
            Err(refused) if refused.error.kind == Kind::Io => {
                self.unsure = LOOKS;
                return self.missed(vault, finished, &refused.error.to_string());
            }
            Err(refused) => return self.ends(vault, finished, Some(&refused.error.to_string())),
        }
        self.misses = 0;
        Seen::Open
    }

    fn missed(&mut self, vault: &Vault, finished: &mut Finished, why: &str) -> Seen {
        self.misses += 1;
        if self.misses < MISSES_MAX {
            return Seen::Open;
        }
        self.ends(vault, finished, Some(&format!("it is not known what became of it: {why}")))
    }

    /// Told, well or not.
    fn ends(&self, vault: &Vault, finished: &mut Finished, problem: Option<&str>) -> Seen {
        let (source, account) = (&self.source.id, &vault.account);
        if let Some(id) = &self.id {
            finished.left.push(vault.left(id, source));
        }
        if let Some(why) = problem {
            let copy = self.id.as_ref().map_or_else(String::new, |id| format!(", as {id}"));
            finished.problems.push(format!("{source} is not copied to account {account}{copy}: {why}"));
        }
        Seen::Ended
    }
}
