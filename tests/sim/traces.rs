//! One request as its traces show it: from the client through the coordinator to the storage of the replicas.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;

use dynamomini::client::PutOptions;
use tracing::Id;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::field::Visit;
use tracing::span::Attributes;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::cluster::Cluster;
use crate::network::Conditions;
use crate::world::Simulation;
use crate::world::simulate;

/// The spans that were begun: the names from the root on, with the fields of all of them.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(String, Fields)>>>);

#[derive(Clone, Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let parent = span.parent().and_then(|parent| parent.extensions().get::<(String, Fields)>().cloned());
        let (mut path, mut fields) = parent.unwrap_or_default();
        path.push('/');
        path.push_str(attributes.metadata().name());
        attributes.record(&mut fields);
        span.extensions_mut().insert((path.clone(), fields.clone()));
        self.0.lock().unwrap().push((path, fields));
    }
}

#[test]
fn a_request_is_one_tree_of_spans_at_the_client_and_at_each_node_under_one_number() {
    simulate(3, 0.0, |simulation: Simulation| async move {
        let spans = Spans::default();
        // With one subscriber alone, whoever first reaches a span on another thread, without any, would decide that nobody wants it.
        let _another = tracing::Dispatch::new(tracing_subscriber::registry());
        let _here = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
        let cluster = Cluster::start(simulation, Conditions::default(), 3).await;
        let client = cluster.client(1).await;
        client.put("key", "value", PutOptions::default()).await.unwrap();
        assert!(client.get("key").await.unwrap().exists());

        let spans = spans.0.lock().unwrap().clone();
        let operation = |verb: &str| {
            let is = |fields: &Fields| fields.0.get("verb").is_some_and(|of| of == verb);
            let mut found = spans.iter().filter(|(path, fields)| path == "/operation" && is(fields));
            let (_, fields) = found.next().expect("the operation has a span");
            assert!(found.next().is_none());
            assert_eq!(fields.0["namespace"], "default");
            fields.0["request"].clone()
        };
        let of = |number: &str| -> Vec<&str> {
            let of = |fields: &Fields| fields.0.get("request").is_some_and(|of| of == number);
            spans.iter().filter(|(_, fields)| of(fields)).map(|(path, _)| path.as_str()).collect()
        };
        let put = of(&operation("put"));
        for path in [
            "/operation/attempt",
            "/request/coordinate_put/storage_write",
            "/request/coordinate_put/peer_call",
            "/request/storage_write",
        ] {
            assert!(put.contains(&path), "{path} is not among {put:?}");
        }
        // One coordinates, two apply.
        assert_eq!(put.iter().filter(|path| **path == "/request").count(), 3, "{put:?}");
        let get = of(&operation("get"));
        for path in ["/operation/attempt", "/request/coordinate_get/peer_call", "/request/storage_read"] {
            assert!(get.contains(&path), "{path} is not among {get:?}");
        }
        assert!(
            spans.iter().any(|(path, _)| path == "/write_batch") && spans.iter().any(|(path, _)| path == "/read_batch")
        );
    });
}
