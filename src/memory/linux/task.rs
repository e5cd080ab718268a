//! Processes and threads (`struct task_struct`), as the other questions need them.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::super::paging::Space;
use super::super::{MemoryError, Outcome};
use super::{Ask, Kernel, Object};

/// `PF_KTHREAD`: a thread of the kernel.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// A process or thread.
#[derive(Clone, Copy)]
pub struct Task<'k>(pub Object<'k>);

impl<'k> Task<'k> {
    /// Number of the process.
    pub fn pid(&self) -> Outcome<i64> {
        self.0.i64("tgid")
    }

    /// Number of the thread.
    pub fn tid(&self) -> Outcome<i64> {
        self.0.i64("pid")
    }

    /// Number of the process that it is a child of.
    pub fn ppid(&self) -> Outcome<i64> {
        self.0.i64("real_parent.tgid")
    }

    /// Its name.
    pub fn comm(&self) -> Outcome<String> {
        self.0.text("comm")
    }

    /// Is it a thread of the kernel?
    pub fn is_kernel_thread(&self) -> bool {
        self.0.u64("flags").is_ok_and(|flags| flags & KERNEL_THREAD != 0)
    }

    /// Its memory; threads of the kernel have none, and neither has what is dead.
    pub fn mm(&self) -> Outcome<Object<'k>> {
        self.0.follow("mm")
    }

    /// Its address space.
    pub fn space(&self) -> Outcome<Arc<Space>> {
        self.0.kernel.space_of(self.mm()?.u64("pgd")?)
    }

    /// When it was started.
    pub fn started(&self) -> Outcome<Timestamp> {
        let since = self.0.either(&["start_boottime", "real_start_time"])?.value()?;
        let boot = self.0.kernel.boot_time()?;
        let wrong = |_| MemoryError::corrupt("a time of start", self.0.at, "no such time");
        boot.checked_add(SignedDuration::from_nanos(since as i64)).map_err(wrong)
    }

    /// Its threads, itself among them.
    pub fn threads(&self, ask: &Ask) -> Vec<Self> {
        let kernel = self.0.kernel;
        let walk = self.0.get("signal.thread_head").and_then(|head| kernel.list(head.at, "task_struct", "thread_node"));
        match walk {
            Ok(walked) => ask.all("a list of threads", walked).into_iter().map(Task).collect(),
            Err(error) => {
                ask.note(format!("the threads of the task at {:#x}: {error}", self.0.at));
                vec![*self]
            }
        }
    }
}

impl Kernel {
    /// All processes of the kernel's list, in its order, without the idle one.
    pub fn processes(&self, ask: &Ask) -> Outcome<Vec<Task<'_>>> {
        let head = self.global("init_task", "task_struct")?.get("tasks")?.at;
        let all = ask.all("the list of processes", self.list(head, "task_struct", "tasks")?);
        let wanted =
            all.into_iter().map(Task).filter(|task| ask.pids.is_empty() || task.pid().is_ok_and(|pid| ask.wants(pid)));
        Ok(wanted.collect())
    }

    /// The same with every process followed by its threads, if they are asked for.
    pub fn tasks(&self, ask: &Ask) -> Outcome<Vec<Task<'_>>> {
        let processes = self.processes(ask)?;
        if !ask.threads {
            return Ok(processes);
        }
        Ok(processes.iter().flat_map(|process| process.threads(ask)).collect())
    }
}
