package dev.freehold.kafka;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.management.ManagementFactory;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileStore;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Executors;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import javax.management.MBeanServer;
import javax.management.ObjectName;

/**
 * Starts one Kafka node of a Freehold cluster in one JVM: fills in what only the pod knows, formats its empty
 * volumes, answers the kubelet's probes from the broker's own state, then is kafka.Kafka.
 *
 * <p>Reads {@code server.properties} and {@code format.properties} from the folder given as first argument. In their
 * values {@code @NAME@} stands for the environment variable NAME. Keys of format.properties: {@code cluster.id};
 * {@code initial.controllers} as of KIP-853, {@code id@host:port:directoryId} separated by commas.
 */
public final class Launcher {
    private static final int PROBE_PORT = 8080;
    /** kafka.server metrics: BrokerState RUNNING; below it the broker starts or recovers, above it shuts down. */
    private static final int BROKER_RUNNING = 3;

    /** EX_CONFIG of sysexits.h; 3 is that of a JVM that ran out of memory. */
    private static final int REFUSED = 78;

    private Launcher() {}

    public static void main(String[] args) throws Exception {
        if (args.length != 1) {
            System.err.println("usage: Launcher FOLDER (with server.properties and format.properties)");
            System.exit(2);
        }
        if (args[0].equals("train")) {
            Training.main(args);
            return;
        }
        Path folder = Path.of(args[0]);
        Properties server = read(folder.resolve("server.properties"));
        Properties format = read(folder.resolve("format.properties"));
        server.setProperty("log.dirs", mounted(server.getProperty("log.dirs")));
        Path config = Path.of(System.getProperty("java.io.tmpdir"), "server.properties");
        try (OutputStream out = Files.newOutputStream(config)) {
            server.store(out, null);
        }
        String refusal = refusal(server, format);
        if (refusal != null) {
            refuse(refusal);
        }
        serveProbes(server.getProperty("process.roles").contains("broker"));
        tellFullVolumes(server.getProperty("log.dirs"));
        formatEmptyVolumes(server, format, config);
        endWithoutQuorum();
        Load.watch();
        kafka.Kafka.main(new String[] {config.toString()});
    }

