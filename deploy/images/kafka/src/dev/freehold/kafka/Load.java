package dev.freehold.kafka;

import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * How busy this node is, as averages of the last minute or less, all of them numbers from zero up:
 *
 * <ul>
 *   <li>{@code cpu}: share of the CPUs that this JVM may use, over a minute
 *   <li>{@code cpuPressure}, {@code ioPressure}: share of the last ten seconds in which some of its work waited for a CPU, or
 *       for a disk (the kernel's pressure stall information); absent where the kernel does not tell
 *   <li>{@code cpuPressureNow}: the same for a CPU, of the last two seconds
 *   <li>{@code bytesIn}, {@code bytesOut}: bytes per second from and to clients
 *   <li>{@code replicationIn}, {@code replicationOut}: bytes per second from and to other brokers
 * </ul>
 */
final class Load {
    private static final long PERIOD_MILLIS = 2000;
    private static final double MINUTE = Math.exp(-PERIOD_MILLIS / 60_000.0);

    private static volatile double cpu;
    private static volatile Double cpuPressureNow;

    private Load() {}

    /** Begins to watch; for as long as this JVM runs. */
    static void watch() {
        OperatingSystemMXBean system = ManagementFactory.getPlatformMXBean(OperatingSystemMXBean.class);
        Thread watch = new Thread(() -> {
            try {
                while (true) {
                    Double before = pressure("cpu", "total");
                    long start = System.nanoTime();
                    Thread.sleep(PERIOD_MILLIS);
                    double now = system.getProcessCpuLoad();
                    cpu = now < 0 ? cpu : MINUTE * cpu + (1 - MINUTE) * now;
                    Double after = pressure("cpu", "total");
                    long micros = (System.nanoTime() - start) / 1000;
                    cpuPressureNow = before == null || after == null ? null : (after - before) / micros;
                }
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }, "load");
        watch.setDaemon(true);
        watch.start();
    }

    static Map<String, Double> measures() {
        Map<String, Double> measures = new TreeMap<>(Map.of("cpu", cpu));
        for (String kind : List.of("cpu", "io")) {
            Double percent = pressure(kind, "avg10");
            put(measures, kind + "Pressure", percent == null ? null : percent / 100);
        }
        put(measures, "cpuPressureNow", cpuPressureNow);
        put(measures, "bytesIn", rate("BytesInPerSec"));
        put(measures, "bytesOut", rate("BytesOutPerSec"));
        put(measures, "replicationIn", rate("ReplicationBytesInPerSec"));
        put(measures, "replicationOut", rate("ReplicationBytesOutPerSec"));
        return measures;
    }

    private static void put(Map<String, Double> measures, String name, Double value) {
        if (value != null && Double.isFinite(value)) {
            measures.put(name, value);
        }
    }

    /** The first line is {@code some avg10=1.23 ... total=456}, percent and microseconds; of the container, or else of the machine. */
    private static Double pressure(String kind, String key) {
        for (String file : List.of("/sys/fs/cgroup/" + kind + ".pressure", "/proc/pressure/" + kind)) {
            try {
                String line = Files.readString(Path.of(file)).lines().findFirst().orElse("");
                String value = line.substring(line.indexOf(" " + key + "=") + key.length() + 2);
                return Double.parseDouble(value.split(" ")[0]);
            } catch (IOException | RuntimeException e) {
                // The next one, or none.
            }
        }
        return null;
    }

    /** A rate of all topics; {@code null} on a node that is no broker, and until there was any. */
    private static Double rate(String name) {
        Object rate = Launcher.attribute("kafka.server:type=BrokerTopicMetrics,name=" + name, "OneMinuteRate");
        return rate instanceof Number number ? number.doubleValue() : null;
    }
}
