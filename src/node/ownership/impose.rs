//! A change that one node decides alone, when most of those who own data are gone for good and no majority can agree any more.
//!
//! A node cannot tell a majority that is gone from one that is cut off and goes on, so an administrator has to say it, and it
//! is done only for a member that does not answer, and only while no majority does. If it was wrong, both sides take writes
//! until they hear of each other. Then all go by the layout that was imposed, since its version is the higher one
//! ([`Layout::imposed_by`]); those that it removed hand over what only they have, as every removed member does that comes back.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;

use crate::layout::{Change, ChangeError, Layout};
use crate::node::core::Core;
use crate::node::ownership::ask;
use crate::node::ownership::propose::{PATIENCE, ProposeError, spread};
use crate::types::NodeName;
use crate::wire::layout::LayoutRequest;
use crate::wire::rpc::ServeError;

/// Has the layout changed by this node alone: as `make` says, or, while the change before cannot be completed because of the
/// member that is given up, so that nothing is expected of that one any more.
pub(super) async fn impose(
    core: &Arc<Core>,
    change: &Change,
    make: impl Fn(&Layout) -> Result<Layout, ChangeError>,
) -> Result<Layout, ProposeError> {
    let known = core.view().layout().clone();
    let answering = answering(core, &known).await;
    check(&core.own_name(), change, &known, &answering)?;
    // What has become known meanwhile was agreed on by somebody.
    if core.view().version() > known.version {
        return Err(ChangeError::NotWithoutMajority("the layout has just changed: look at it again".to_owned()).into());
    }
    let wanted = match make(&known) {
        Err(ChangeError::Busy) => change.give_up(&known).map_err(|_| ChangeError::Busy)?,
        outcome => outcome?,
    };
    let imposed = wanted.imposed_by(core.id);
    tracing::warn!(
        change = change.describe(),
        version = imposed.version,
        answering = answering.len(),
        voters = known.voters().count(),
        "an administrator has the layout changed without a majority"
    );
    let undone = |error: ServeError| ProposeError::Undecided(error.to_string());
    core.ownership.adopt(core, imposed.clone()).await.map_err(undone)?;
    spread(core, &known, &imposed).await;
    Ok(imposed)
}

/// Who of the members answers.
async fn answering(core: &Arc<Core>, known: &Layout) -> BTreeSet<NodeName> {
    let own = core.own_name();
    let asked = known.members().into_keys().map(async |name| {
        let answers = *name == own || ask(core, name, LayoutRequest::Show, PATIENCE).await.is_ok();
        answers.then(|| name.clone())
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Whether this change may be imposed by `own` when these answer.
fn check(own: &NodeName, change: &Change, known: &Layout, answering: &BTreeSet<NodeName>) -> Result<(), ChangeError> {
    let Some(gone) = change.gives_up() else {
        let why = "it is for `remove` and `replace` of members that are gone for good; then a majority of those who are left can agree on anything else";
        return Err(ChangeError::NotWithoutMajority(why.to_owned()));
    };
    let voters: Vec<&NodeName> = known.voters().collect();
    if !voters.contains(&own) {
        return Err(ChangeError::NotWithoutMajority(format!("{own} owns no data; ask a node that does with --node")));
    }
    if answering.contains(gone) {
        return Err(ChangeError::NotWithoutMajority(format!("{gone} answers")));
    }
    let up = voters.iter().filter(|name| answering.contains(**name)).count();
    if up * 2 > voters.len() {
        let why = format!("{up} of {} members answer, which can agree on it: ask without it", voters.len());
        return Err(ChangeError::NotWithoutMajority(why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Placement, Role};
    use crate::types::Partitions;

    fn name(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    fn founded_by(names: &[&str]) -> Layout {
        let role = |seat: &&str| {
            let zone = "default".parse().unwrap();
            (name(seat), Role { quic: String::new(), zone, weight: 100, seat: name(seat) })
        };
        let (roles, partitions) = (names.iter().map(role).collect(), Partitions::new(64).unwrap());
        Layout::founding(Placement { roles, copies: Default::default(), partitions })
    }

    fn checked(own: &str, change: &Change, answering: &[&str]) -> Result<(), String> {
        let answering = answering.iter().map(|each| name(each)).collect();
        check(&name(own), change, &founded_by(&["a", "b", "c"]), &answering).map_err(|error| error.to_string())
    }

    #[test]
    fn only_members_that_do_not_answer_are_given_up_and_only_where_no_majority_does() {
        let remove = Change::Remove { name: name("c") };
        assert_eq!(checked("a", &remove, &["a"]), Ok(()));
        assert!(checked("a", &remove, &["a", "b"]).unwrap_err().contains("2 of 3 members answer"));
        assert!(checked("a", &remove, &["a", "c"]).unwrap_err().contains("c answers"));
        assert!(checked("d", &remove, &["d"]).unwrap_err().contains("d owns no data"));
        assert!(
            checked("a", &Change::Leave { name: name("c") }, &["a"]).unwrap_err().contains("`remove` and `replace`")
        );
    }
}
