//! Consumer groups and transactional ids: each is handled by the broker that coordinates it.

use crate::client::Client;
use crate::requests::{check, text};
use crate::{AdminError, AdminResult, Committed, Each};
use kafka_protocol::messages as m;
use std::collections::BTreeMap;
use std::time::Duration;

/// Key types of FindCoordinator (KIP-699).
const GROUP: i8 = 0;
const TRANSACTIONAL_ID: i8 = 1;
/// The transaction timeout that is stored for a fenced id. Nobody begins a transaction with it.
const FENCED_TIMEOUT_MS: i32 = 10_000;
/// A transaction ends within two seconds, or its coordinator is in trouble.
const FENCE_TRIES: u32 = 10;
const FENCE_PAUSE: Duration = Duration::from_millis(200);

/// Deletes groups with their offsets (KIP-229). One that does not exist is no error.
pub async fn delete_groups(client: &Client, groups: &[String]) -> Each<()> {
    let coordinators = coordinators(client, groups).await;
    let mut answers = Vec::with_capacity(groups.len());
    for group in groups {
        let answer = match coordinator(&coordinators, group) {
            Ok(node) => delete_group(client, node, group).await,
            Err(error) => Err(error),
        };
        answers.push(answer);
    }
    answers
}

/// What groups have committed. One that does not exist has committed nothing.
pub async fn committed_offsets(client: &Client, groups: &[String]) -> Each<Committed> {
    let coordinators = coordinators(client, groups).await;
    let mut answers = Vec::with_capacity(groups.len());
    for group in groups {
        let answer = match coordinator(&coordinators, group) {
            Ok(node) => committed(client, node, group).await,
            Err(error) => Err(error),
        };
        answers.push(answer);
    }
    answers
}

/// Removes static members from a group (KIP-345). One that is no member is no error.
pub async fn remove_members(client: &Client, group: &str, instances: &[String]) -> AdminResult<()> {
    let coordinators = coordinators(client, &[group.to_owned()]).await;
    let node = coordinator(&coordinators, group)?;
    let request = leave_request(group, instances);
    left(&client.send_to(node, &request, 5).await?)
}

fn leave_request(group: &str, instances: &[String]) -> m::LeaveGroupRequest {
    // Without a member id the instance id names the member.
    let member = |instance: &String| {
        m::leave_group_request::MemberIdentity::default()
            .with_group_instance_id(Some(text(instance.as_str())))
    };
    m::LeaveGroupRequest::default()
        .with_group_id(m::GroupId(text(group)))
        .with_members(instances.iter().map(member).collect())
}

