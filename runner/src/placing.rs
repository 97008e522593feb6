//! From where each partition is read. The decisions are pure; [`Placing`] asks Kafka for what they
//! need.
//!
//! Beside each committed offset stands a note: the id of the topic, and how many partitions it had
//! when the group first read the partition. From it follows
//! - that an offset is of a topic that was deleted since: one of the same name has other records;
//! - that a partition was added after the group had begun: it is read from its first record, also
//!   with `start: Latest`;
//! - that the partition's log was truncated below the offset, and nobody has decided yet where to go
//!   on. Without it a new process would read on from there, as if nothing had been lost.
//!
//! An offset without a note was committed by a version that wrote none, or by a person: it counts as
//! one of the present topic. So does one with an id that the stage document does not know: a process
//! with a newer document wrote it.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::time::{Duration, Instant};

use freehold_pipeline::address::Address;
use freehold_pipeline::report::Stopped;
use freehold_pipeline::source::{OnGap, Start};
use freehold_pipeline::stage_document::TopicIds;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::config::{SourceConfig, StageConfig};
use crate::consumer::{ConsumerEvents, StageConsumer};
use crate::figures::Figures;
use crate::reading::ASK;

/// A source of which the settings say nothing.
static UNSAID: SourceConfig = SourceConfig {
    block: String::new(),
    start: Start::Earliest,
    on_gap: OnGap::Stop,
    topic: TopicIds {
        id: String::new(),
        former: Vec::new(),
    },
};

/// The first word of a note. Other texts beside an offset are not ours.
const MARK: &str = "topic";
/// In the place of an id that is not known.
const UNKNOWN: &str = "-";
/// The last word of a note whose offset is behind a truncation. Versions before it do not look there.
const TRUNCATED: &str = "truncated";

/// How long the statistics may take to say which partition has no such offset. They come every two
/// seconds.
const NAMED_WITHIN: Duration = Duration::from_secs(7);

/// What stands beside the committed offset of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    /// The id of the topic that the offset is of.
    id: Option<String>,
    /// Partitions of the topic when the group first read this one; 0: not known.
    partitions: i32,
    /// The log was truncated below the offset.
    truncated: bool,
}

impl Note {
    pub(crate) fn read(text: &str) -> Self {
        let mut words = text.split(' ');
        if words.next() != Some(MARK) {
            return Self::default();
        }
        let id = words.next().filter(|id| !id.is_empty() && *id != UNKNOWN);
        let partitions = words.next().and_then(|count| count.parse().ok());
        Self {
            id: id.map(str::to_owned),
            partitions: partitions.unwrap_or_default(),
            truncated: words.next() == Some(TRUNCATED),
        }
    }

    pub(crate) fn text(&self) -> String {
        let id = self.id.as_deref().unwrap_or(UNKNOWN);
        let text = format!("{MARK} {id} {}", self.partitions);
        match self.truncated {
            true => format!("{text} {TRUNCATED}"),
            false => text,
        }
    }

    /// Whether the offset is of a topic that was deleted since.
    fn is_former(&self, source: &SourceConfig) -> bool {
        let former = &source.topic.former;
        self.id.as_ref().is_some_and(|id| former.contains(id))
    }
}

/// Why the group's offset of a partition does not tell where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// The topic was deleted and made anew.
    MadeAnew,
    /// This process has committed offsets of the topic, and the group has none now.
    Forgotten,
    /// The partition has no such offset.
    OutOfRange { next: i64, first: i64, end: i64 },
    /// The partition lacks records before this offset that it had: others may be in their place.
    Truncated { next: i64 },
}

