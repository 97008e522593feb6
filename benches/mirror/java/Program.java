package dev.freehold.bench;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.Map;
import java.util.regex.Pattern;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.ConfigDef.Importance;
import org.apache.kafka.common.config.ConfigDef.Type;
import org.apache.kafka.connect.connector.ConnectRecord;
import org.apache.kafka.connect.errors.DataException;
import org.apache.kafka.connect.transforms.Transformation;

/**
 * What the VRL programs of runner/benches/throughput do, as a transform of Kafka Connect: the benchmark compares the
 * records of both.
 */
public final class Program<R extends ConnectRecord<R>> implements Transformation<R> {
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final Pattern CARD = Pattern.compile("[0-9]{4}-[0-9]{4}-[0-9]{4}");
    private static final Pattern ADDRESS = Pattern.compile("[a-z]+@[a-z]+");
    private static final String REDACTED = "[REDACTED]";

    private boolean redacts;
    private MessageDigest sha;

    @Override
    public ConfigDef config() {
        ConfigDef.ValidString names = ConfigDef.ValidString.in("light", "redact");
        return new ConfigDef().define("program", Type.STRING, ConfigDef.NO_DEFAULT_VALUE, names, Importance.HIGH, "Which of them.");
    }

    @Override
    public void configure(Map<String, ?> configs) {
        redacts = "redact".equals(configs.get("program"));
        try {
            // The default of VRL's sha2.
            sha = MessageDigest.getInstance("SHA-512/256");
        } catch (GeneralSecurityException error) {
            throw new IllegalStateException(error);
        }
    }

    @Override
    public R apply(R record) {
        try {
            ObjectNode event = (ObjectNode) JSON.readTree((byte[]) record.value());
            if (!(redacts ? redact(event) : light(event))) {
                return null;
            }
            return record.newRecord(record.topic(), record.kafkaPartition(), record.keySchema(), record.key(),
                    record.valueSchema(), JSON.writeValueAsBytes(event), record.timestamp(), record.headers());
        } catch (IOException | ClassCastException error) {
            throw new DataException("not a JSON object", error);
        }
    }

    private static boolean light(ObjectNode event) {
        if ("debug".equals(event.path("status").asText())) {
            return false;
        }
        event.put("seen", true).put("source", "bench").set("customer", event.remove("user"));
        return true;
    }

    private boolean redact(ObjectNode event) {
        String text = CARD.matcher(event.path("text").asText()).replaceAll(REDACTED);
        event.put("text", ADDRESS.matcher(text).replaceAll(REDACTED));
        byte[] user = event.path("user").asText().getBytes(StandardCharsets.UTF_8);
        event.put("user", HexFormat.of().formatHex(sha.digest(user)));
        return true;
    }

    @Override
    public void close() {
        // Nothing is open.
    }
}
