//! `dynamomini bench` as its users meet it.

use serde_json::Value;

use crate::processes::Cluster;
use crate::processes::complaint;
use crate::processes::run;

/// Runs `bench` on a small data set, and reads its report.
async fn bench(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let config = cluster.dir().join("client.toml");
    let shared = ["--config", config.to_str().unwrap(), "--value-size", "uniform:24..900", "--json"];
    let (what, rest) = arguments.split_first().unwrap();
    let done = run(&[&["bench"], *what, rest.first().map_or(&[][..], |rest| *rest), &shared].concat()).await;
    let report = serde_json::from_slice(&done.stdout).unwrap_or(Value::Null);
    (done.status.code(), report, complaint(&done))
}