impl Gap {
    fn words(&self, topic: &str, partition: i32) -> String {
        match self {
            Self::MadeAnew => format!("topic {topic} was deleted and made anew"),
            Self::Forgotten => format!(
                "the consumer group has lost its offsets of topic {topic}: it, or the topic, was \
                 deleted"
            ),
            Self::OutOfRange { next, first, end } => format!(
                "the next offset of {topic} [{partition}] is {next}, but the partition has {first} \
                 to {end}"
            ),
            Self::Truncated { next } => format!(
                "the log of {topic} [{partition}] was truncated below the next offset {next}: a \
                 replica that lacked records became leader, or the topic was made anew; records in \
                 their place were not read"
            ),
        }
    }
}

/// From where a partition is read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// From the committed offset.
    Committed(i64, Note),
    /// The group has not read it yet.
    New(Start, Note),
    Gap(Gap, Note),
}

/// What the group has of a topic, in which a partition without an offset is.
#[derive(Clone, Debug, Default)]
struct TopicFacts {
    partitions: i32,
    /// The notes of its committed offsets.
    notes: Vec<Note>,
}

/// From where a partition with a committed offset is read.
fn of_committed(source: &SourceConfig, offset: i64, note: Note) -> Place {
    if note.is_former(source) {
        let note = Note {
            id: id(source),
            truncated: false,
            ..note
        };
        return Place::Gap(Gap::MadeAnew, note);
    }
    let gap = note.truncated.then_some(Gap::Truncated { next: offset });
    let note = Note {
        id: note.id.or_else(|| id(source)),
        truncated: false,
        ..note
    };
    match gap {
        Some(gap) => Place::Gap(gap, note),
        None => Place::Committed(offset, note),
    }
}

/// From where a partition without a committed offset is read. `was_read`: this process has committed
/// offsets of the topic.
fn of_new(source: &SourceConfig, partition: i32, facts: &TopicFacts, was_read: bool) -> Place {
    let note = Note {
        id: id(source),
        partitions: facts.partitions,
        truncated: false,
    };
    let mut present = facts.notes.iter().filter(|note| !note.is_former(source));
    // Else another member has just begun with the topic, and this one begins too.
    let is_added = present.clone().any(|note| note.partitions <= partition);
    match (is_added, present.next()) {
        (true, _) => Place::New(Start::Earliest, note),
        (false, _) if !source.topic.former.is_empty() => Place::Gap(Gap::MadeAnew, note),
        (false, None) if was_read => Place::Gap(Gap::Forgotten, note),
        (false, _) => Place::New(source.start, note),
    }
}

fn id(source: &SourceConfig) -> Option<String> {
    Some(source.topic.id.clone()).filter(|id| !id.is_empty())
}

/// A partition with the offset from which it is read.
#[derive(Debug)]
pub(crate) struct Placed {
    pub offset: i64,
    pub note: Note,
    /// Where it begins must not be chosen again: it is to be committed before anything else.
    pub is_new: bool,
    /// The text beside its committed offset.
    pub kept: String,
}

/// What librdkafka has said of next offsets that their partitions do not have. A log that was
/// truncated (KIP-320) may be long enough again when it is asked for its ends.
#[derive(Clone, Debug)]
struct Reset {
    since: Instant,
    words: Vec<String>,
    /// Of which partitions it is, as far as the statistics have said.
    named: BTreeSet<(String, i32)>,
}

impl Reset {
    /// Whether the partition has lost records before `next`, whatever its ends are now.
    fn is_truncated(&self, topic: &str, partition: i32, next: i64) -> bool {
        // Where it was truncated librdkafka says, and not of which partition: the lowest one counts.
        let ends: Option<Vec<i64>> = self.words.iter().map(|words| truncated_at(words)).collect();
        let end = ends.and_then(|ends| ends.into_iter().min());
        self.named.contains(&(topic.to_owned(), partition)) && end.is_none_or(|end| end < next)
    }

    /// Whether what was found of a partition is what librdkafka has spoken of.
    fn explains(&self, (topic, partition): (&str, i32), place: &Place) -> bool {
        matches!(place, Place::Gap(..)) || self.named.contains(&(topic.to_owned(), partition))
    }
}