    /**
     * A node that is told to end asks the quorum's leader to take its partitions away. Where there is no leader any more,
     * as when a whole cluster ends, it would wait for minutes for an answer that cannot come: after five seconds without
     * a leader it ends at once, and recovers its logs at its next start.
     */
    private static void endWithoutQuorum() {
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            Thread watch = new Thread(() -> {
                int without = 0;
                while (without < 10) {
                    Object leader = attribute("kafka.server:type=raft-metrics", "current-leader");
                    without = leader instanceof Number number && number.intValue() == -1 ? without + 1 : 0;
                    try {
                        Thread.sleep(500);
                    } catch (InterruptedException e) {
                        return;
                    }
                }
                System.err.println("no leader in the quorum: ending without a controlled shutdown");
                Runtime.getRuntime().halt(1);
            }, "end-without-quorum");
            watch.setDaemon(true);
            watch.start();
        }));
    }

    /**
     * A broker whose volume is full ends with an error that is far above the last lines of its log, which are what the kubelet
     * keeps: where one is full at the start, that is said where the kubelet looks first.
     */
    private static void tellFullVolumes(String logDirs) {
        for (String folder : logDirs.split(",")) {
            try {
                FileStore volume = Files.getFileStore(Path.of(folder).getParent());
                if (volume.getUsableSpace() < volume.getTotalSpace() / 500) {
                    String words = "No space left on device: the volume of " + folder + " has " + volume.getUsableSpace() + " of "
                            + volume.getTotalSpace() + " bytes left\n";
                    System.err.print(words);
                    Files.writeString(Path.of("/dev/termination-log"), words);
                }
            } catch (IOException e) {
                System.err.println("cannot say whether " + folder + " is full: " + e);
            }
        }
    }

    static Properties read(Path file) throws IOException {
        Properties properties = new Properties();
        try (InputStream in = Files.newInputStream(file)) {
            properties.load(in);
        }
        for (String key : properties.stringPropertyNames()) {
            String value = properties.getProperty(key);
            for (Map.Entry<String, String> variable : System.getenv().entrySet()) {
                value = value.replace("@" + variable.getKey() + "@", variable.getValue());
            }
            properties.setProperty(key, value);
        }
        return properties;
    }

    /** The folders on volumes that this pod has: one that was made before a volume came to its cluster does without. */
    static String mounted(String logDirs) {
        return Stream.of(logDirs.split(",")).filter(folder -> Files.isDirectory(Path.of(folder).getParent())).collect(Collectors.joining(","));
    }

    /**
     * Why this node must not start on the disks that it has: one was written by another cluster or another node. {@code null} where
     * they are its own, or empty.
     */
    public static String refusal(Properties server, Properties format) throws IOException {
        String cluster = format.getProperty("cluster.id");
        String node = server.getProperty("node.id");
        for (String folder : server.getProperty("log.dirs").split(",")) {
            Path file = Path.of(folder, "meta.properties");
            if (!Files.exists(file)) {
                continue;
            }
            Properties found = new Properties();
            try (InputStream in = Files.newInputStream(file)) {
                found.load(in);
            }
            String foundCluster = found.getProperty("cluster.id", cluster);
            String foundNode = found.getProperty("node.id", node);
            if (!foundCluster.equals(cluster) || !foundNode.equals(node)) {
                return "the disk at " + folder + " is that of node " + foundNode + " of the cluster with id " + foundCluster + ", and this is node "
                        + node + " of the cluster with id " + cluster
                        + ": Kafka is not started on it, and nothing on it is changed; give this node another volume, or its own one back";
            }
        }
        return null;
    }

    /** Ends, and leaves word in the container's status: the operator knows its own words by how they begin. */
    private static void refuse(String why) {
        String words = "freehold: " + why + "\n";
        System.err.print(words);
        try {
            Files.writeString(Path.of("/dev/termination-log"), words);
        } catch (IOException e) {
            // The last lines of the log stand in for it.
        }
        System.exit(REFUSED);
    }

    /** A volume is formatted once: meta.properties is the last thing that formatting writes (KIP-858). */
    static void formatEmptyVolumes(Properties server, Properties format, Path config) {
        List<Boolean> formatted =
                Stream.of(server.getProperty("log.dirs").split(",")).map(folder -> Files.exists(Path.of(folder, "meta.properties"))).toList();
        if (!formatted.contains(false)) {
            return;
        }
        List<String> args = new ArrayList<>(List.of(
                "format", "--cluster-id", format.getProperty("cluster.id"), "--config", config.toString(), "--ignore-formatted"));
        String initial = format.getProperty("initial.controllers", "");
        String self = server.getProperty("node.id") + "@";
        boolean isInitial = List.of(initial.split(",")).stream().anyMatch(voter -> voter.startsWith(self));
        // The first folder has the metadata: where it is formatted, its node was in the quorum before.
        if (isInitial && !formatted.get(0)) {
            args.addAll(List.of("--initial-controllers", initial));
        } else {
            args.add("--no-initial-controllers");
        }
        int code = kafka.tools.StorageTool.execute(args.toArray(new String[0]), new PrintStream(System.out, true));
        if (code != 0) {
            System.err.println("formatting the volumes failed");
            System.exit(code);
        }
    }

    private static void serveProbes(boolean broker) throws IOException {
        HttpServer http = HttpServer.create(new InetSocketAddress(PROBE_PORT), 16);
        http.createContext("/", exchange -> {
            String state = broker ? brokerState() : raftState();
            boolean ready = state.startsWith("ready");
            boolean live = exchange.getRequestURI().getPath().equals("/livez");
            byte[] body = (state + "\n").getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(ready || live ? 200 : 503, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        http.setExecutor(Executors.newSingleThreadExecutor(work -> {
            Thread thread = new Thread(work, "probes");
            thread.setDaemon(true);
            return thread;
        }));
        http.start();
    }

    /** Of an MBean of this JVM; {@code null} where there is none. */
    static Object attribute(String name, String attribute) {
        try {
            MBeanServer beans = ManagementFactory.getPlatformMBeanServer();
            return beans.getAttribute(new ObjectName(name), attribute);
        } catch (Exception e) {
            return null;
        }
    }

    static String brokerState() {
        Object state = attribute("kafka.server:type=KafkaServer,name=BrokerState", "Value");
        boolean running = state instanceof Number number && number.intValue() == BROKER_RUNNING;
        return running ? "ready" : "broker state " + state;
    }

    /** A controller is ready when it leads or follows in the quorum and knows a committed offset. */
    static String raftState() {
        Object state = attribute("kafka.server:type=raft-metrics", "current-state");
        Object committed = attribute("kafka.server:type=raft-metrics", "high-watermark");
        boolean member = "leader".equals(state) || "follower".equals(state) || "observer".equals(state);
        boolean caught = committed instanceof Number number && number.doubleValue() >= 0;
        return member && caught ? "ready" : "quorum state " + state + ", high watermark " + committed;
    }
}
