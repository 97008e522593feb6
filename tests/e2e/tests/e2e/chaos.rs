//! Chaos: Topics and Users come, change and go at random while the operator is killed every few seconds, begins with lists
//! that are old and misses events, and somebody else changes things in Kafka behind its back. At the end Kafka equals the objects exactly, and what is nobody's is as
//! it was.
//!
//! A second operator, a process on this machine with a namespace and a cluster of its own, is the one that dies.

use crate::kafka;
use crate::load;
use crate::world::{LONG, Operator, kafka_image, kubectl, namespace, small_cluster, super_admin};
use freehold::kafka::acl::AclBinding;
use freehold::kafka::config::Configs;
use freehold::kafka::grants;
use freehold::kafka_admin::client::Client as Bare;
use freehold::kafka_admin::{Admin, ConfigResource, NewTopic, QuotaChange, ScramChange};
use freehold::kinds::drift::was_settled;
use freehold::kinds::topic::api::Topic;
use freehold::kinds::user::api::User;
use freehold::kinds::user::desired;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const NAMESPACE: &str = "chaos";
const TOPICS: u32 = 500;
const USERS: u32 = 200;
/// In `cargo xtask soak` twice as long.
const DURATION: Duration = Duration::from_secs(150);
/// What must come to rest after the last kill.
const REST_LIMIT: Duration = Duration::from_secs(300);
/// Between two changes of objects, and between two behind the operator's back.
const CHURN_PAUSE: Duration = Duration::from_millis(25);
const BEHIND_PAUSE: Duration = Duration::from_millis(150);

