//! Chaos: Topics and Users are created, changed and deleted at random while the operator is killed
//! every few seconds, starts with old lists and misses events, and another client changes things
//! directly in Kafka. At the end Kafka matches the objects exactly, and what nobody manages is
//! unchanged.
//!
//! The operator that dies is a second one, a process on this machine with its own namespace and
//! cluster.

use crate::kafka;
use crate::load;
use crate::world::{
    LONG, Operator, asked, block_on, kafka_image, kubectl, namespace, small_cluster, super_admin,
};
use anyhow::{bail, ensure};
use freehold::api::topic::Topic;
use freehold::api::user::User;
use freehold::kinds::drift::was_settled;
use freehold::tenancy::ownership::owner_of;
use freehold::tenancy::rules;
use freehold_e2e::flow::stands_still;
use freehold_e2e::{promise, shell, verdict};
use freehold_kafka::acl::AclBinding;
use freehold_kafka::config::Configs;
use freehold_kafka::grants;
use freehold_kafka::ownership::{self, Owned};
use freehold_kafka_client::client::Client as Bare;
use freehold_kafka_client::{
    Admin, AdminResult, ConfigResource, NewTopic, QuotaChange, ScramChange,
};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const NAMESPACE: &str = "chaos";
const TOPICS: u32 = 500;
const USERS: u32 = 200;
/// How long the chaos lasts: the operator dies about seven times in it. On a busy machine it goes
/// on until enough has happened. In `cargo xtask soak` it lasts ten times as long.
const DURATION: Duration = Duration::from_secs(30);
/// After so many accepted changes, of objects there are more than the test compares at least.
const CHANGES_MIN: u32 = 300;
/// Time limit for everything to settle after the last kill.
const REST_LIMIT: Duration = Duration::from_secs(300);
/// Pause between two changes of objects, and between two changes in Kafka.
const CHURN_PAUSE: Duration = Duration::from_millis(25);
const BEHIND_PAUSE: Duration = Duration::from_millis(150);

#[test]
#[ignore = "needs the local cluster: cargo xtask test"]
fn chaos_ends_with_kafka_equal_to_the_objects_and_with_what_is_nobodys_untouched() {
    let kubectl = kubectl();
    let image = kafka_image(&kubectl);
    let _pods = namespace(&kubectl, NAMESPACE);
    kubectl
        .apply(
            &small_cluster("chaos", NAMESPACE, "4.3.1", "  deletionPolicy: Delete\n")
                .replace("heap: 320Mi", "heap: 400Mi"),
        )
        .unwrap();
    let operator = Operator::start(NAMESPACE, "chaos", &image, &[]);
    kubectl
        .wait_ready("kafkacluster", NAMESPACE, "chaos", LONG)
        .unwrap();
    let bare = || super_admin(&kubectl, NAMESPACE, "chaos");
    let (admin, behind) = (bare(), bare());
    let duration = if load::soaks() {
        10 * DURATION
    } else {
        DURATION
    };
    let seed: u64 = rand::rng().random();
    println!("chaos: seed {seed}");
    let objects = block_on(async { Objects::new(&Client::try_default().await.unwrap()) });
    block_on(make_foreign(&admin));
    shell::wait_for("what is nobody's to appear", LONG, || {
        let (topics, _, acls, scram, quotas) = block_on(foreign_state(&admin))?;
        let counts = [topics.len(), acls.len(), scram.len(), quotas.len()];
        Ok((counts != [20, 10, 10, 10]).then(|| format!("{counts:?}")))
    })
    .unwrap();
    let nobodys = || asked("what is nobody's", || block_on(foreign_state(&admin)));
    let foreign = nobodys();
    let progress = Progress::default();
    let ((), _operator) = block_on(async {
        tokio::join!(
            async {
                let churn = churn(&objects, StdRng::seed_from_u64(seed), &progress);
                let meddle = meddle(&behind, StdRng::seed_from_u64(seed + 1), &progress);
                let ((), meddled, ()) = tokio::join!(churn, meddle, progress.end(duration));
                let changes = progress.changes.load(Ordering::Relaxed);
                println!(
                    "chaos: {changes} changes of objects, {meddled} behind the operator's back"
                );
            },
            kill_again_and_again(
                &objects.topics,
                operator,
                &image,
                StdRng::seed_from_u64(seed + 2),
                &progress
            )
        )
    });
    equals(&objects, &admin);
    assert_eq!(nobodys(), foreign, "what was nobody's was touched");
    shell::wait_for("all objects to be deleted", REST_LIMIT, || {
        block_on(objects.delete_all())?;
        Ok(None)
    })
    .unwrap();
    shell::wait_for("the deleted objects to be gone", REST_LIMIT, || {
        let is_so = block_on(objects.are_gone())?;
        Ok((!is_so).then(|| "some are there".into()))
    })
    .unwrap();
    assert_eq!(
        nobodys(),
        foreign,
        "what was nobody's was touched by the deletion"
    );
    // The operator follows the controllers; the brokers, which are asked here, come after them.
    let waited = shell::wait_for("the topics to be gone", REST_LIMIT, || {
        let left = block_on(left(&admin))?;
        Ok((!left.is_empty()).then(|| format!("{left:?}")))
    });
    let some_left = || -> anyhow::Result<Vec<String>> {
        let left = block_on(left(&admin))?;
        ensure!(!left.is_empty(), "none is left by now");
        Ok(left)
    };
    promise!(
        waited.is_ok() || !stands_still(some_left),
        "topics without a Topic stay: {waited:?}"
    );
    waited.unwrap();
    kubectl
        .delete("kafkacluster", NAMESPACE, "chaos", LONG)
        .unwrap();
    let deaths = progress.deaths.load(Ordering::Relaxed);
    println!("chaos: the operator was killed {deaths} times");
    assert!(u64::from(deaths) > duration.as_secs() / 10);
    crate::world::leave(&kubectl, "namespace", "", NAMESPACE);
}

