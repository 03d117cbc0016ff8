//! A cluster as a target, through the client library.

use std::sync::Arc;

use crate::cli::bench::contexts::Contexts;
use crate::cli::bench::contexts::Start;
use crate::cli::bench::data;
use crate::cli::bench::mix::Kind;
use crate::cli::bench::target::Answer;
use crate::cli::bench::target::Problem;
use crate::cli::bench::target::Target;
use crate::cli::bench::workload::Operation;
use crate::client::CausalContext;
use crate::client::Client;
use crate::client::ClientError;
use crate::client::Found;
use crate::client::GetOptions;
use crate::client::PutOptions;
use crate::client::ScanOptions;
use crate::types::Consistency;
use crate::wire::rpc::ServeError;

/// One client of a cluster.
#[derive(Debug)]
pub(super) struct ClusterTarget {
    pub(super) client: Client,
    pub(super) r: Option<Consistency>,
    pub(super) w: Option<Consistency>,
    /// `None` when writes carry no contexts.
    pub(super) contexts: Option<Arc<Contexts>>,
}

impl Target for ClusterTarget {
    async fn perform(&self, operation: Operation) -> Result<Answer, Problem> {
        match operation.kind {
            Kind::Get => self.get(&operation).await.map(|(_, answer)| answer),
            Kind::Put | Kind::Insert => self.put(operation).await,
            Kind::Scan => self.scan(operation).await,
            Kind::ReadModifyWrite => {
                let (found, answer) = self.get(&operation).await?;
                self.write(operation, found.context).await?;
                Ok(answer)
            }
        }
    }
}

impl ClusterTarget {
    async fn get(&self, operation: &Operation) -> Result<(Found, Answer), Problem> {
        let options = GetOptions { r: self.r, ..GetOptions::default() };
        let found = self.client.get_with(operation.key.clone(), options).await.map_err(problem)?;
        if let Some(contexts) = &self.contexts {
            contexts.read(operation.number, &found.context);
        }
        if found.siblings.iter().any(|sibling| !data::is_of(operation.number, &sibling.value)) {
            let text = format!("key {} returned a value that bench never wrote under it", operation.number);
            return Err(Problem { kind: "wrong-value", text });
        }
        let answer = Answer { missing: !found.exists(), siblings: found.siblings.len() > 1, ..Answer::default() };
        Ok((found, answer))
    }

    async fn put(&self, operation: Operation) -> Result<Answer, Problem> {
        let Some(contexts) = &self.contexts else {
            return self.write(operation, CausalContext::default()).await.map(|_| Answer::default());
        };
        let number = operation.number;
        let Start { context, settle } = contexts.begin(number);
        let written = async {
            let context = if settle { self.get(&operation).await?.0.context } else { context };
            self.write(operation, context).await
        }
        .await;
        contexts.wrote(number, written.as_ref().ok());
        written.map(|_| Answer { settled: settle, ..Answer::default() })
    }

    async fn write(&self, operation: Operation, context: CausalContext) -> Result<CausalContext, Problem> {
        let options = PutOptions { context, w: self.w, ..PutOptions::default() };
        let written = self.client.put(operation.key, operation.value, options).await.map_err(problem)?;
        Ok(written.context)
    }

    async fn scan(&self, operation: Operation) -> Result<Answer, Problem> {
        let page = u32::try_from(operation.limit).unwrap_or(u32::MAX);
        let options = ScanOptions { r: self.r, page, ..ScanOptions::default() };
        let mut scan = self.client.scan(operation.key, options);
        let (mut met, mut answer) = (0, Answer::default());
        while met < operation.limit
            && let Some((_, found)) = scan.next().await.map_err(problem)?
        {
            met += 1;
            answer.siblings |= found.siblings.len() > 1;
        }
        answer.missing = met == 0;
        Ok(answer)
    }
}

/// Names the kind of an error by what can be done about it.
pub(super) fn problem(error: ClientError) -> Problem {
    let kind = match &error {
        ClientError::Quorum(_) => "quorum",
        ClientError::Unreachable(unreachable) if unreachable.timed_out => "timeout",
        ClientError::Unreachable(_) => "unreachable",
        ClientError::Rejected(ServeError::Limit(_)) => "limit",
        ClientError::Rejected(ServeError::Forbidden(_)) => "forbidden",
        ClientError::Rejected(ServeError::Deadline(_)) => "timeout",
        ClientError::Uncertain(_) => "uncertain",
        ClientError::Refused(_) => "refused",
        other if other.is_retryable() => "unavailable",
        _ => "rejected",
    };
    Problem { kind, text: error.to_string() }
}