/// Up to where the log is as it was, from librdkafka's words.
fn truncated_at(words: &str) -> Option<i64> {
    let (_, behind) = words.split_once("broker end offset is ")?;
    behind.split(' ').next()?.parse().ok()
}

/// Places partitions, for both loops that read.
#[derive(Debug, Default)]
pub(crate) struct Placing {
    /// Offsets were out of range: they are compared with what the partitions have.
    reset: Option<Reset>,
    /// Topics of which this process has committed offsets.
    read: BTreeSet<String>,
}

impl Placing {
    /// An offset is out of range, in librdkafka's words. Which one the next statistics say.
    pub(crate) fn out_of_range(&mut self, events: &ConsumerEvents, words: String) {
        let reset = self.reset.get_or_insert_with(|| Reset {
            since: Instant::now(),
            words: Vec::new(),
            named: BTreeSet::new(),
        });
        reset.words.push(words);
        events.watch_fetching();
    }

    /// Whether it is known whose offset was out of range, or it took too long: then [`Self::place`]
    /// is to be called, with reading stopped. `owned`: what is read.
    pub(crate) fn is_due<'p>(
        &mut self,
        events: &ConsumerEvents,
        owned: impl Iterator<Item = (&'p str, i32)>,
    ) -> bool {
        let Some(reset) = &mut self.reset else {
            return false;
        };
        let found = events.not_fetched();
        let mut is_asked = false;
        for (topic, partition) in owned {
            let place = (topic.to_owned(), partition);
            // Whether it was truncated, too, is said only while it is read.
            is_asked |= found.asked.contains(&place);
            if found.halted.contains(&place) {
                reset.named.insert(place);
            }
        }
        (!reset.named.is_empty() && !is_asked) || reset.since.elapsed() > NAMED_WITHIN
    }

    /// An offset of the topic is committed.
    pub(crate) fn committed(&mut self, topic: &str) {
        if !self.read.contains(topic) {
            self.read.insert(topic.to_owned());
        }
    }

