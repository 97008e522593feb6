//! Builds parts of requests, and turns Kafka's error codes into results.

use super::{AdminError, AdminResult, ConfigChanges, ConfigResource, FolderMove};
use freehold_kafka::acl::AclBinding;
use freehold_kafka::metadata_record::{BROKER_RESOURCE, TOPIC_RESOURCE};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages as m;
use kafka_protocol::messages::TopicName;
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;

/// A string of the protocol.
pub fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}

/// A topic name of the protocol.
pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Kafka's error code as a result.
pub fn check(api: &'static str, code: i16, message: Option<&StrBytes>) -> AdminResult<()> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => Err(AdminError::Refused {
            api,
            error: format!("{error:?}"),
            retriable: error.is_retriable(),
            message: message.map(|message| message.to_string()),
        }),
    }
}

/// The part of a CreateAcls request for one ACL.
pub fn acl_creation(acl: &AclBinding) -> m::create_acls_request::AclCreation {
    m::create_acls_request::AclCreation::default()
        .with_resource_type(acl.resource_type)
        .with_resource_name(text(&acl.resource_name))
        .with_resource_pattern_type(acl.pattern_type)
        .with_principal(text(&acl.principal))
        .with_host(text(&acl.host))
        .with_operation(acl.operation)
        .with_permission_type(acl.permission)
}

/// The moves between log folders, grouped by folder and topic as the request requires.
pub fn alter_folders_request(moves: &[FolderMove]) -> m::AlterReplicaLogDirsRequest {
    use m::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
    let mut folders: BTreeMap<&str, BTreeMap<&str, Vec<i32>>> = BTreeMap::new();
    for one in moves {
        folders
            .entry(&one.folder)
            .or_default()
            .entry(&one.topic)
            .or_default()
            .push(one.partition);
    }
    let topic = |(name, partitions): (&str, Vec<i32>)| {
        AlterReplicaLogDirTopic::default()
            .with_name(topic_name(name))
            .with_partitions(partitions)
    };
    let folder = |(path, topics): (&str, BTreeMap<&str, Vec<i32>>)| {
        AlterReplicaLogDir::default()
            .with_path(text(path))
            .with_topics(topics.into_iter().map(topic).collect())
    };
    m::AlterReplicaLogDirsRequest::default().with_dirs(folders.into_iter().map(folder).collect())
}

/// A request for all ACLs on resources with a name, whatever their type, principal and operation.
pub fn acls_named(name: &'static str) -> m::DescribeAclsRequest {
    // 1: any.
    m::DescribeAclsRequest::default()
        .with_resource_type_filter(1)
        .with_resource_name_filter(Some(StrBytes::from_static_str(name)))
        .with_pattern_type_filter(1)
        .with_principal_filter(None)
        .with_host_filter(None)
        .with_operation(1)
        .with_permission_type(1)
}

/// A filter of a DeleteAcls request that matches exactly this ACL.
pub fn acl_filter(acl: &AclBinding) -> m::delete_acls_request::DeleteAclsFilter {
    m::delete_acls_request::DeleteAclsFilter::default()
        .with_resource_type_filter(acl.resource_type)
        .with_resource_name_filter(Some(text(&acl.resource_name)))
        .with_pattern_type_filter(acl.pattern_type)
        .with_principal_filter(Some(text(&acl.principal)))
        .with_host_filter(Some(text(&acl.host)))
        .with_operation(acl.operation)
        .with_permission_type(acl.permission)
}

/// The type and name of the resource in Kafka's encoding.
pub fn config_resource(resource: &ConfigResource) -> (i8, String) {
    match resource {
        ConfigResource::Topic(topic) => (TOPIC_RESOURCE, topic.clone()),
        ConfigResource::Brokers => (BROKER_RESOURCE, String::new()),
        ConfigResource::Broker(id) => (BROKER_RESOURCE, id.to_string()),
    }
}

/// The IncrementalAlterConfigs request for these changes (KIP-339).
pub fn alter_configs_request(
    changes: &[&(ConfigResource, ConfigChanges)],
) -> m::IncrementalAlterConfigsRequest {
    use m::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let resources = changes.iter().map(|(resource, changes)| {
        // KIP-339: 0 sets, 1 deletes.
        let configs = changes.iter().map(|(key, value)| {
            AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(i8::from(value.is_none()))
                .with_value(value.as_deref().map(text))
        });
        let (kind, name) = config_resource(resource);
        AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configs(configs.collect())
    });
    m::IncrementalAlterConfigsRequest::default().with_resources(resources.collect())
}

/// The result for one resource of an IncrementalAlterConfigs response.
pub fn altered(
    result: &m::incremental_alter_configs_response::AlterConfigsResourceResponse,
) -> AdminResult<()> {
    check(
        "IncrementalAlterConfigs",
        result.error_code,
        result.error_message.as_ref(),
    )
}
