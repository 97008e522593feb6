//! The requests about principals: ACLs, SCRAM credentials and quotas.

use super::{Client, gone_is_fine, not_controller, ordered};
use crate::requests::{acl_creation, acl_filter, acls_named, check, text};
use crate::*;
use bytes::Bytes;
use freehold_kafka::grants;
use freehold_kafka::metadata_record::SCRAM_SHA_512;
use kafka_protocol::messages as m;
use std::collections::HashMap;

pub async fn create_acls(client: &Client, acls: &[AclBinding]) -> Each<()> {
    let request =
        m::CreateAclsRequest::default().with_creations(acls.iter().map(acl_creation).collect());
    client
        .each(acls.len(), &request, 3, |response| {
            not_controller(
                response
                    .results
                    .iter()
                    .map(|result| {
                        check(
                            "CreateAcls",
                            result.error_code,
                            result.error_message.as_ref(),
                        )
                    })
                    .collect(),
            )
        })
        .await
}

pub async fn delete_acls(client: &Client, acls: &[AclBinding]) -> Each<()> {
    let request =
        m::DeleteAclsRequest::default().with_filters(acls.iter().map(acl_filter).collect());
    client
        .each(acls.len(), &request, 3, |response| {
            let results = response.filter_results.iter();
            not_controller(
                results
                    .map(|result| {
                        check(
                            "DeleteAcls",
                            result.error_code,
                            result.error_message.as_ref(),
                        )
                    })
                    .collect(),
            )
        })
        .await
}

pub async fn would_be_refused(client: &Client, principal: &str) -> AdminResult<Vec<AclBinding>> {
    let request = acls_named(grants::SHADOW_MARK).with_principal_filter(Some(text(principal)));
    let nodes = client.endpoints.iter().chain(&client.controllers);
    let asked = nodes.map(|endpoint| client.send_to(endpoint.node_id, &request, 3));
    let mut refusals = Vec::new();
    for response in futures::future::try_join_all(asked).await? {
        check(
            "DescribeAcls",
            response.error_code,
            response.error_message.as_ref(),
        )?;
        for resource in response.resources {
            refusals.extend(resource.acls.iter().map(|acl| AclBinding {
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.to_string(),
                pattern_type: resource.pattern_type,
                principal: acl.principal.to_string(),
                host: acl.host.to_string(),
                operation: acl.operation,
                permission: acl.permission_type,
            }));
        }
    }
    Ok(refusals)
}

pub async fn alter_scram(client: &Client, changes: &[ScramChange]) -> Each<()> {
    use m::alter_user_scram_credentials_request::{
        ScramCredentialDeletion, ScramCredentialUpsertion,
    };
    let (mut upsertions, mut deletions, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for change in changes {
        match change {
            ScramChange::Upsert {
                user,
                iterations,
                salt,
                salted_password,
            } => {
                names.push(user.as_str());
                upsertions.push(
                    ScramCredentialUpsertion::default()
                        .with_name(text(user))
                        .with_mechanism(SCRAM_SHA_512)
                        .with_iterations(i32::try_from(*iterations).unwrap_or(i32::MAX))
                        .with_salt(Bytes::copy_from_slice(salt))
                        .with_salted_password(Bytes::copy_from_slice(salted_password)),
                );
            }
            ScramChange::Delete { user } => {
                names.push(user.as_str());
                deletions.push(
                    ScramCredentialDeletion::default()
                        .with_name(text(user))
                        .with_mechanism(SCRAM_SHA_512),
                );
            }
        }
    }
    let request = m::AlterUserScramCredentialsRequest::default()
        .with_upsertions(upsertions)
        .with_deletions(deletions);
    client
        .each(changes.len(), &request, 0, |response| {
            let results = response.results.iter();
            let found = results
                .map(|result| {
                    let checked = check(
                        "AlterUserScramCredentials",
                        result.error_code,
                        result.error_message.as_ref(),
                    );
                    (
                        result.user.to_string(),
                        gone_is_fine(checked, &["ResourceNotFound"]),
                    )
                })
                .collect();
            not_controller(ordered(names.iter().copied(), found))
        })
        .await
}

pub async fn alter_quotas(client: &Client, changes: &[QuotaChange]) -> Each<()> {
    use m::alter_client_quotas_request::{EntityData, EntryData, OpData};
    let entries = changes.iter().map(|change| {
        let entity = EntityData::default()
            .with_entity_type(text("user"))
            .with_entity_name(Some(text(&change.user)));
        let ops = change.quotas.iter().map(|(key, value)| {
            OpData::default()
                .with_key(text(key))
                .with_value(value.unwrap_or_default())
                .with_remove(value.is_none())
        });
        EntryData::default()
            .with_entity(vec![entity])
            .with_ops(ops.collect())
    });
    let request = m::AlterClientQuotasRequest::default().with_entries(entries.collect());
    client
        .each(changes.len(), &request, 1, |response| {
            let mut found = HashMap::new();
            for entry in &response.entries {
                let user = entry
                    .entity
                    .first()
                    .and_then(|entity| entity.entity_name.as_ref())
                    .map(ToString::to_string);
                found.insert(
                    user.unwrap_or_default(),
                    check(
                        "AlterClientQuotas",
                        entry.error_code,
                        entry.error_message.as_ref(),
                    ),
                );
            }
            not_controller(ordered(
                changes.iter().map(|change| change.user.as_str()),
                found,
            ))
        })
        .await
}