    /// Whether it is known that the group has offsets of these topics. For the first commit of each one
    /// has to wait: of a commit without waiting only a failure is told.
    pub(crate) fn knows<'t>(&self, mut topics: impl Iterator<Item = &'t str>) -> bool {
        topics.all(|topic| self.read.contains(topic))
    }

    /// From where each of these partitions is read, in their order; or why the stage stops.
    ///
    /// # Errors
    /// Kafka does not tell.
    pub(crate) fn place(
        &mut self,
        consumer: &StageConsumer,
        config: &StageConfig,
        figures: &Figures,
        partitions: &[(&str, i32)],
    ) -> KafkaResult<Result<Vec<Placed>, Stopped>> {
        let places = self.places(consumer, config, partitions)?;
        if let Some(reset) = &self.reset {
            tracing::warn!(words = ?reset.words, named = ?reset.named, "offsets are out of range");
            if config.bounded.is_none() {
                keep_truncated(consumer, partitions, &places)?;
            }
            let mut of = partitions.iter().zip(&places);
            if !of.any(|(of, (place, _))| reset.explains(*of, place)) {
                return Ok(Err(unexplained(config, reset)));
            }
        }
        let mut all = Vec::new();
        for ((topic, partition), (place, kept)) in partitions.iter().zip(places) {
            let is_gap = matches!(place, Place::Gap(..));
            let (start, note) = match place {
                Place::Committed(offset, note) => {
                    all.push(Placed {
                        offset,
                        note,
                        is_new: false,
                        kept,
                    });
                    continue;
                }
                Place::New(start, note) => (start, note),
                Place::Gap(gap, note) => match told(config, figures, topic, *partition, &gap) {
                    Ok(start) => (start, note),
                    Err(stopped) => return Ok(Err(stopped)),
                },
            };
            let (first, end) = consumer.fetch_watermarks(topic, *partition, ASK)?;
            all.push(Placed {
                offset: match start {
                    Start::Earliest => first,
                    Start::Latest => end,
                },
                note,
                // A second start would choose a later end, and a gap would be there again.
                is_new: is_gap || start == Start::Latest,
                kept: String::new(),
            });
        }
        self.reset = None;
        Ok(Ok(all))
    }

    /// From where each partition is read, and what stands beside its committed offset.
    fn places(
        &mut self,
        consumer: &StageConsumer,
        config: &StageConfig,
        partitions: &[(&str, i32)],
    ) -> KafkaResult<Vec<(Place, String)>> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition);
        }
        if list.count() > 0 {
            list = consumer.committed_offsets(list, ASK)?;
        }
        let (mut places, mut known) = (Vec::new(), BTreeMap::new());
        for (topic, partition) in partitions {
            let mut committed = None;
            if let Some(element) = list.find_partition(topic, *partition) {
                element.error()?;
                if let Offset::Offset(offset) = element.offset() {
                    committed = Some((offset, element.metadata().to_owned()));
                }
            }
            let (offset, kept) = committed.unzip();
            let place = self.one(
                consumer,
                config,
                &mut known,
                (topic, *partition),
                offset.zip(kept.as_deref()),
            )?;
            places.push((place, kept.unwrap_or_default()));
        }
        Ok(places)
    }

    /// From where a partition is read, with its committed offset and what stands beside it. `known`:
    /// what the group has of topics, as far as it was asked for.
    fn one(
        &mut self,
        consumer: &StageConsumer,
        config: &StageConfig,
        known: &mut BTreeMap<String, TopicFacts>,
        (topic, partition): (&str, i32),
        committed: Option<(i64, &str)>,
    ) -> KafkaResult<Place> {
        let source = config.sources.get(topic).unwrap_or(&UNSAID);
        let Some((offset, kept)) = committed else {
            // One that has an end says itself that its group was deleted.
            let was_read = config.bounded.is_none() && self.read.contains(topic);
            let facts = match known.entry(topic.to_owned()) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(unknown) => unknown.insert(facts(consumer, topic)?),
            };
            return Ok(of_new(source, partition, facts, was_read));
        };
        self.committed(topic);
        let place = of_committed(source, offset, Note::read(kept));
        let Place::Committed(next, note) = place else {
            return Ok(place);
        };
        if let Some(reset) = &self.reset {
            let (first, end) = consumer.fetch_watermarks(topic, partition, ASK)?;
            if next < first || next > end {
                return Ok(Place::Gap(Gap::OutOfRange { next, first, end }, note));
            }
            if reset.is_truncated(topic, partition, next) {
                return Ok(Place::Gap(Gap::Truncated { next }, note));
            }
        }
        Ok(Place::Committed(next, note))
    }
}

/// Writes beside the offsets of partitions that their logs were truncated, before anything follows
/// from it: only the process that was reading then is told.
fn keep_truncated(
    consumer: &StageConsumer,
    partitions: &[(&str, i32)],
    places: &[(Place, String)],
) -> KafkaResult<()> {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), (place, _)) in partitions.iter().zip(places) {
        if let Place::Gap(Gap::Truncated { next }, note) = place {
            let note = Note {
                truncated: true,
                ..note.clone()
            };
            let mut element = list.add_partition(topic, *partition);
            element.set_offset(Offset::Offset(*next))?;
            element.set_metadata(note.text());
        }
    }
    match list.count() {
        0 => Ok(()),
        _ => consumer.commit(&list, CommitMode::Sync),
    }
}

/// Why a stage stops that cannot know which of its partitions has lost records.
fn unexplained(config: &StageConfig, reset: &Reset) -> Stopped {
    let mut blocks = config.sources.values().map(|source| source.block.clone());
    let block = blocks.next().filter(|_| blocks.next().is_none());
    Stopped {
        block,
        error: format!(
            "a next offset was not in its partition, and by now each of them is: a log was truncated, \
             and records that were not read may be before the committed offsets ({}); reset the \
             offsets of the group while spec.state is Paused, or restart the pods to go on from the \
             committed ones",
            reset.words.join("; ")
        ),
        address: None,
    }
}

