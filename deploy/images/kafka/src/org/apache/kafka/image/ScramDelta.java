package org.apache.kafka.image;

import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.common.metadata.RemoveUserScramCredentialRecord;
import org.apache.kafka.common.metadata.UserScramCredentialRecord;
import org.apache.kafka.metadata.ScramCredentialData;
import org.apache.kafka.server.common.MetadataVersion;

/**
 * Stands before Kafka's own class of this name on the class path (ADR 21). Kafka's forgets, in one delta, what it adds after a removal
 * that left a mechanism without users: a broker that reads the metadata log from its start, where a user was once removed, refuses
 * every client that logs in with a password. {@code checks/ScramDeltaCheck.java} tells when Kafka no longer does.
 */
public final class ScramDelta {
    private final ScramImage image;
    /** An empty Optional: the user's credential is removed. */
    private final Map<ScramMechanism, Map<String, Optional<ScramCredentialData>>> changes = new HashMap<>();

    public ScramDelta(ScramImage image) {
        this.image = image;
    }

    /** What a snapshot does not name is removed. */
    public void finishSnapshot() {
        image.mechanisms().forEach((mechanism, users) -> {
            Map<String, Optional<ScramCredentialData>> changed = of(mechanism);
            users.keySet().forEach(user -> changed.putIfAbsent(user, Optional.empty()));
        });
    }

    public ScramImage image() {
        return image;
    }

    public Map<ScramMechanism, Map<String, Optional<ScramCredentialData>>> changes() {
        return changes;
    }

    public void replay(UserScramCredentialRecord record) {
        of(ScramMechanism.fromType(record.mechanism())).put(record.name(), Optional.of(ScramCredentialData.fromRecord(record)));
    }

    public void replay(RemoveUserScramCredentialRecord record) {
        of(ScramMechanism.fromType(record.mechanism())).put(record.name(), Optional.empty());
    }

    public void handleMetadataVersionChange(MetadataVersion version) {
        // Credentials are the same in every version.
    }

    public ScramImage apply() {
        Map<ScramMechanism, Map<String, ScramCredentialData>> mechanisms = new HashMap<>();
        image.mechanisms().forEach((mechanism, users) -> mechanisms.put(mechanism, new HashMap<>(users)));
        changes.forEach((mechanism, changed) -> {
            Map<String, ScramCredentialData> users = mechanisms.computeIfAbsent(mechanism, absent -> new HashMap<>());
            changed.forEach((user, credential) -> credential.ifPresentOrElse(one -> users.put(user, one), () -> users.remove(user)));
            // Only once every change is made: this is where Kafka's own goes wrong.
            if (users.isEmpty()) {
                mechanisms.remove(mechanism);
            }
        });
        return new ScramImage(mechanisms);
    }

    private Map<String, Optional<ScramCredentialData>> of(ScramMechanism mechanism) {
        return changes.computeIfAbsent(mechanism, absent -> new HashMap<>());
    }

    @Override
    public String toString() {
        return "ScramDelta(changes=" + changes + ")";
    }
}
