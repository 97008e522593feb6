package dev.freehold.kafka;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The training start for the AOT cache (JEP 483, 514, 515): two brokers with TLS, SCRAM and an authorizer, clients that produce
 * to both and read from both, then the end. What ran here often is compiled soon after a start, so that a broker that has just
 * come back and leads again does not keep its clients and followers waiting.
 */
final class Training {
    private static final String CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg";
    private static final String USER = "trainee";
    private static final String PASSWORD = "training";
    private static final int RECORDS = 3000;

    private Training() {}

    static void main(String[] args) throws Exception {
        Path work = Files.createTempDirectory("training");
        String keys = System.getProperty("training.keystore");
        Map<String, String> tls = Map.of(
                "ssl.keystore.location", keys, "ssl.keystore.password", "training", "ssl.keystore.type", "PKCS12",
                "ssl.truststore.location", keys, "ssl.truststore.password", "training", "ssl.truststore.type", "PKCS12",
                "ssl.endpoint.identification.algorithm", "");
        start(work, tls, 1, "broker,controller", "INTERNAL://127.0.0.1:19092,CONTROLLER://127.0.0.1:19093,SCRAM://127.0.0.1:19094");
        start(work, tls, 2, "broker", "INTERNAL://127.0.0.1:19095,SCRAM://127.0.0.1:19096");

        Map<String, Object> internal = new HashMap<>(tls);
        internal.put("bootstrap.servers", "127.0.0.1:19092");
        internal.put("security.protocol", "SSL");
        internal.put("default.api.timeout.ms", "300000");
        try (Admin admin = Admin.create(internal)) {
            while (admin.describeCluster().nodes().get(5, TimeUnit.MINUTES).size() < 2) {
                Thread.sleep(100);
            }
            admin.createTopics(List.of(new NewTopic("training", 4, (short) 2))).all().get(5, TimeUnit.MINUTES);
            admin.describeMetadataQuorum().quorumInfo().get(5, TimeUnit.MINUTES);
            ScramCredentialInfo credential = new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096);
            admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion(USER, credential, PASSWORD))).all()
                    .get(5, TimeUnit.MINUTES);
        }
        Map<String, Object> scram = new HashMap<>(tls);
        scram.put("bootstrap.servers", "127.0.0.1:19094");
        scram.put("security.protocol", "SASL_SSL");
        scram.put("sasl.mechanism", "SCRAM-SHA-512");
        scram.put("sasl.jaas.config", "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"" + USER
                + "\" password=\"" + PASSWORD + "\";");
        for (Map<String, Object> client : List.of(scram, internal)) {
            produce(client);
            consume(client);
        }
        System.exit(0);
    }

    /** Starts a node in this JVM. */
    private static void start(Path work, Map<String, String> tls, int id, String roles, String listeners) throws IOException {
        Properties server = new Properties();
        server.putAll(tls);
        server.putAll(Map.of(
                "process.roles", roles,
                "node.id", Integer.toString(id),
                "log.dirs", work.resolve("log-" + id).toString(),
                "listeners", listeners,
                "listener.security.protocol.map", "INTERNAL:SSL,CONTROLLER:SSL,SCRAM:SASL_SSL",
                "sasl.enabled.mechanisms", "SCRAM-SHA-512",
                "inter.broker.listener.name", "INTERNAL",
                "controller.listener.names", "CONTROLLER",
                "controller.quorum.bootstrap.servers", "127.0.0.1:19093"));
        server.putAll(Map.of(
                "listener.name.scram.scram-sha-512.sasl.jaas.config",
                "org.apache.kafka.common.security.scram.ScramLoginModule required;",
                "ssl.client.auth", "required",
                "authorizer.class.name", "dev.freehold.kafka.ShadowAuthorizer",
                "super.users", "User:CN=training;User:" + USER,
                "offsets.topic.replication.factor", "2"));
        Path config = work.resolve("server-" + id + ".properties");
        try (OutputStream out = Files.newOutputStream(config)) {
            server.store(out, null);
        }
        Properties format = new Properties();
        format.setProperty("cluster.id", CLUSTER_ID);
        format.setProperty("initial.controllers", "1@127.0.0.1:19093:Zm9vYmFyYmF6cXV4cXV1eA");
        Launcher.formatEmptyVolumes(server, format, config);
        Thread node = new Thread(() -> kafka.Kafka.main(new String[] {config.toString()}), "node-" + id);
        node.setDaemon(true);
        node.start();
    }

    /** Each record in a request of its own, acknowledged by both brokers. */
    private static void produce(Map<String, Object> client) throws Exception {
        Map<String, Object> config = new HashMap<>(client);
        config.putAll(Map.of("acks", "all", "enable.idempotence", "true", "delivery.timeout.ms", "300000", "max.block.ms", "300000"));
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (int i = 0; i < RECORDS; i++) {
                producer.send(new ProducerRecord<>("training", i % 4, null, new byte[100])).get(5, TimeUnit.MINUTES);
            }
        }
    }

    private static void consume(Map<String, Object> client) {
        Map<String, Object> config = new HashMap<>(client);
        config.putAll(Map.of("group.id", "training-" + client.get("security.protocol"), "auto.offset.reset", "earliest",
                "max.poll.records", "20"));
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of("training"));
            for (int read = 0; read < RECORDS; consumer.commitSync()) {
                read += consumer.poll(Duration.ofSeconds(1)).count();
            }
        }
    }
}
