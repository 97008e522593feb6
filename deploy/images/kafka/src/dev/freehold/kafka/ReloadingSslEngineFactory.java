package dev.freehold.kafka;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLEngine;
import org.apache.kafka.common.config.SslConfigs;
import org.apache.kafka.common.security.auth.SslEngineFactory;
import org.apache.kafka.common.security.ssl.DefaultSslEngineFactory;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Kafka's own factory of TLS engines (KIP-519), made anew when the files of keys or trust have changed: a renewed
 * certificate or another CA is in force for the next connection, on brokers and controllers alike, without a restart.
 * Open connections stay as they are. Files that cannot be used change nothing, and are tried again.
 */
public final class ReloadingSslEngineFactory implements SslEngineFactory {
    private static final Logger LOG = LoggerFactory.getLogger(ReloadingSslEngineFactory.class);
    private static final long LOOK_NANOS = TimeUnit.SECONDS.toNanos(1);

    private Map<String, ?> configs = Map.of();
    private DefaultSslEngineFactory current;
    private List<byte[]> contents = List.of();
    private long looked;

    @Override
    public synchronized void configure(Map<String, ?> configs) {
        this.configs = configs;
        contents = read();
        current = make();
        looked = System.nanoTime();
    }

    private DefaultSslEngineFactory make() {
        DefaultSslEngineFactory factory = new DefaultSslEngineFactory();
        factory.configure(configs);
        return factory;
    }

    private List<byte[]> read() {
        List<byte[]> all = new ArrayList<>();
        for (String key : List.of(SslConfigs.SSL_KEYSTORE_LOCATION_CONFIG, SslConfigs.SSL_TRUSTSTORE_LOCATION_CONFIG)) {
            Object path = configs.get(key);
            try {
                all.add(path == null ? new byte[0] : Files.readAllBytes(Path.of(path.toString())));
            } catch (IOException e) {
                all.add(new byte[0]);
            }
        }
        return all;
    }

    private synchronized DefaultSslEngineFactory current() {
        long now = System.nanoTime();
        if (now - looked < LOOK_NANOS) {
            return current;
        }
        looked = now;
        List<byte[]> found = read();
        boolean same = Arrays.equals(found.get(0), contents.get(0)) && Arrays.equals(found.get(1), contents.get(1));
        if (same) {
            return current;
        }
        try {
            DefaultSslEngineFactory next = make();
            current.close();
            current = next;
            contents = found;
            LOG.info("certificates or trust have changed: in force for new connections");
        } catch (RuntimeException e) {
            LOG.error("changed certificates or trust cannot be used, the old ones stay", e);
        }
        return current;
    }

    @Override
    public SSLEngine createClientSslEngine(String peerHost, int peerPort, String endpointIdentification) {
        return current().createClientSslEngine(peerHost, peerPort, endpointIdentification);
    }

    @Override
    public SSLEngine createServerSslEngine(String peerHost, int peerPort) {
        return current().createServerSslEngine(peerHost, peerPort);
    }

    @Override
    public boolean shouldBeRebuilt(Map<String, Object> nextConfigs) {
        return !Objects.equals(nextConfigs, configs);
    }

    @Override
    public Set<String> reconfigurableConfigs() {
        return SslConfigs.RECONFIGURABLE_CONFIGS;
    }

    @Override
    public KeyStore keystore() {
        return current().keystore();
    }

    @Override
    public KeyStore truststore() {
        return current().truststore();
    }

    @Override
    public synchronized void close() {
        current.close();
    }
}
