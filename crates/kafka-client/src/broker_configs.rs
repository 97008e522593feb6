//! Reads the configs that are in force at one broker. A config that was set may not have reached
//! the broker yet, and the configs that it was started with are not in the metadata log.

use super::AdminResult;
use super::client::Client;
use super::requests::{check, text};
use kafka_protocol::messages as m;
use std::collections::BTreeMap;

/// `ConfigResource.Type` of a broker.
const BROKER: i8 = 4;

impl Client {
    /// The values of a broker's configs.
    ///
    /// # Errors
    /// The broker does not answer, or refuses the request.
    pub async fn broker_configs(
        &self,
        broker: i32,
        keys: &[&str],
    ) -> AdminResult<BTreeMap<String, String>> {
        let resource = m::describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(BROKER)
            .with_resource_name(text(broker.to_string()))
            .with_configuration_keys(Some(keys.iter().map(|key| text(*key)).collect()));
        let response = self
            .send_to(
                broker,
                &m::DescribeConfigsRequest::default().with_resources(vec![resource]),
                4,
            )
            .await?;
        let mut found = BTreeMap::new();
        for result in &response.results {
            check(
                "DescribeConfigs",
                result.error_code,
                result.error_message.as_ref(),
            )?;
            let values = result.configs.iter().filter_map(|entry| {
                Some((entry.name.to_string(), entry.value.as_ref()?.to_string()))
            });
            found.extend(values);
        }
        Ok(found)
    }
}
