//! Reads the state of Kafka with its Describe requests, independently of how the operator reads it.

use freehold_kafka::acl::AclBinding;
use freehold_kafka_client::client::Client;
use freehold_kafka_client::{AdminError, AdminResult, TopicDescription};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn check(api: &'static str, code: i16) -> AdminResult<()> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => Err(AdminError::Refused {
            api,
            error: format!("{error:?}"),
            retriable: error.is_retriable(),
            message: None,
        }),
    }
}

/// A topic, by Metadata; `None` if it does not exist.
pub async fn topic(admin: &Client, name: &str) -> AdminResult<Option<TopicDescription>> {
    let asked = m::metadata_request::MetadataRequestTopic::default()
        .with_name(Some(m::TopicName(text(name))));
    let request = m::MetadataRequest::default()
        .with_topics(Some(vec![asked]))
        .with_allow_auto_topic_creation(false);
    let response = admin.send(&request, 12).await?;
    match check(
        "Metadata",
        response.topics.first().map_or(0, |topic| topic.error_code),
    ) {
        Err(error) if error.is("UnknownTopicOrPartition") => return Ok(None),
        other => other?,
    }
    Ok(admin
        .describe_topics()
        .await?
        .into_iter()
        .find(|topic| topic.name == name))
}

/// The configs that are set on topics themselves, by DescribeConfigs.
pub async fn configs(
    admin: &Client,
    topics: &[String],
) -> AdminResult<BTreeMap<String, BTreeMap<String, String>>> {
    let resource = |topic: &String| {
        m::describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text(topic))
            .with_configuration_keys(None)
    };
    let request =
        m::DescribeConfigsRequest::default().with_resources(topics.iter().map(resource).collect());
    let response = admin.send(&request, 4).await?;
    let mut all = BTreeMap::new();
    for result in &response.results {
        check("DescribeConfigs", result.error_code)?;
        // 1: the config is set on the topic itself.
        let set = result
            .configs
            .iter()
            .filter(|entry| entry.config_source == 1);
        let set = set.map(|entry| {
            (
                entry.name.to_string(),
                entry
                    .value
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            )
        });
        all.insert(result.resource_name.to_string(), set.collect());
    }
    Ok(all)
}

pub async fn config(admin: &Client, topic: &str) -> AdminResult<BTreeMap<String, String>> {
    Ok(configs(admin, &[topic.to_owned()])
        .await?
        .remove(topic)
        .unwrap_or_default())
}

/// All ACLs, or those of one principal, by DescribeAcls.
pub async fn acls(admin: &Client, principal: Option<&str>) -> AdminResult<Vec<AclBinding>> {
    // 1 means ANY in each filter.
    let request = m::DescribeAclsRequest::default()
        .with_resource_type_filter(1)
        .with_resource_name_filter(None)
        .with_pattern_type_filter(1)
        .with_principal_filter(principal.map(text))
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1);
    let response = admin.send(&request, 3).await?;
    check("DescribeAcls", response.error_code)?;
    let mut acls = Vec::new();
    for resource in &response.resources {
        acls.extend(resource.acls.iter().map(|acl| AclBinding {
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.to_string(),
            pattern_type: resource.pattern_type,
            principal: acl.principal.to_string(),
            host: acl.host.to_string(),
            operation: acl.operation,
            permission: acl.permission_type,
        }));
    }
    acls.sort_unstable();
    Ok(acls)
}

/// Users with a SCRAM credential and its iterations, by DescribeUserScramCredentials.
pub async fn scram_users(admin: &Client) -> AdminResult<BTreeMap<String, i32>> {
    let response = admin
        .send(
            &m::DescribeUserScramCredentialsRequest::default().with_users(None),
            0,
        )
        .await?;
    check("DescribeUserScramCredentials", response.error_code)?;
    let iterations = |result: &m::describe_user_scram_credentials_response::DescribeUserScramCredentialsResult| {
        Some((result.user.to_string(), result.credential_infos.first()?.iterations))
    };
    Ok(response.results.iter().filter_map(iterations).collect())
}

/// Quotas of users, by DescribeClientQuotas.
pub async fn quotas(admin: &Client) -> AdminResult<BTreeMap<String, BTreeMap<String, f64>>> {
    let component = m::describe_client_quotas_request::ComponentData::default()
        .with_entity_type(text("user"))
        .with_match_type(2)
        .with_match(None);
    let request = m::DescribeClientQuotasRequest::default()
        .with_components(vec![component])
        .with_strict(false);
    let response = admin.send(&request, 1).await?;
    check("DescribeClientQuotas", response.error_code)?;
    let mut all: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for entry in response.entries.iter().flatten() {
        let user = entry
            .entity
            .first()
            .and_then(|entity| entity.entity_name.as_ref())
            .map(ToString::to_string)
            .unwrap_or_default();
        all.entry(user).or_default().extend(
            entry
                .values
                .iter()
                .map(|value| (value.key.to_string(), value.value)),
        );
    }
    Ok(all)
}

/// A dynamic config for all brokers; `None` if it is not set.
pub async fn broker_config(admin: &Client, key: &str) -> AdminResult<Option<String>> {
    // 4: brokers; the empty name means all of them.
    let resource = m::describe_configs_request::DescribeConfigsResource::default()
        .with_resource_type(4)
        .with_resource_name(text(""))
        .with_configuration_keys(Some(vec![text(key)]));
    let response = admin
        .send(
            &m::DescribeConfigsRequest::default().with_resources(vec![resource]),
            4,
        )
        .await?;
    let result = response
        .results
        .first()
        .ok_or_else(|| AdminError::Protocol("DescribeConfigs without a result".into()))?;
    check("DescribeConfigs", result.error_code)?;
    // 3: the cluster-wide dynamic config of brokers.
    let entry = result
        .configs
        .iter()
        .find(|entry| &*entry.name == key && entry.config_source == 3);
    Ok(entry
        .and_then(|entry| entry.value.as_ref())
        .map(ToString::to_string))
}