#[test]
#[ignore = "needs the ground: cargo xtask test"]
fn chaos_ends_with_kafka_equal_to_the_objects_and_with_what_is_nobodys_untouched() {
    let kubectl = kubectl();
    let image = kafka_image(&kubectl);
    namespace(&kubectl, NAMESPACE);
    kubectl.apply(&small_cluster("chaos", NAMESPACE, "4.3.1", "  deletionPolicy: Delete\n").replace("heap: 320Mi", "heap: 400Mi")).unwrap();
    let operator = Operator::start(NAMESPACE, "chaos", &image, &[]);
    kubectl.wait_ready("kafkacluster", NAMESPACE, "chaos", LONG).unwrap();
    let bare = || super_admin(&kubectl, NAMESPACE, "chaos");
    let (admin, behind) = (bare(), bare());
    let duration = if load::soaks() { 2 * DURATION } else { DURATION };
    let seed: u64 = rand::rng().random();
    println!("chaos: seed {seed}");
    let deaths = crate::world::block_on(async {
        let client = Client::try_default().await.unwrap();
        let objects = Objects::new(&client);
        make_foreign(&admin).await;
        let foreign = foreign_state(&admin).await;
        let over = AtomicBool::new(false);
        let (operator, deaths) = tokio::join!(
            async {
                let churn = churn(&objects, StdRng::seed_from_u64(seed), &over);
                let meddle = meddle(&behind, StdRng::seed_from_u64(seed + 1), &over);
                let clock = async {
                    tokio::time::sleep(duration).await;
                    over.store(true, Ordering::Relaxed);
                };
                let (changes, meddled, ()) = tokio::join!(churn, meddle, clock);
                println!("chaos: {changes} changes of objects, {meddled} behind the operator's back");
            },
            kill_again_and_again(&client, operator, &image, StdRng::seed_from_u64(seed + 2), &over)
        );
        let () = operator;
        let (_operator, deaths) = deaths;
        let start = Instant::now();
        loop {
            let why = match compare(&objects, &admin).await {
                Ok((topics, users)) => {
                    println!("chaos: {topics} Topics and {users} Users equal Kafka {:.1} s after the end", start.elapsed().as_secs_f64());
                    assert!(topics > 50 && users > 20, "hardly anything was left to compare: {topics} Topics, {users} Users");
                    break;
                }
                Err(why) => why,
            };
            assert!(start.elapsed() < REST_LIMIT, "Kafka is not as the objects say: {why}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        assert_eq!(foreign_state(&admin).await, foreign, "what was nobody's was touched");
        objects.delete_all().await;
        let start = Instant::now();
        while !objects.are_gone().await {
            assert!(start.elapsed() < REST_LIMIT, "objects that were deleted are not gone");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(foreign_state(&admin).await, foreign, "what was nobody's was touched by the deletion");
        let left = admin.describe_topics().await.unwrap();
        let left: Vec<_> =
            left.iter().map(|topic| topic.name.as_str()).filter(|name| !is_foreign(name) && !name.starts_with("__")).collect();
        assert!(left.is_empty(), "{left:?} are left");
        kubectl.delete("kafkacluster", NAMESPACE, "chaos", LONG).unwrap();
        deaths
    });
    println!("chaos: the operator was killed {deaths} times");
    assert!(u64::from(deaths) > duration.as_secs() / 10);
    kubectl.delete("namespace", "", NAMESPACE, LONG).unwrap();
}

struct Objects {
    topics: Api<Topic>,
    users: Api<User>,
}

fn topic_name(index: u32) -> String {
    format!("topic-{index:03}")
}

fn user_name(index: u32) -> String {
    format!("user-{index:03}")
}

fn is_foreign(name: &str) -> bool {
    name.starts_with("foreign-")
}

fn topic_spec(random: &mut StdRng) -> Value {
    let mut config = BTreeMap::from([("retention.ms".to_owned(), random.random_range(3_600_000..9_000_000).to_string())]);
    if random.random_bool(0.5) {
        config.insert("max.message.bytes".into(), random.random_range(1000..9000).to_string());
    }
    json!({"clusterRef": {"name": "chaos"}, "partitions": random.random_range(1..3), "config": config})
}

fn user_spec(random: &mut StdRng) -> Value {
    let topic = format!("topic-{:03}", random.random_range(0..TOPICS));
    let mut grants = vec![json!({"produce": {"topics": [topic]}})];
    if random.random_bool(0.5) {
        grants.push(json!({"consume": {"topics": ["topic-*"], "groups": [format!("group-{}", random.random_range(0..9))]}}));
    }
    let quotas =
        if random.random_bool(0.4) { json!({"producerByteRate": format!("{}Ki", random.random_range(100..900))}) } else { json!({}) };
    let kind = if random.random_bool(0.8) { "ScramSha512" } else { "MutualTls" };
    json!({"clusterRef": {"name": "chaos"}, "authentication": {"type": kind}, "grants": grants, "quotas": quotas})
}

impl Objects {
    fn new(client: &Client) -> Self {
        Self { topics: Api::namespaced(client.clone(), NAMESPACE), users: Api::namespaced(client.clone(), NAMESPACE) }
    }

    async fn create_topic(&self, name: &str, spec: Value) -> kube::Result<()> {
        let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "Topic", "metadata": {"name": name}, "spec": spec});
        self.topics.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.map(|_| ())
    }

    async fn create_user(&self, name: &str, spec: Value) -> kube::Result<()> {
        let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "User", "metadata": {"name": name}, "spec": spec});
        self.users.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.map(|_| ())
    }

    async fn delete_all(&self) {
        self.topics.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        self.users.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    }

    async fn are_gone(&self) -> bool {
        let none = ListParams::default();
        self.topics.list_metadata(&none).await.unwrap().items.is_empty() && self.users.list_metadata(&none).await.unwrap().items.is_empty()
    }
}

/// Changes objects at random until it is over; gives the number of changes. A refusal (it is there, it is gone, it would
/// lose partitions) is part of the game.
async fn churn(objects: &Objects, mut random: StdRng, over: &AtomicBool) -> u32 {
    let mut changes = 0;
    let params = PatchParams::default();
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(CHURN_PAUSE).await;
        let roll: f64 = random.random();
        let done = if random.random_bool(0.7) {
            let name = topic_name(random.random_range(0..TOPICS));
            if roll < 0.5 {
                objects.create_topic(&name, topic_spec(&mut random)).await
            } else if roll < 0.85 {
                let spec = json!({"spec": topic_spec(&mut random)});
                objects.topics.patch(&name, &params, &Patch::Merge(&spec)).await.map(|_| ())
            } else {
                objects.topics.delete(&name, &DeleteParams::default()).await.map(|_| ())
            }
        } else {
            let name = user_name(random.random_range(0..USERS));
            if roll < 0.5 {
                objects.create_user(&name, user_spec(&mut random)).await
            } else if roll < 0.85 {
                let spec = json!({"spec": user_spec(&mut random)});
                objects.users.patch(&name, &params, &Patch::Merge(&spec)).await.map(|_| ())
            } else {
                objects.users.delete(&name, &DeleteParams::default()).await.map(|_| ())
            }
        };
        changes += u32::from(done.is_ok());
    }
    changes
}

