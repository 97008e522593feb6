import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * Makes /opt/jre and /opt/kafka inside the build stage: compiles the launcher, links a runtime of the modules that
 * Kafka needs, writes the argument file and trains the archive that makes a broker start in half the time.
 * Java 25 and newer: an AOT cache (JEP 514). Older: an application class-data archive (JEP 350).
 */
public final class Build {
    private static final String MODULES = "java.base,java.desktop,java.logging,java.management,java.management.rmi,java.naming,"
            + "java.net.http,java.security.jgss,java.security.sasl,java.sql,java.xml,jdk.httpserver,jdk.management,jdk.unsupported,jdk.zipfs"
            + (Runtime.version().feature() < 22 ? ",jdk.crypto.ec" : "");

    public static void main(String[] args) throws Exception {
        String jdk = System.getProperty("java.home");
        Path kafka = Path.of("/opt/kafka");
        Path libs = kafka.resolve("libs");
        Files.createDirectories(libs);
        List<Path> jars = list(Path.of("/build/libs")).stream()
                .filter(jar -> WANTED.stream().anyMatch(jar.getFileName().toString()::startsWith)).toList();
        for (Path jar : jars) {
            Files.copy(jar, libs.resolve(jar.getFileName()));
        }
        Path launcher = libs.resolve("freehold-launcher.jar");
        List<String> javac = new ArrayList<>(List.of(jdk + "/bin/javac", "-encoding", "UTF-8", "--release", "17", "-cp", "/opt/kafka/libs/*", "-d", "/build/classes"));
        try (Stream<Path> sources = Files.walk(Path.of("/build/src"))) {
            sources.filter(Files::isRegularFile).forEach(source -> javac.add(source.toString()));
        }
        run(javac);
        check(jdk, "ScramDeltaCheck", "lost", "/opt/kafka/libs/*");
        run(List.of(jdk + "/bin/jar", "--create", "--file", launcher.toString(), "-C", "/build/classes", "."));
        String checked = list(libs).stream().map(Path::toString).collect(Collectors.joining(":"));
        check(jdk, "ScramDeltaCheck", "kept", checked);
        check(jdk, "DiskCheck", "", checked);
        for (Path jar : list(libs)) {
            // The archive is checked against whole seconds of modification times, which images keep.
            Files.setLastModifiedTime(jar, FileTime.fromMillis(1_700_000_000_000L));
        }
        boolean aot = Runtime.version().feature() >= 25;
        List<String> jlink = new ArrayList<>(List.of(jdk + "/bin/jlink", "--add-modules", MODULES, "--strip-java-debug-attributes",
                "--no-header-files", "--no-man-pages", "--output", "/opt/jre"));
        if (!aot) {
            // The archive of applications' classes builds on the runtime's own.
            jlink.add("--generate-cds-archive");
        }
        run(jlink);
        String classpath = list(libs).stream().map(Path::toString).collect(Collectors.joining(":"));
        String common = "-cp " + classpath + "\n-XX:+UseG1GC\n-XX:+ExitOnOutOfMemoryError\n-Djava.awt.headless=true\n"
                // A pod that restarts has another address, and no name while it is away: a name is asked for again after two
                // seconds, not after thirty, and one that was not known at once, not after ten.
                + "-Dsun.net.inetaddr.ttl=2\n-Dsun.net.inetaddr.negative.ttl=0\n"
                // A container has no locale: without these, older versions read and all of them log in ASCII.
                + "-Dfile.encoding=UTF-8\n-Dstdout.encoding=UTF-8\n-Dstderr.encoding=UTF-8\n"
                + "-Dlog4j2.configurationFile=/opt/kafka/config/log4j2.properties\n"
                + (aot ? "--sun-misc-unsafe-memory-access=allow\n--enable-native-access=ALL-UNNAMED\n" : "-Xshare:auto\n");
        String archive = "/opt/kafka/kafka.archive";
        Files.createDirectories(kafka.resolve("config"));
        Files.copy(Path.of("/build/log4j2.properties"), kafka.resolve("config/log4j2.properties"));
        Files.writeString(kafka.resolve("java.args"), common + (aot ? "-XX:AOTCache=" : "-XX:SharedArchiveFile=") + archive + "\n");
        Files.writeString(Path.of("/build/train.args"), common + (aot ? "-XX:AOTCacheOutput=" : "-XX:ArchiveClassesAtExit=") + archive + "\n");
        run(List.of(jdk + "/bin/keytool", "-genkeypair", "-keystore", "/build/training.p12", "-storepass", "training", "-storetype", "PKCS12",
                "-alias", "training", "-dname", "CN=training", "-keyalg", "EC", "-groupname", "secp256r1"));
        run(List.of("/opt/jre/bin/java", "@/build/train.args", "-Xmx512m", "-Dtraining.keystore=/build/training.p12",
                "dev.freehold.kafka.Launcher", "train"));
        if (!Files.exists(Path.of(archive))) {
            throw new IllegalStateException("the training start left no archive");
        }
    }

    /** The jars that a broker, Kafka's tools and VerifiableProducer use; the rest of the distribution serves Connect. */
    private static final List<String> WANTED = List.of(
            "kafka", "scala-library", "scala-reflect", "scala-logging", "scala-java8", "scala-collection", "zstd-jni", "snappy-java", "lz4-java",
            "slf4j-api", "log4j-", "jackson-", "metrics-core", "caffeine", "jopt-simple", "argparse4j", "jose4j", "pcollections", "commons-",
            "hash4j", "re2j", "HdrHistogram", "joda", "protobuf", "opentelemetry", "checker", "error_prone", "jspecify", "snakeyaml");

    /** Runs one of the checks with this class path. */
    private static void check(String jdk, String name, String expected, String classpath) throws Exception {
        run(List.of(jdk + "/bin/java", "-Dfile.encoding=UTF-8", "-cp", classpath, "/build/checks/" + name + ".java", expected));
    }

    private static List<Path> list(Path folder) throws IOException {
        try (Stream<Path> paths = Files.list(folder)) {
            return paths.sorted().toList();
        }
    }

    private static void run(List<String> command) throws Exception {
        int code = new ProcessBuilder(command).inheritIO().start().waitFor();
        if (code != 0) {
            throw new IllegalStateException(String.join(" ", command) + " ended with " + code);
        }
    }
}
