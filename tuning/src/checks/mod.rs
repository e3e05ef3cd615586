//! The checks: each looks at one thing and finds it as it should be, or not, or unreadable.

mod clock;
mod cpu;
mod disk;
mod kernel;
mod limits;
mod memory;
mod network;
mod queues;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

pub(crate) use memory::chosen;

use crate::host::Host;
use crate::layout::Layout;
use crate::machine::Machine;
use crate::needs::{Measured, Needs};
use crate::report::{Finding, Report, Verdict};
use crate::settings::{self, Setting};

/// Everything that a check may look at.
pub struct Subject<'a> {
    /// The files.
    pub host: &'a dyn Host,
    /// The processors.
    pub machine: &'a Machine,
    /// How the relay would use them.
    pub layout: &'a Layout,
    /// What the relay needs.
    pub needs: &'a Needs,
    /// What no file says.
    pub measured: &'a Measured,
}

impl Subject<'_> {
    /// A file of the process whose limits count: the relay that runs, else this one.
    fn process(&self, file: &str) -> String {
        match self.measured.relay_pid {
            Some(pid) => format!("/proc/{pid}/{file}"),
            None => format!("/proc/self/{file}"),
        }
    }

    /// Whose limits these are, for people.
    fn whose(&self) -> String {
        match self.measured.relay_pid {
            Some(pid) => format!("the running relay, process {pid}"),
            None => "this shell; a service has its own".to_owned(),
        }
    }
}

/// Runs all checks.
pub fn run(subject: &Subject<'_>) -> Report {
    let settings = settings::all(subject.host, subject.machine, subject.needs);
    let mut findings = kernel::check(subject);
    findings.extend(limits::check(subject, &settings));
    findings.extend(network::check(subject, &settings));
    findings.extend(queues::check(subject));
    findings.extend(cpu::check(subject));
    findings.extend(memory::check(subject, &settings));
    findings.extend(disk::check(subject));
    findings.push(clock::check(subject));
    Report { findings }
}

/// The finding about a setting of the table.
fn of_setting(id: &'static str, title: &'static str, setting: &Setting, unmet: Verdict) -> Finding {
    let is = match &setting.is {
        Ok(is) => is.clone(),
        Err(error) => return Finding::unknown(id, title, error, setting.should(), &*setting.why),
    };
    let is_met = setting.is_met() == Some(true);
    let target = setting.target();
    let quote = if target.contains(' ') { "\"" } else { "" };
    Finding {
        id,
        title,
        verdict: if is_met { Verdict::Ok } else { unmet },
        is,
        should: setting.should(),
        why: setting.why.clone(),
        commands: vec![format!("sysctl -w {}={quote}{target}{quote}", setting.key)],
    }
}

fn find<'a>(settings: &'a [Setting], key: &str) -> Option<&'a Setting> {
    settings.iter().find(|setting| setting.key == key)
}