/// Somebody else with rights on the cluster; gives the number of changes that Kafka took.
async fn meddle(admin: &Bare, mut random: StdRng, over: &AtomicBool) -> u32 {
    let mut changes = 0;
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(BEHIND_PAUSE).await;
        let (topic, user) = (topic_name(random.random_range(0..TOPICS)), user_name(random.random_range(0..USERS)));
        let done = match random.random_range(0..6) {
            0 => {
                let change = BTreeMap::from([
                    ("retention.ms".to_owned(), Some("1111".to_owned())),
                    ("segment.ms".to_owned(), Some("99999".to_owned())),
                ]);
                admin.alter_configs(&[(ConfigResource::Topic(topic), change)]).await.remove(0)
            }
            1 => match kafka::topic(admin, &topic).await {
                Ok(Some(found)) => admin.delete_topics(&[found.id]).await.remove(0),
                _ => continue,
            },
            2 => {
                let rule = grants::allow(&format!("User:{user}"), grants::TOPIC, &["foreign-*".to_owned()], &[grants::READ]);
                match kafka::acls(admin, Some(&format!("User:{user}"))).await {
                    // Only for those that exist: a principal that nobody has an object for would be nobody's.
                    Ok(acls) if !acls.is_empty() => admin.create_acls(&rule).await.remove(0),
                    _ => continue,
                }
            }
            3 => match kafka::acls(admin, Some(&format!("User:{user}"))).await {
                Ok(acls) if !acls.is_empty() => admin.delete_acls(&acls).await.remove(0),
                _ => continue,
            },
            4 => admin.alter_scram(&[ScramChange::Delete { user }]).await.remove(0),
            _ => match kafka::acls(admin, Some(&format!("User:{user}"))).await {
                Ok(acls) if !acls.is_empty() => {
                    let quotas = BTreeMap::from([("consumer_byte_rate".to_owned(), Some(1234.0))]);
                    admin.alter_quotas(&[QuotaChange { user, quotas }]).await.remove(0)
                }
                _ => continue,
            },
        };
        changes += u32::from(done.is_ok());
    }
    changes
}

/// Kills the operator every few seconds and starts it again: with lists of before the last life, or deaf again and again, or
/// both, or neither. Gives the last one and how often.
async fn kill_again_and_again(client: &Client, first: Operator, image: &str, mut random: StdRng, over: &AtomicBool) -> (Operator, u32) {
    let (mut operator, mut deaths) = (first, 0);
    let topics = Api::<Topic>::namespaced(client.clone(), NAMESPACE);
    while !over.load(Ordering::Relaxed) {
        let old = topics.list_metadata(&ListParams::default().limit(1)).await.unwrap().metadata.resource_version.unwrap();
        let faults = [("FREEHOLD_FAULT_LISTS_AT", old.as_str()), ("FREEHOLD_FAULT_DEAF_SECONDS", "1")];
        let faults: Vec<_> = faults.into_iter().filter(|_| random.random_bool(0.5)).collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(1500..7000))).await;
        drop(operator);
        deaths += 1;
        operator = Operator::start(NAMESPACE, "chaos", image, &faults);
    }
    (operator, deaths)
}