/// Waits until Kafka equals the objects. A difference that stays is a broken promise: the next run
/// has another seed, and would hide it.
fn equals(objects: &Objects, admin: &Bare) {
    let (start, mut equal) = (Instant::now(), (0, 0));
    let waited = shell::wait_for("Kafka to be as the objects say", REST_LIMIT, || {
        match block_on(compare(objects, admin)) {
            Ok(counts) => equal = counts,
            Err(why) => return Ok(Some(why)),
        }
        Ok(None)
    });
    let difference = || -> anyhow::Result<String> {
        match block_on(compare(objects, admin)) {
            Ok(_) => bail!("it is as they say by now"),
            Err(why) => Ok(why),
        }
    };
    promise!(
        waited.is_ok() || !stands_still(difference),
        "Kafka does not become what the objects say: {waited:?}"
    );
    waited.unwrap();
    let (topics, users) = equal;
    println!(
        "chaos: {topics} Topics and {users} Users equal Kafka {:.1} s after the end",
        start.elapsed().as_secs_f64()
    );
    assert!(
        topics > 50 && users > 20,
        "hardly anything was left to compare: {topics} Topics, {users} Users"
    );
}

/// What has happened in the chaos so far.
#[derive(Default)]
struct Progress {
    /// Changes of objects that were accepted.
    changes: AtomicU32,
    /// How often the operator was killed.
    deaths: AtomicU32,
    over: AtomicBool,
}