fn left(answer: &m::LeaveGroupResponse) -> AdminResult<()> {
    let is_gone = |error: &AdminError| error.is("UnknownMemberId") || error.is("GroupIdNotFound");
    let codes = answer.members.iter().map(|member| member.error_code);
    for code in codes.chain([answer.error_code]) {
        match check("LeaveGroup", code, None) {
            Err(error) if is_gone(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Fences producers by their transactional ids: the id gets a new epoch, and what an earlier one has
/// left open is aborted (KIP-98).
pub async fn fence_producers(client: &Client, ids: &[String]) -> AdminResult<()> {
    let coordinators = coordinators_of(client, TRANSACTIONAL_ID, ids).await;
    let mut result = Ok(());
    for id in ids {
        let fenced = match coordinator(&coordinators, id) {
            Ok(node) => fence(client, node, id).await,
            Err(error) => Err(error),
        };
        result = result.and(fenced);
    }
    result
}

/// While a transaction of the id is being ended, Kafka may not give it a new epoch yet: then it is
/// asked again, as Kafka's own client does.
async fn fence(client: &Client, node: i32, id: &str) -> AdminResult<()> {
    let mut tries = 1;
    loop {
        match fenced(&client.send_to(node, &fence_request(id), 2).await?) {
            Err(error) if error.is("ConcurrentTransactions") && tries < FENCE_TRIES => {
                tries += 1;
                tokio::time::sleep(FENCE_PAUSE).await;
            }
            other => return other,
        }
    }
}

fn fence_request(id: &str) -> m::InitProducerIdRequest {
    m::InitProducerIdRequest::default()
        .with_transactional_id(Some(m::TransactionalId(text(id))))
        .with_transaction_timeout_ms(FENCED_TIMEOUT_MS)
        .with_producer_id(m::ProducerId(-1))
        .with_producer_epoch(-1)
}

fn fenced(answer: &m::InitProducerIdResponse) -> AdminResult<()> {
    check("InitProducerId", answer.error_code, None)
}

type Coordinators = BTreeMap<String, AdminResult<i32>>;

fn coordinator(coordinators: &AdminResult<Coordinators>, group: &str) -> AdminResult<i32> {
    match coordinators {
        Err(error) => Err(error.clone()),
        Ok(coordinators) => coordinators.get(group).cloned().unwrap_or_else(|| {
            let why = format!("no broker coordinates {group}");
            Err(AdminError::Unavailable(why))
        }),
    }
}

/// The broker that coordinates each group.
async fn coordinators(client: &Client, groups: &[String]) -> AdminResult<Coordinators> {
    coordinators_of(client, GROUP, groups).await
}

/// The broker that coordinates each key of a type.
async fn coordinators_of(client: &Client, of: i8, keys: &[String]) -> AdminResult<Coordinators> {
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let request = m::FindCoordinatorRequest::default()
        .with_key_type(of)
        .with_coordinator_keys(keys.iter().map(|key| text(key.as_str())).collect());
    let answer = client.send(&request, 4).await?;
    let found = answer.coordinators.into_iter().map(|one| {
        let node = check(
            "FindCoordinator",
            one.error_code,
            one.error_message.as_ref(),
        );
        (one.key.to_string(), node.map(|()| one.node_id.0))
    });
    Ok(found.collect())
}

async fn delete_group(client: &Client, node: i32, group: &str) -> AdminResult<()> {
    let request =
        m::DeleteGroupsRequest::default().with_groups_names(vec![m::GroupId(text(group))]);
    let answer = client.send_to(node, &request, 2).await?;
    for one in answer.results {
        match check("DeleteGroups", one.error_code, None) {
            Err(error) if error.is("GroupIdNotFound") => {}
            other => other?,
        }
    }
    Ok(())
}

async fn committed(client: &Client, node: i32, group: &str) -> AdminResult<Committed> {
    let asked = m::offset_fetch_request::OffsetFetchRequestGroup::default()
        .with_group_id(m::GroupId(text(group)))
        .with_topics(None);
    let request = m::OffsetFetchRequest::default().with_groups(vec![asked]);
    let answer = client.send_to(node, &request, 9).await?;
    let mut groups = answer.groups.into_iter();
    match groups.find(|found| *found.group_id.0 == *group) {
        Some(found) => offsets_of(&found),
        None => Err(AdminError::Protocol("OffsetFetch without the group".into())),
    }
}

fn offsets_of(
    found: &m::offset_fetch_response::OffsetFetchResponseGroup,
) -> AdminResult<Committed> {
    match check("OffsetFetch", found.error_code, None) {
        Err(error) if error.is("GroupIdNotFound") => return Ok(Committed::new()),
        other => other?,
    }
    let mut committed = Committed::new();
    for topic in &found.topics {
        for partition in &topic.partitions {
            check("OffsetFetch", partition.error_code, None)?;
            // -1: nothing was committed.
            if partition.committed_offset >= 0 {
                let place = (topic.name.0.to_string(), partition.partition_index);
                committed.insert(place, partition.committed_offset);
            }
        }
    }
    Ok(committed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::topic_name;
    use m::offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
    };

    fn answer(partitions: &[(i32, i64, i16)]) -> OffsetFetchResponseGroup {
        let partition = |(index, offset, error): &(i32, i64, i16)| {
            OffsetFetchResponsePartitions::default()
                .with_partition_index(*index)
                .with_committed_offset(*offset)
                .with_error_code(*error)
        };
        let topic = OffsetFetchResponseTopics::default()
            .with_name(topic_name("t"))
            .with_partitions(partitions.iter().map(partition).collect());
        OffsetFetchResponseGroup::default().with_topics(vec![topic])
    }

    #[test]
    fn a_partition_without_a_committed_offset_is_left_out() {
        let found = offsets_of(&answer(&[(0, 7, 0), (1, -1, 0), (2, 0, 0)])).unwrap();
        let expected = [(("t".to_owned(), 0), 7), (("t".to_owned(), 2), 0)];
        assert_eq!(found, expected.into());
    }

    #[test]
    fn a_member_leaves_by_its_instance_and_one_that_is_gone_has_left() {
        let request = leave_request("g", &["g.3".to_owned()]);
        let [member] = &request.members[..] else {
            panic!("{request:?}");
        };
        assert_eq!(member.group_instance_id.as_deref(), Some("g.3"));
        assert!(member.member_id.is_empty());
        let answer = |of_group, of_member| {
            let member = m::leave_group_response::MemberResponse::default();
            m::LeaveGroupResponse::default()
                .with_error_code(of_group)
                .with_members(vec![member.with_error_code(of_member)])
        };
        assert!(left(&answer(0, 0)).is_ok());
        assert!(left(&answer(0, 25)).is_ok(), "no such member");
        assert!(left(&answer(16, 0)).is_err(), "not the coordinator");
    }

    #[test]
    fn a_producer_is_fenced_by_its_id_and_what_it_left_open_is_no_error() {
        let request = fence_request("g.3");
        assert_eq!(
            request.transactional_id.as_ref().map(|id| &*id.0),
            Some("g.3")
        );
        // Of no known producer: the coordinator gives the id the next epoch.
        assert_eq!((request.producer_id.0, request.producer_epoch), (-1, -1));
        assert!(request.transaction_timeout_ms > 0);
        let answer = |code| m::InitProducerIdResponse::default().with_error_code(code);
        assert!(fenced(&answer(0)).is_ok());
        let ending = fenced(&answer(51)).unwrap_err();
        assert!(ending.is("ConcurrentTransactions"), "it is asked again");
        assert!(fenced(&answer(16)).is_err(), "not the coordinator");
    }

    #[test]
    fn an_unknown_group_has_committed_nothing_and_a_partial_answer_is_none() {
        let unknown = OffsetFetchResponseGroup::default().with_error_code(69);
        assert_eq!(offsets_of(&unknown).unwrap(), Committed::new());
        assert!(offsets_of(&answer(&[(0, 7, 0), (1, -1, 3)])).is_err());
    }
}
