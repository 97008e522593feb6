import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.server.common.Feature;
import org.apache.kafka.server.common.MetadataVersion;

/**
 * Prints the lists of broker and topic configs of the Kafka on the class path as JSON: name -> type, default, valid
 * values as Kafka's validator describes them, update mode (brokers; KIP-226), why it is deprecated. Source: Kafka's own ConfigDefs.
 */
public final class ConfigLists {
    /** What a documentation says of its own config, not of another one. */
    private static final Pattern DEPRECATED = Pattern.compile("This config(uration)? (is|has been) deprecated.*?\\.(?= |$)");

    public static void main(String[] args) throws Exception {
        ConfigDef broker = (ConfigDef) Class.forName("kafka.server.KafkaConfig").getMethod("configDef").invoke(null);
        Object topic = Class.forName("org.apache.kafka.storage.internals.log.LogConfig").getMethod("configDefCopy").invoke(null);
        Map<?, ?> modes = modes();
        StringBuilder out = new StringBuilder("{\n\"features\": {");
        MetadataVersion release = MetadataVersion.latestProduction();
        List<String> features = new ArrayList<>(List.of(quote("metadata.version") + ": " + release.featureLevel()));
        for (Feature feature : Feature.PRODUCTION_FEATURES) {
            // The quorum's own protocol is chosen when volumes are formatted.
            if (!feature.featureName().equals("kraft.version")) {
                features.add(quote(feature.featureName()) + ": " + feature.defaultLevel(release));
            }
        }
        out.append(String.join(", ", features)).append("},\n\"broker\": {\n");
        list(out, broker, modes);
        out.append("},\n\"topic\": {\n");
        list(out, (ConfigDef) topic, Map.of());
        System.out.print(out.append("}\n}\n"));
    }

    private static Map<?, ?> modes() throws Exception {
        // The class moved from Scala to Java after 4.2.
        for (String name : List.of("org.apache.kafka.server.config.DynamicBrokerConfig", "kafka.server.DynamicBrokerConfig", "kafka.server.DynamicBrokerConfig$")) {
            try {
                Class<?> type = Class.forName(name);
                Object instance = name.endsWith("$") ? type.getField("MODULE$").get(null) : null;
                return (Map<?, ?>) type.getMethod("dynamicConfigUpdateModes").invoke(instance);
            } catch (ClassNotFoundException | NoSuchMethodException e) {
                // Not in this version: try the next.
            }
        }
        throw new IllegalStateException("no dynamicConfigUpdateModes in this Kafka");
    }

    private static void list(StringBuilder out, ConfigDef definition, Map<?, ?> modes) {
        List<String> lines = new ArrayList<>();
        for (ConfigDef.ConfigKey key : new TreeMap<>(definition.configKeys()).values()) {
            if (key.internalConfig) {
                continue;
            }
            List<String> fields = new ArrayList<>();
            fields.add("\"type\": " + quote(key.type().toString()));
            if (key.validator != null) {
                fields.add("\"valid\": " + quote(key.validator.toString()));
            }
            if (modes.get(key.name) != null) {
                fields.add("\"update\": " + quote(modes.get(key.name).toString()));
            }
            Matcher deprecated = DEPRECATED.matcher(key.documentation == null ? "" : key.documentation.replaceAll("<[^>]*>", ""));
            if (deprecated.find()) {
                fields.add("\"deprecated\": " + quote(deprecated.group()));
            }
            lines.add(quote(key.name) + ": {" + String.join(", ", fields) + "}");
        }
        out.append(String.join(",\n", lines)).append("\n");
    }

    private static String quote(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ') {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }
}
