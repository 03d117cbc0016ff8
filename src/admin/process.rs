//! What this process takes of its machine, where the system says.

use crate::wire::status::ProcessUsage;

/// What this process takes now. `None` where the system does not say: it is asked for on Linux only.
pub fn usage() -> Option<ProcessUsage> {
    match read() {
        Ok(usage) => Some(usage),
        Err(error) => {
            tracing::debug!(error, "the process cannot be measured");
            None
        }
    }
}

#[cfg(target_os = "linux")]
fn read() -> Result<ProcessUsage, String> {
    use std::time::Duration;

    use procfs::process::LimitValue;
    use procfs::process::Process;

    let text = |error: procfs::ProcError| error.to_string();
    let own = Process::myself().map_err(text)?;
    let stat = own.stat().map_err(text)?;
    let limits = own.limits().map_err(text)?;
    let per_second = procfs::ticks_per_second().max(1);
    let span = |ticks: u64| Duration::from_millis(ticks.saturating_mul(1_000) / per_second);
    let boot = procfs::boot_time_secs().map_err(text)?;
    Ok(ProcessUsage {
        pid: std::process::id(),
        cpu: span(stat.utime + stat.stime),
        resident: stat.rss.saturating_mul(procfs::page_size()),
        virtual_bytes: stat.vsize,
        open_files: u64::try_from(own.fd_count().map_err(text)?).unwrap_or(u64::MAX),
        open_files_max: match limits.max_open_files.soft_limit {
            LimitValue::Value(most) => most,
            LimitValue::Unlimited => u64::MAX,
        },
        threads: u64::try_from(stat.num_threads).unwrap_or(0),
        started_s: boot + span(stat.starttime).as_secs(),
    })
}

#[cfg(not(target_os = "linux"))]
fn read() -> Result<ProcessUsage, String> {
    Err("not on this system".to_owned())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_measured() {
        let usage = usage().unwrap();
        assert_eq!(usage.pid, std::process::id());
        assert!(usage.resident > 100_000 && usage.virtual_bytes >= usage.resident, "{usage:?}");
        assert!(usage.open_files >= 3 && usage.open_files_max >= usage.open_files, "{usage:?}");
        let now = crate::env::Env::real().wall_ms() / 1_000;
        assert!(usage.threads > 0 && usage.started_s <= now + 1 && usage.started_s + 3_600 > now, "{usage:?}");
    }
}