/// What the policy says of a gap, which is told: where the partition is read from, or that the stage
/// stops.
fn told(
    config: &StageConfig,
    figures: &Figures,
    topic: &str,
    partition: i32,
    gap: &Gap,
) -> Result<Start, Stopped> {
    let source = config.sources.get(topic).unwrap_or(&UNSAID);
    let why = gap.words(topic, partition);
    let block = Some(source.block.clone()).filter(|block| !block.is_empty());
    let address = match gap {
        Gap::OutOfRange { next, .. } | Gap::Truncated { next } => Some(Address {
            topic: topic.to_owned(),
            partition,
            offset: *next,
        }),
        Gap::MadeAnew | Gap::Forgotten => None,
    };
    let (start, then) = match source.on_gap {
        OnGap::Stop => {
            let way_out = match config.bounded {
                // A replay has no source with a policy.
                Some(_) => "cancel this replay; begin another one if dead letters are left",
                None => {
                    "set source.kafka.onGap to Earliest (all records that it has) or Latest (those \
                     from then on) to go on"
                }
            };
            let error = format!("{why}; {way_out}");
            return Err(Stopped {
                block,
                error,
                address,
            });
        }
        OnGap::Earliest => (Start::Earliest, "it is read from its first record"),
        OnGap::Latest => (Start::Latest, "it is read from its end"),
    };
    tracing::warn!(topic, partition, why, then);
    if let Some(block) = block {
        figures.gap(&block, &format!("{why}; {then} (onGap)"), address);
    }
    Ok(start)
}