/// Topics, rules, credentials and quotas that are nobody's.
async fn make_foreign(admin: &Bare) {
    let config = BTreeMap::from([("retention.ms".to_owned(), "7777777".to_owned())]);
    let topics: Vec<_> =
        (0..20).map(|index| NewTopic { name: format!("foreign-{index}"), partitions: 2, replicas: 1, config: config.clone() }).collect();
    let principals: Vec<String> = (0..10).map(|index| format!("foreign-{index}")).collect();
    let rules: Vec<AclBinding> = principals
        .iter()
        .flat_map(|name| grants::allow(&format!("User:{name}"), grants::TOPIC, &["topic-*".to_owned()], &[grants::READ]))
        .collect();
    let credentials: Vec<_> = principals
        .iter()
        .map(|name| ScramChange::Upsert { user: name.clone(), iterations: 4096, salt: vec![1; 32], salted_password: vec![2; 64] })
        .collect();
    let quotas: Vec<_> = principals
        .iter()
        .map(|name| QuotaChange { user: name.clone(), quotas: BTreeMap::from([("producer_byte_rate".to_owned(), Some(1e6))]) })
        .collect();
    let results = admin.create_topics(&topics).await.into_iter().chain(admin.create_acls(&rules).await);
    let results = results.chain(admin.alter_scram(&credentials).await).chain(admin.alter_quotas(&quotas).await);
    results.for_each(|result| result.unwrap());
    let start = Instant::now();
    loop {
        let (topics, _, acls, scram, quotas) = foreign_state(admin).await;
        if [topics.len(), acls.len(), scram.len(), quotas.len()] == [20, 10, 10, 10] {
            return;
        }
        assert!(start.elapsed() < LONG, "what is nobody's does not appear");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

type Foreign = (Vec<(String, String, usize)>, BTreeMap<String, BTreeMap<String, String>>, Vec<AclBinding>, Vec<String>, Vec<String>);

async fn foreign_state(admin: &Bare) -> Foreign {
    let topics = admin.describe_topics().await.unwrap();
    let mut topics: Vec<_> = topics
        .into_iter()
        .filter(|topic| is_foreign(&topic.name))
        .map(|topic| (topic.name, topic.id.to_string(), topic.partitions.len()))
        .collect();
    topics.sort();
    let names: Vec<String> = topics.iter().map(|(name, ..)| name.clone()).collect();
    let configs = kafka::configs(admin, &names).await.unwrap();
    let acls = kafka::acls(admin, None).await.unwrap().into_iter().filter(|acl| acl.principal.starts_with("User:foreign-")).collect();
    let scram = kafka::scram_users(admin).await.unwrap().into_keys().filter(|name| is_foreign(name)).collect();
    let quotas = kafka::quotas(admin).await.unwrap().into_iter().filter(|(name, _)| is_foreign(name));
    (topics, configs, acls, scram, quotas.map(|quota| format!("{quota:?}")).collect())
}

/// Kafka against the objects; the number of Topics and Users, or the first thing that differs.
async fn compare(objects: &Objects, admin: &Bare) -> Result<(usize, usize), String> {
    let all = ListParams::default();
    let (topics, users) = (objects.topics.list(&all).await.unwrap().items, objects.users.list(&all).await.unwrap().items);
    let mut found: BTreeMap<String, _> =
        admin.describe_topics().await.map_err(|error| error.to_string())?.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
    found.retain(|name, _| !is_foreign(name) && !name.starts_with("__"));
    let names: Vec<String> = found.keys().cloned().collect();
    let mut configs = kafka::configs(admin, &names).await.map_err(|error| error.to_string())?;
    for topic in &topics {
        let name = topic.name_any();
        let status = topic.status.clone().unwrap_or_default();
        if topic.metadata.deletion_timestamp.is_some() || !was_settled(&status.conditions, topic.metadata.generation) {
            return Err(format!("Topic {name} is not Ready: {:?}", status.conditions));
        }
        let Some(there) = found.remove(&name) else { return Err(format!("topic {name} is not there")) };
        let config: Configs = configs.remove(&name).unwrap_or_default().into();
        if there.partitions.len() != usize::try_from(topic.spec.partitions).unwrap() || topic.spec.config != config {
            return Err(format!("topic {name}: {} partitions, {config:?}, but {:?}", there.partitions.len(), topic.spec));
        }
    }
    if let Some(name) = found.keys().next() {
        return Err(format!("topic {name} has no Topic"));
    }
    let mut acls: BTreeMap<String, Vec<AclBinding>> = BTreeMap::new();
    for acl in kafka::acls(admin, None).await.map_err(|error| error.to_string())? {
        acls.entry(acl.principal.trim_start_matches("User:").to_owned()).or_default().push(acl);
    }
    let mut scram = kafka::scram_users(admin).await.map_err(|error| error.to_string())?;
    let mut quotas = kafka::quotas(admin).await.map_err(|error| error.to_string())?;
    for user in &users {
        let name = user.name_any();
        let status = user.status.clone().unwrap_or_default();
        if user.metadata.deletion_timestamp.is_some() || !was_settled(&status.conditions, user.metadata.generation) {
            return Err(format!("User {name} is not Ready: {:?}", status.conditions));
        }
        let kind = serde_json::to_value(user.spec.authentication.kind).unwrap();
        let differs = acls.remove(&name).unwrap_or_default() != desired::acls(user, &name)
            || scram.remove(&name).is_some() != (kind == "ScramSha512")
            || quotas.remove(&name).unwrap_or_default().len() != usize::from(user.spec.quotas.producer_byte_rate.is_some());
        if differs {
            return Err(format!("User {name}: Kafka has other rights, credentials or quotas"));
        }
    }
    let left = acls.into_keys().chain(scram.into_keys()).chain(quotas.into_keys()).find(|name| !is_foreign(name));
    left.map_or(Ok((topics.len(), users.len())), |name| Err(format!("principal {name} has no User")))
}