impl Progress {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Ends the chaos after this time, and not before enough has happened.
    async fn end(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
        let start = Instant::now();
        loop {
            let changes = self.changes.load(Ordering::Relaxed);
            let deaths = self.deaths.load(Ordering::Relaxed);
            if changes >= CHANGES_MIN && u64::from(deaths) > duration.as_secs() / 10 {
                break;
            }
            if start.elapsed() > REST_LIMIT && start.elapsed() > verdict::scaled(REST_LIMIT) {
                let little = format!("little happens: {changes} changes, {deaths} deaths");
                verdict::ran_out(&little);
                panic!("{little}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The topics in Kafka that are neither foreign nor Kafka's own.
async fn left(admin: &Bare) -> AdminResult<Vec<String>> {
    let topics = admin.describe_topics().await?;
    let names = topics.into_iter().map(|topic| topic.name);
    Ok(names
        .filter(|name| !is_foreign(name) && !name.starts_with("__"))
        .collect())
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
    let mut config = BTreeMap::from([(
        "retention.ms".to_owned(),
        random.random_range(3_600_000..9_000_000).to_string(),
    )]);
    if random.random_bool(0.5) {
        config.insert(
            "max.message.bytes".into(),
            random.random_range(1000..9000).to_string(),
        );
    }
    json!({"clusterRef": {"name": "chaos"}, "partitions": random.random_range(1..3), "config": config})
}

fn user_spec(random: &mut StdRng) -> Value {
    let topic = format!("topic-{:03}", random.random_range(0..TOPICS));
    let mut grants = vec![json!({"produce": {"topics": [topic]}})];
    if random.random_bool(0.5) {
        grants.push(json!({"consume": {"topics": ["topic-*"], "groups": [format!("group-{}", random.random_range(0..9))]}}));
    }
    let quotas = if random.random_bool(0.4) {
        json!({"producerByteRate": format!("{}Ki", random.random_range(100..900))})
    } else {
        json!({})
    };
    let kind = if random.random_bool(0.8) {
        "ScramSha512"
    } else {
        "MutualTls"
    };
    json!({"clusterRef": {"name": "chaos"}, "authentication": {"type": kind}, "grants": grants, "quotas": quotas})
}

impl Objects {
    fn new(client: &Client) -> Self {
        Self {
            topics: Api::namespaced(client.clone(), NAMESPACE),
            users: Api::namespaced(client.clone(), NAMESPACE),
        }
    }

    async fn create_topic(&self, name: &str, spec: Value) -> kube::Result<()> {
        let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "Topic", "metadata": {"name": name}, "spec": spec});
        self.topics
            .create(
                &PostParams::default(),
                &serde_json::from_value(object).unwrap(),
            )
            .await
            .map(|_| ())
    }

    async fn create_user(&self, name: &str, spec: Value) -> kube::Result<()> {
        let object = json!({"apiVersion": "freehold.dev/v1alpha1", "kind": "User", "metadata": {"name": name}, "spec": spec});
        self.users
            .create(
                &PostParams::default(),
                &serde_json::from_value(object).unwrap(),
            )
            .await
            .map(|_| ())
    }

    async fn delete_all(&self) -> kube::Result<()> {
        let (how, all) = (DeleteParams::default(), ListParams::default());
        self.topics.delete_collection(&how, &all).await?;
        self.users.delete_collection(&how, &all).await?;
        Ok(())
    }

    async fn are_gone(&self) -> kube::Result<bool> {
        let none = ListParams::default();
        let topics = self.topics.list_metadata(&none).await?;
        let users = self.users.list_metadata(&none).await?;
        Ok(topics.items.is_empty() && users.items.is_empty())
    }
}

/// Changes objects at random until the chaos is over. Refusals (the object exists, is gone, would
/// lose partitions) are expected.
async fn churn(objects: &Objects, mut random: StdRng, progress: &Progress) {
    let params = PatchParams::default();
    while !progress.is_over() {
        tokio::time::sleep(CHURN_PAUSE).await;
        let roll: f64 = random.random();
        let done = if random.random_bool(0.7) {
            let name = topic_name(random.random_range(0..TOPICS));
            if roll < 0.5 {
                objects.create_topic(&name, topic_spec(&mut random)).await
            } else if roll < 0.85 {
                let spec = json!({"spec": topic_spec(&mut random)});
                objects
                    .topics
                    .patch(&name, &params, &Patch::Merge(&spec))
                    .await
                    .map(|_| ())
            } else {
                objects
                    .topics
                    .delete(&name, &DeleteParams::default())
                    .await
                    .map(|_| ())
            }
        } else {
            let name = user_name(random.random_range(0..USERS));
            if roll < 0.5 {
                objects.create_user(&name, user_spec(&mut random)).await
            } else if roll < 0.85 {
                let spec = json!({"spec": user_spec(&mut random)});
                objects
                    .users
                    .patch(&name, &params, &Patch::Merge(&spec))
                    .await
                    .map(|_| ())
            } else {
                objects
                    .users
                    .delete(&name, &DeleteParams::default())
                    .await
                    .map(|_| ())
            }
        };
        progress
            .changes
            .fetch_add(u32::from(done.is_ok()), Ordering::Relaxed);
    }
}

/// Another client with rights on the cluster changes things in Kafka; returns the number of changes
/// that Kafka accepted.
async fn meddle(admin: &Bare, mut random: StdRng, progress: &Progress) -> u32 {
    let mut changes = 0;
    while !progress.is_over() {
        tokio::time::sleep(BEHIND_PAUSE).await;
        let (topic, user) = (
            topic_name(random.random_range(0..TOPICS)),
            user_name(random.random_range(0..USERS)),
        );
        let done = match random.random_range(0..6) {
            0 => {
                let change = BTreeMap::from([
                    ("retention.ms".to_owned(), Some("1111".to_owned())),
                    ("segment.ms".to_owned(), Some("99999".to_owned())),
                ]);
                admin
                    .alter_configs(&[(ConfigResource::Topic(topic), change)])
                    .await
                    .remove(0)
            }
            1 => match kafka::topic(admin, &topic).await {
                Ok(Some(found)) => admin.delete_topics(&[found.id]).await.remove(0),
                _ => continue,
            },
            2 => {
                let rule = grants::allow(
                    &format!("User:{user}"),
                    grants::TOPIC,
                    &["foreign-*".to_owned()],
                    &[grants::READ],
                );
                match kafka::acls(admin, Some(&format!("User:{user}"))).await {
                    // Only for principals that exist: a principal without an object would belong to
                    // nobody.
                    Ok(acls) if !acls.is_empty() => admin.create_acls(&rule).await.remove(0),
                    _ => continue,
                }
            }
            3 => match kafka::acls(admin, Some(&format!("User:{user}"))).await {
                Ok(acls) if !acls.is_empty() => admin.delete_acls(&acls).await.remove(0),
                _ => continue,
            },
            4 => admin
                .alter_scram(&[ScramChange::Delete { user }])
                .await
                .remove(0),
            _ => match kafka::acls(admin, Some(&format!("User:{user}"))).await {
                Ok(acls) if !acls.is_empty() => {
                    let quotas = BTreeMap::from([("consumer_byte_rate".to_owned(), Some(1234.0))]);
                    admin
                        .alter_quotas(&[QuotaChange { user, quotas }])
                        .await
                        .remove(0)
                }
                _ => continue,
            },
        };
        changes += u32::from(done.is_ok());
    }
    changes
}

/// Kills the operator every few seconds and starts it again: with lists from before its last start,
/// with interrupted watches, with both, or with neither. Returns the last operator.
async fn kill_again_and_again(
    topics: &Api<Topic>,
    first: Operator,
    image: &str,
    mut random: StdRng,
    progress: &Progress,
) -> Operator {
    let mut operator = first;
    while !progress.is_over() {
        let one = ListParams::default().limit(1);
        let listed = topics.list_metadata(&one).await;
        let Some(old) = listed
            .ok()
            .and_then(|listed| listed.metadata.resource_version)
        else {
            // The API server was busy: it is asked again.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        let faults = [
            ("FREEHOLD_FAULT_LISTS_AT", old.as_str()),
            ("FREEHOLD_FAULT_DEAF_SECONDS", "1"),
        ];
        let faults: Vec<_> = faults
            .into_iter()
            .filter(|_| random.random_bool(0.5))
            .collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(1500..7000))).await;
        drop(operator);
        progress.deaths.fetch_add(1, Ordering::Relaxed);
        operator = Operator::start(NAMESPACE, "chaos", image, &faults);
    }
    operator
}

/// Creates topics, ACLs, credentials and quotas that nobody manages.
async fn make_foreign(admin: &Bare) {
    let config = BTreeMap::from([("retention.ms".to_owned(), "7777777".to_owned())]);
    let topics: Vec<_> = (0..20)
        .map(|index| NewTopic {
            name: format!("foreign-{index}"),
            partitions: 2,
            replicas: 1,
            config: config.clone(),
        })
        .collect();
    let principals: Vec<String> = (0..10).map(|index| format!("foreign-{index}")).collect();
    let rules: Vec<AclBinding> = principals
        .iter()
        .flat_map(|name| {
            grants::allow(
                &format!("User:{name}"),
                grants::TOPIC,
                &["topic-*".to_owned()],
                &[grants::READ],
            )
        })
        .collect();
    let credentials: Vec<_> = principals
        .iter()
        .map(|name| ScramChange::Upsert {
            user: name.clone(),
            iterations: 4096,
            salt: vec![1; 32],
            salted_password: vec![2; 64],
        })
        .collect();
    let quotas: Vec<_> = principals
        .iter()
        .map(|name| QuotaChange {
            user: name.clone(),
            quotas: BTreeMap::from([("producer_byte_rate".to_owned(), Some(1e6))]),
        })
        .collect();
    let results = admin
        .create_topics(&topics)
        .await
        .into_iter()
        .chain(admin.create_acls(&rules).await);
    let results = results
        .chain(admin.alter_scram(&credentials).await)
        .chain(admin.alter_quotas(&quotas).await);
    results.for_each(|result| result.unwrap());
}

type Foreign = (
    Vec<(String, String, usize)>,
    BTreeMap<String, BTreeMap<String, String>>,
    Vec<AclBinding>,
    Vec<String>,
    Vec<String>,
);

async fn foreign_state(admin: &Bare) -> anyhow::Result<Foreign> {
    let topics = admin.describe_topics().await?;
    let mut topics: Vec<_> = topics
        .into_iter()
        .filter(|topic| is_foreign(&topic.name))
        .map(|topic| (topic.name, topic.id.to_string(), topic.partitions.len()))
        .collect();
    topics.sort();
    let names: Vec<String> = topics.iter().map(|(name, ..)| name.clone()).collect();
    let configs = kafka::configs(admin, &names).await?;
    let acls = kafka::acls(admin, None).await?.into_iter();
    let acls = acls.filter(|acl| acl.principal.starts_with("User:foreign-"));
    let scram = kafka::scram_users(admin).await?.into_keys();
    let quotas = kafka::quotas(admin).await?.into_iter();
    let quotas = quotas.filter(|(name, _)| is_foreign(name));
    Ok((
        topics,
        configs,
        acls.collect(),
        scram.filter(|name| is_foreign(name)).collect(),
        quotas.map(|quota| format!("{quota:?}")).collect(),
    ))
}

/// Compares Kafka with the objects; returns the number of Topics and Users, or the first
/// difference.
async fn compare(objects: &Objects, admin: &Bare) -> Result<(usize, usize), String> {
    let all = ListParams::default();
    let said = |error: kube::Error| error.to_string();
    let topics = objects.topics.list(&all).await.map_err(said)?.items;
    let users = objects.users.list(&all).await.map_err(said)?.items;
    let mut found: BTreeMap<String, _> = admin
        .describe_topics()
        .await
        .map_err(|error| error.to_string())?
        .into_iter()
        .map(|topic| (topic.name.clone(), topic))
        .collect();
    found.retain(|name, _| !is_foreign(name) && !name.starts_with("__"));
    let names: Vec<String> = found.keys().cloned().collect();
    let mut configs = kafka::configs(admin, &names)
        .await
        .map_err(|error| error.to_string())?;
    for topic in &topics {
        let name = topic.name_any();
        let status = topic.status.clone().unwrap_or_default();
        if topic.metadata.deletion_timestamp.is_some()
            || !was_settled(&status.conditions, topic.metadata.generation)
        {
            return Err(format!(
                "Topic {name} is not Ready: {:?}",
                status.conditions
            ));
        }
        let Some(there) = found.remove(&name) else {
            return Err(format!("topic {name} is not there"));
        };
        let config: Configs = configs.remove(&name).unwrap_or_default().into();
        if there.partitions.len() != usize::try_from(topic.spec.partitions).unwrap()
            || topic.spec.config != config
        {
            return Err(format!(
                "topic {name}: {} partitions, {config:?}, but {:?}",
                there.partitions.len(),
                topic.spec
            ));
        }
    }
    if let Some(name) = found.keys().next() {
        return Err(format!("topic {name} has no Topic"));
    }
    let mut acls: BTreeMap<String, Vec<AclBinding>> = BTreeMap::new();
    for acl in kafka::acls(admin, None)
        .await
        .map_err(|error| error.to_string())?
    {
        if let Some((owned, name, owner)) = ownership::read(&acl) {
            let lives = match owned {
                Owned::Topic => topics.iter().any(|topic| owner_of(topic) == owner),
                Owned::Principal => users.iter().any(|user| owner_of(user) == owner),
                // A certificate stays valid after its User is deleted.
                Owned::Certificate => true,
            };
            if !lives {
                return Err(format!(
                    "{name} is recorded as that of {owner}, which is gone"
                ));
            }
            continue;
        }
        acls.entry(acl.principal.trim_start_matches("User:").to_owned())
            .or_default()
            .push(acl);
    }
    let mut scram = kafka::scram_users(admin)
        .await
        .map_err(|error| error.to_string())?;
    let mut quotas = kafka::quotas(admin)
        .await
        .map_err(|error| error.to_string())?;
    for user in &users {
        let name = user.name_any();
        let status = user.status.clone().unwrap_or_default();
        if user.metadata.deletion_timestamp.is_some()
            || !was_settled(&status.conditions, user.metadata.generation)
        {
            return Err(format!("User {name} is not Ready: {:?}", status.conditions));
        }
        let kind = serde_json::to_value(user.spec.authentication.kind).unwrap();
        let differs = acls.remove(&name).unwrap_or_default() != rules::acls(user, &name)
            || scram.remove(&name).is_some() != (kind == "ScramSha512")
            || quotas.remove(&name).unwrap_or_default().len()
                != usize::from(user.spec.quotas.producer_byte_rate.is_some());
        if differs {
            return Err(format!(
                "User {name}: Kafka has other rights, credentials or quotas"
            ));
        }
    }
    let left = acls
        .into_keys()
        .chain(scram.into_keys())
        .chain(quotas.into_keys())
        .find(|name| !is_foreign(name));
    left.map_or(Ok((topics.len(), users.len())), |name| {
        Err(format!("principal {name} has no User"))
    })
}