/// What the group has of a topic.
fn facts(consumer: &StageConsumer, topic: &str) -> KafkaResult<TopicFacts> {
    let metadata = consumer.fetch_metadata(Some(topic), ASK)?;
    let mut found = metadata.topics().iter();
    let found = found.find(|found| found.name() == topic);
    let count = found.map_or(0, |found| found.partitions().len());
    let partitions = i32::try_from(count).unwrap_or(i32::MAX);
    if partitions == 0 {
        return Ok(TopicFacts::default());
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let list = consumer.committed_offsets(list, ASK)?;
    let mut notes = Vec::new();
    for element in list.elements() {
        element.error()?;
        if matches!(element.offset(), Offset::Offset(_)) {
            notes.push(Note::read(element.metadata()));
        }
    }
    Ok(TopicFacts { partitions, notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(id: &str, former: &[&str], start: Start) -> SourceConfig {
        let mut source = SourceConfig {
            block: "in".to_owned(),
            start,
            ..SourceConfig::default()
        };
        source.topic.id = id.to_owned();
        source.topic.former = former.iter().map(|one| (*one).to_owned()).collect();
        source
    }

    fn note(id: &str, partitions: i32) -> Note {
        Note {
            id: Some(id.to_owned()).filter(|id| !id.is_empty()),
            partitions,
            truncated: false,
        }
    }

    fn config(source: &SourceConfig) -> StageConfig {
        let text = r#"{"kafka": {"bootstrap": "b:9092"}, "group": "g", "instance": "i",
            "topics": ["t"]}"#;
        let mut config: StageConfig = serde_json::from_str(text).unwrap();
        config.sources.insert("t".to_owned(), source.clone());
        config
    }

    fn facts(partitions: i32, notes: &[Note]) -> TopicFacts {
        TopicFacts {
            partitions,
            notes: notes.to_vec(),
        }
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_what_is_not_ours_says_nothing() {
        let truncated = Note {
            truncated: true,
            ..note("a", 4)
        };
        assert_eq!(truncated.text(), "topic a 4 truncated");
        for written in [note("Ab-_9", 12), note("", 0), truncated] {
            assert_eq!(Note::read(&written.text()), written);
        }
        for other in ["", "by hand", "topic", "topic  x", "42 notes"] {
            assert_eq!(Note::read(other), Note::default(), "{other}");
        }
    }

    #[test]
    fn an_offset_of_a_deleted_topic_is_a_gap_and_any_other_one_counts() {
        let source = source("c", &["b", "a"], Start::Latest);
        let at = |found: &str| of_committed(&source, 7, note(found, 4));
        assert_eq!(at("c"), Place::Committed(7, note("c", 4)));
        assert_eq!(at("a"), Place::Gap(Gap::MadeAnew, note("c", 4)));
        // A version before notes, and a process with a newer document, whose id stays.
        assert_eq!(at(""), Place::Committed(7, note("c", 4)));
        assert_eq!(at("d"), Place::Committed(7, note("d", 4)));
    }

    #[test]
    fn a_truncated_log_is_a_gap_until_it_is_decided_where_to_go_on() {
        let source = source("a", &[], Start::Earliest);
        let marked = Note {
            truncated: true,
            ..note("a", 4)
        };
        let gap = Place::Gap(Gap::Truncated { next: 7 }, note("a", 4));
        assert_eq!(of_committed(&source, 7, marked), gap);
        let at = |end| {
            format!(
                "Partition log truncation detected at offset 9 (leader epoch 3): broker end offset \
                 is {end} (offset leader epoch 2). Reset to INVALID.: Local: Partition log truncation"
            )
        };
        let unknown = "fetch failed due to requested offset not available on the broker: Broker: \
                       Offset out of range (broker 1)";
        let of = |words: &[&str]| Reset {
            since: Instant::now(),
            words: words.iter().map(|words| (*words).to_owned()).collect(),
            named: BTreeSet::from([("t".to_owned(), 1)]),
        };
        let reset = of(&[&at(5)]);
        assert!(reset.is_truncated("t", 1, 6));
        assert!(
            !reset.is_truncated("t", 1, 5),
            "what was cut was not committed"
        );
        assert!(!reset.is_truncated("t", 0, 6), "another one");
        assert!(of(&[&at(-1)]).is_truncated("t", 1, 0));
        assert!(
            of(&[&at(8), &at(5)]).is_truncated("t", 1, 6),
            "of which one?"
        );
        assert!(of(&[&at(8), unknown]).is_truncated("t", 1, 6));
    }

    #[test]
    fn partitions_are_placed_again_once_the_statistics_name_the_one_without_its_offset() {
        let events = ConsumerEvents::new(std::sync::Arc::default());
        let mut placing = Placing::default();
        let owned = || [("t", 0), ("t", 1)].into_iter();
        let state = |state: &str| {
            let statistics = format!(
                r#"{{"topics": {{"t": {{"partitions": {{
                    "0": {{"partition": 0, "fetch_state": "{state}"}},
                    "1": {{"partition": 1, "fetch_state": "none"}},
                    "2": {{"partition": 2, "fetch_state": "none"}}}}}}}}}}"#
            );
            rdkafka::ClientContext::stats_raw(&events, statistics.as_bytes());
        };
        state("active");
        assert!(!placing.is_due(&events, owned()), "nothing is out of range");
        placing.out_of_range(&events, "words".to_owned());
        assert!(!placing.is_due(&events, owned()), "no statistics since");
        state("validate-epoch-wait");
        assert!(!placing.is_due(&events, owned()), "another one may be, too");
        state("active");
        assert!(placing.is_due(&events, owned()));
        let reset = placing.reset.unwrap();
        let of_another = ("t".to_owned(), 2);
        assert_eq!(reset.named, BTreeSet::from([("t".to_owned(), 1)]));
        assert!(!reset.named.contains(&of_another));
        let place = Place::Committed(3, note("a", 4));
        assert!(reset.explains(("t", 1), &place) && !reset.explains(("t", 0), &place));
        let unnamed = Reset {
            named: BTreeSet::new(),
            ..reset
        };
        assert!(!unnamed.explains(("t", 1), &place));
        let stopped = unexplained(&config(&source("a", &[], Start::Earliest)), &unnamed);
        assert_eq!(stopped.block.as_deref(), Some("in"));
        assert!(stopped.error.contains("(words)"), "{}", stopped.error);
    }

    #[test]
    fn a_replay_is_not_told_of_a_policy_that_it_does_not_have() {
        let (figures, gap) = (Figures::default(), Gap::MadeAnew);
        let mut config = config(&SourceConfig::default());
        config.sources.clear();
        config.bounded = Some(crate::config::Bounded::default());
        let stopped = told(&config, &figures, "t", 1, &gap).unwrap_err();
        let words = "topic t was deleted and made anew; cancel this replay";
        assert!(stopped.error.starts_with(words), "{}", stopped.error);
    }

    #[test]
    fn an_added_partition_is_read_from_its_first_record() {
        let source = source("a", &[], Start::Latest);
        let start =
            |partition, notes: &[Note]| match of_new(&source, partition, &facts(6, notes), false) {
                Place::New(start, new) => {
                    assert_eq!(new, note("a", 6));
                    start
                }
                other => panic!("{other:?}"),
            };
        assert_eq!(start(5, &[]), Start::Latest, "the group begins");
        let begun = [note("a", 4)];
        assert_eq!(start(4, &begun), Start::Earliest);
        assert_eq!(start(3, &begun), Start::Latest, "another member begins too");
        // An offset of the version before says nothing of partitions.
        assert_eq!(start(3, &[note("", 0)]), Start::Earliest);
        assert_eq!(start(5, &[note("a", 4), note("a", 6)]), Start::Earliest);
    }

    #[test]
    fn a_partition_without_an_offset_of_a_topic_made_anew_is_a_gap() {
        let source = source("b", &["a"], Start::Earliest);
        let is_gap = |partition, notes: &[Note]| {
            matches!(
                of_new(&source, partition, &facts(4, notes), false),
                Place::Gap(Gap::MadeAnew, _)
            )
        };
        assert!(is_gap(0, &[]), "Kafka deletes offsets with their topic");
        assert!(is_gap(0, &[note("a", 4)]));
        assert!(is_gap(1, &[note("b", 4)]), "it is decided for each");
        assert!(!is_gap(4, &[note("b", 4)]), "it was added since");
    }

    #[test]
    fn a_group_that_forgets_what_this_process_has_committed_is_a_gap() {
        let source = source("a", &[], Start::Earliest);
        let place = |notes: &[Note]| of_new(&source, 1, &facts(4, notes), true);
        assert_eq!(place(&[]), Place::Gap(Gap::Forgotten, note("a", 4)));
        let others = [note("a", 4)];
        assert_eq!(place(&others), Place::New(Start::Earliest, note("a", 4)));
    }

    #[test]
    fn a_gap_is_told_and_follows_the_policy() {
        let (figures, gap) = (
            Figures::default(),
            Gap::OutOfRange {
                next: 9,
                first: 2,
                end: 5,
            },
        );
        let mut source = source("a", &[], Start::Earliest);
        let stopped = told(&config(&source), &figures, "t", 1, &gap).unwrap_err();
        assert_eq!(stopped.block.as_deref(), Some("in"));
        let words = "the next offset of t [1] is 9, but the partition has 2 to 5; set \
                     source.kafka.onGap to Earliest";
        assert!(stopped.error.starts_with(words), "{}", stopped.error);
        assert!(figures.gaps().is_empty());
        source.on_gap = OnGap::Latest;
        let then = told(&config(&source), &figures, "t", 1, &gap);
        assert_eq!(then, Ok(Start::Latest));
        let gaps = figures.gaps();
        assert!(
            gaps["in"]
                .summary
                .ends_with("it is read from its end (onGap)")
        );
    }
}
