import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.ApplicationRecoverableException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Copies each topic TOPIC to TOPIC-copy, partition by partition, in transactions: records and the offsets up to which they
 * were read become visible together (KIP-98, KIP-447). Prints one line of JSON for each transaction. Runs until it is ended.
 *
 * <p>Arguments: a file with the properties of a client, bootstrap servers, transactional id, consumer group, topics.
 */
public final class TransactionalCopier {
    private TransactionalCopier() {}

    public static void main(String[] args) throws Exception {
        Properties consumerProperties = properties(args[0], args[1]);
        consumerProperties.putAll(Map.of("group.id", args[3], "isolation.level", "read_committed", "auto.offset.reset", "earliest",
                "enable.auto.commit", "false", "max.poll.records", "200"));
        Properties producerProperties = properties(args[0], args[1]);
        producerProperties.putAll(Map.of("transactional.id", args[2], "max.block.ms", "300000", "transaction.timeout.ms", "300000",
                "delivery.timeout.ms", "300000"));
        List<String> topics = Arrays.asList(args).subList(4, args.length);
        long copied = 0;
        try (KafkaConsumer<byte[], byte[]> consumer =
                        new KafkaConsumer<>(consumerProperties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
                KafkaProducer<byte[], byte[]> producer =
                        new KafkaProducer<>(producerProperties, new ByteArraySerializer(), new ByteArraySerializer())) {
            producer.initTransactions();
            consumer.subscribe(topics);
            while (true) {
                ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(200));
                if (records.isEmpty()) {
                    continue;
                }
                try {
                    copy(records, consumer, producer);
                    copied += records.count();
                    System.out.println("{\"name\":\"committed\",\"records\":" + copied + "}");
                } catch (ApplicationRecoverableException | InvalidConfigurationException e) {
                    throw e;
                } catch (KafkaException e) {
                    System.out.println("{\"name\":\"aborted\",\"error\":\"" + e.getClass().getSimpleName() + "\"}");
                    producer.abortTransaction();
                    back(consumer);
                }
            }
        }
    }

    private static Properties properties(String file, String bootstrap) throws Exception {
        Properties properties = new Properties();
        try (InputStream in = Files.newInputStream(Path.of(file))) {
            properties.load(in);
        }
        properties.put("bootstrap.servers", bootstrap);
        return properties;
    }

    private static void copy(
            ConsumerRecords<byte[], byte[]> records, KafkaConsumer<byte[], byte[]> consumer, KafkaProducer<byte[], byte[]> producer) {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        producer.beginTransaction();
        for (ConsumerRecord<byte[], byte[]> record : records) {
            producer.send(new ProducerRecord<>(record.topic() + "-copy", record.partition(), record.key(), record.value()));
            offsets.put(new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
        }
        producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
        producer.commitTransaction();
    }

    /** To where the last transaction that was committed ended. */
    private static void back(KafkaConsumer<byte[], byte[]> consumer) {
        for (TopicPartition partition : consumer.assignment()) {
            OffsetAndMetadata committed = consumer.committed(Set.of(partition)).get(partition);
            if (committed == null) {
                consumer.seekToBeginning(Set.of(partition));
            } else {
                consumer.seek(partition, committed);
            }
        }
    }
}
