import dev.freehold.kafka.Launcher;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;

/** Whether the launcher starts on its own disks and empty ones, and on nobody else's. */
public final class DiskCheck {
    public static void main(String[] args) throws Exception {
        Path own = disk("cluster.id=AAAAAAAAAAAAAAAAAAAAAA\nnode.id=100\nversion=1\n");
        Path empty = Files.createTempDirectory("empty");
        Path cluster = disk("cluster.id=BBBBBBBBBBBBBBBBBBBBBB\nnode.id=100\nversion=1\n");
        Path node = disk("cluster.id=AAAAAAAAAAAAAAAAAAAAAA\nnode.id=200\nversion=1\n");
        expect(null, own + "," + empty);
        expect("node 100 of the cluster with id BBBBBBBBBBBBBBBBBBBBBB, and this is node 100", cluster.toString());
        expect("node 200 of the cluster with id AAAAAAAAAAAAAAAAAAAAAA, and this is node 100", own + "," + node);
    }

    private static Path disk(String meta) throws Exception {
        Path folder = Files.createTempDirectory("disk");
        Files.writeString(folder.resolve("meta.properties"), meta);
        return folder;
    }

    private static void expect(String words, String folders) throws Exception {
        Properties server = new Properties();
        server.setProperty("node.id", "100");
        server.setProperty("log.dirs", folders);
        Properties format = new Properties();
        format.setProperty("cluster.id", "AAAAAAAAAAAAAAAAAAAAAA");
        String refusal = Launcher.refusal(server, format);
        if (words == null ? refusal != null : refusal == null || !refusal.contains(words)) {
            throw new IllegalStateException("expected " + words + ", found " + refusal);
        }
    }
}
