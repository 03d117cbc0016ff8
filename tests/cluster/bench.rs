//! `dynamomini bench` as its users meet it.

use serde_json::Value;

use crate::processes::Cluster;
use crate::processes::complaint;
use crate::processes::run;

/// Runs `bench` with these arguments on a small data set; its exit status and its report.
async fn bench(cluster: &Cluster, arguments: &str) -> (Option<i32>, Value) {
    let config = cluster.client_config();
    let mut all: Vec<&str> = arguments.split(' ').collect();
    all.extend(["--config", &config, "--keys", "300", "--value-size", "uniform:24..900", "--json"]);
    let done = run(&all).await;
    let report = serde_json::from_slice(&done.stdout);
    (done.status.code(), report.unwrap_or_else(|error| panic!("{arguments}: {error}: {}", complaint(&done))))
}

#[tokio::test]
async fn a_data_set_is_filled_put_under_load_and_checked_through_every_node() {
    let cluster = Cluster::start(&["--storage", "memory"]).await;
    cluster.whole().await;
    let (code, empty) = bench(&cluster, "bench check").await;
    assert_eq!((code, &empty["passes"][0]["missing"]), (Some(1), &Value::from(300)), "{empty}");

    let (code, load) = bench(&cluster, "bench load").await;
    assert_eq!((code, &load["written"], &load["failed"]), (Some(0), &Value::from(300), &Value::from(0)), "{load}");
    let (code, check) = bench(&cluster, "bench check --every-node -r all").await;
    assert_eq!((code, check["passes"].as_array().unwrap().len()), (Some(0), 3), "{check}");
    assert!(check["passes"].as_array().unwrap().iter().all(|pass| pass["right"] == 300), "{check}");

    // Writes one after the other replace what was loaded, and are what a check expects.
    let (code, report) = bench(&cluster, "bench --mix put --in-flight 1 --count 200 --warmup 0s").await;
    assert_eq!((code, &report["all"]["operations"]), (Some(0), &Value::from(200)), "{report}");
    let (code, check) = bench(&cluster, "bench check").await;
    assert_eq!((code, &check["passes"][0]["right"]), (Some(0), &Value::from(300)), "{check}");

    let plot = cluster.dir().join("latency.svg");
    let line = format!("bench --mix ycsb-f --count 2000 --clients 2 --warmup 0s --plot {}", plot.display());
    let (code, report) = bench(&cluster, &line).await;
    assert_eq!(
        (code, &report["all"]["operations"], &report["errors"]),
        (Some(0), &Value::from(2_000), &Value::from(0)),
        "{report}"
    );
    let quantiles = ["min", "p50", "p90", "p99", "p99_9", "max"].map(|name| report["all"][name].as_f64().unwrap());
    assert!(quantiles.is_sorted() && quantiles[0] > 0.0, "{report}");
    let kinds = ["get", "rmw"].map(|kind| report["kinds"][kind]["operations"].as_u64().unwrap());
    assert!(kinds[0] + kinds[1] == 2_000 && kinds[0].abs_diff(1_000) < 200, "{report}");
    assert_eq!(report["processes"].as_array().unwrap().len(), 3, "{report}");
    assert!(report["processes"][0]["rss_bytes"].as_u64().unwrap() > 1 << 20, "{report}");
    assert!(report["node_cpu_s_per_1000"].as_f64().unwrap() > 0.0, "{report}");
    assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg "));

    for (line, count) in [
        ("bench --mix ycsb-e --count 20 --in-flight 2 --warmup 0s", 20),
        ("bench --mix ycsb-d --rate 50/s --duration 2s --warmup 0s", 100),
    ] {
        let (code, report) = bench(&cluster, line).await;
        assert_eq!((code, &report["all"]["operations"]), (Some(0), &Value::from(count)), "{line}: {report}");
    }
}

#[tokio::test]
async fn values_that_are_missing_wrong_or_concurrent_are_found() {
    let cluster = Cluster::start(&["--storage", "memory"]).await;
    cluster.whole().await;
    assert_eq!(bench(&cluster, "bench load").await.0, Some(0));
    let config = cluster.client_config();
    for line in ["delete key:000000000001", "put key:000000000002 nonsense", "delete key:000000000003"] {
        let line: Vec<&str> = line.split(' ').chain(["--config", &config, "-w", "all"]).collect();
        let done = run(&line).await;
        assert!(done.status.success(), "{}", complaint(&done));
    }
    let (code, check) = bench(&cluster, "bench check").await;
    let pass = &check["passes"][0];
    assert_eq!(
        (code, &pass["missing"], &pass["wrong"], &pass["right"]),
        (Some(1), &2.into(), &1.into(), &297.into()),
        "{check}"
    );
    assert!(pass["example"].as_str().unwrap().starts_with("key:000000000001 is missing"), "{check}");

    // Blind writes stand beside what is there; a load replaces all of it.
    let blind = "bench --mix put --blind --distribution sequential --count 300 --warmup 0s";
    assert_eq!(bench(&cluster, blind).await.0, Some(0));
    let (code, check) = bench(&cluster, "bench check").await;
    assert_eq!((code, &check["passes"][0]["siblings"]), (Some(1), &297.into()), "{check}");
    assert_eq!(bench(&cluster, "bench load").await.0, Some(0));
    let (code, check) = bench(&cluster, "bench check").await;
    assert_eq!((code, &check["passes"][0]["right"]), (Some(0), &300.into()), "{check}");

    // Another seed has other values under the same keys.
    let (code, check) = bench(&cluster, "bench check --seed 2").await;
    assert_eq!((code, &check["passes"][0]["wrong"]), (Some(1), &300.into()), "{check}");
}

#[tokio::test]
async fn a_load_that_fails_says_how_and_exits_with_1() {
    let mut cluster = Cluster::start(&["--storage", "memory"]).await;
    cluster.whole().await;
    cluster.kill(1).await;
    cluster.kill(2).await;
    let (code, report) = bench(&cluster, "bench --mix get --count 20 --in-flight 20 --warmup 0s --timeout 2s").await;
    assert_eq!((code, &report["errors"], &report["all"]), (Some(1), &20.into(), &Value::Null), "{report}");
    let kinds = report["error_kinds"].as_object().unwrap();
    let counts = kinds.values().map(|kind| kind["count"].as_u64().unwrap());
    assert!(counts.sum::<u64>() == 20 && kinds.values().all(|kind| kind["example"] != ""), "{report}");
    assert!(report["node_cpu_s_per_1000"].is_null(), "{report}");
}
