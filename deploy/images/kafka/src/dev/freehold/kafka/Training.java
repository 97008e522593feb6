package dev.freehold.kafka;

import java.io.OutputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;

/** The training start for the AOT cache (JEP 483, 514): one combined node with TLS, an authorizer and a topic, then the end. */
final class Training {
    private Training() {}

    static void main(String[] args) throws Exception {
        Path work = Files.createTempDirectory("training");
        Properties server = new Properties();
        String keys = System.getProperty("training.keystore");
        Map<String, String> tls = Map.of(
                "ssl.keystore.location", keys, "ssl.keystore.password", "training", "ssl.keystore.type", "PKCS12",
                "ssl.truststore.location", keys, "ssl.truststore.password", "training", "ssl.truststore.type", "PKCS12",
                "ssl.endpoint.identification.algorithm", "");
        server.putAll(tls);
        server.putAll(Map.of(
                "process.roles", "broker,controller",
                "node.id", "1",
                "log.dirs", work.resolve("log").toString(),
                "listeners", "INTERNAL://127.0.0.1:19092,CONTROLLER://127.0.0.1:19093,SCRAM://127.0.0.1:19094",
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
                "super.users", "User:CN=training",
                "offsets.topic.replication.factor", "1"));
        Path config = work.resolve("server.properties");
        try (OutputStream out = Files.newOutputStream(config)) {
            server.store(out, null);
        }
        Properties format = new Properties();
        format.setProperty("cluster.id", "MkU3OEVBNTcwNTJENDM2Qg");
        format.setProperty("initial.controllers", "1@127.0.0.1:19093:Zm9vYmFyYmF6cXV4cXV1eA");
        Launcher.formatEmptyVolumes(server, format, config);
        Thread broker = new Thread(() -> kafka.Kafka.main(new String[] {config.toString()}), "kafka");
        broker.setDaemon(true);
        broker.start();
        for (int i = 0; i < 600 && !(Launcher.brokerState().equals("ready") && Launcher.raftState().equals("ready")); i++) {
            Thread.sleep(100);
        }
        Properties client = new Properties();
        client.putAll(tls);
        client.put("bootstrap.servers", "127.0.0.1:19092");
        client.put("security.protocol", "SSL");
        try (Admin admin = Admin.create(client)) {
            admin.createTopics(List.of(new NewTopic("training", Optional.of(4), Optional.empty()))).all().get(60, TimeUnit.SECONDS);
            admin.describeMetadataQuorum().quorumInfo().get(60, TimeUnit.SECONDS);
        }
        System.exit(0);
    }
}
