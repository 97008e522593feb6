import java.util.Map;
import java.util.Set;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.common.metadata.RemoveUserScramCredentialRecord;
import org.apache.kafka.common.metadata.UserScramCredentialRecord;
import org.apache.kafka.image.ScramDelta;
import org.apache.kafka.image.ScramImage;

/**
 * Whether a delta keeps the credentials that it adds beside some that it removes, whatever the users are called: with "kept" that has
 * to be so, with "lost" (Kafka's own class) it has to be otherwise, so that nobody stands in for what Kafka has mended.
 */
public final class ScramDeltaCheck {
    public static void main(String[] args) {
        boolean kept = true;
        for (int stays = 0; stays < 50; stays++) {
            ScramDelta delta = new ScramDelta(ScramImage.EMPTY);
            delta.replay(credential("stays-" + stays));
            for (int gone = 0; gone < 3; gone++) {
                delta.replay(credential("gone-" + gone));
                delta.replay(new RemoveUserScramCredentialRecord().setName("gone-" + gone).setMechanism(ScramMechanism.SCRAM_SHA_512.type()));
            }
            Map<?, ?> users = delta.apply().mechanisms().get(ScramMechanism.SCRAM_SHA_512);
            kept &= users != null && users.keySet().equals(Set.of("stays-" + stays));
            ScramImage before = delta.apply();
            ScramDelta last = new ScramDelta(before);
            last.finishSnapshot();
            if (!last.apply().mechanisms().isEmpty()) {
                throw new IllegalStateException("what a snapshot does not name is there: " + last);
            }
        }
        if (!args[0].equals(kept ? "kept" : "lost")) {
            throw new IllegalStateException("credentials were " + (kept ? "kept: Kafka needs no ScramDelta of ours any more" : "lost"));
        }
    }

    private static UserScramCredentialRecord credential(String user) {
        return new UserScramCredentialRecord().setName(user).setMechanism(ScramMechanism.SCRAM_SHA_512.type()).setIterations(4096)
                .setSalt(new byte[1]).setStoredKey(new byte[1]).setServerKey(new byte[1]);
    }
}
