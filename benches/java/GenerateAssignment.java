package org.apache.kafka.clients.admin;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.reflect.Proxy;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import org.apache.kafka.common.KafkaFuture;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.tools.reassign.ReassignPartitionsCommand;

/**
 * Kafka's own kafka-reassign-partitions --generate, asked about a cluster that there is only as text: its admin client answers
 * from standard input. In this package, because only here the client's answers can be made.
 *
 * <p>Input: a line "id:rack" a broker, an empty line, then a line of broker ids a partition, separated by commas. Output: how many
 * replicas the proposal puts where there was none, and how long the tool took for it, in milliseconds.
 */
public final class GenerateAssignment {
    /** Partitions of a topic: the tool begins anew at a random broker for each. */
    private static final int PARTITIONS_OF_A_TOPIC = 1000;

    private GenerateAssignment() {}

    public static void main(String[] args) throws Exception {
        Map<Integer, Node> brokers = new HashMap<>();
        Map<String, List<TopicPartitionInfo>> topics = new HashMap<>();
        read(brokers, topics);
        Map<String, TopicDescription> descriptions = new HashMap<>();
        topics.forEach((name, partitions) -> descriptions.put(name, new TopicDescription(name, false, partitions)));
        // Brokers that are to hold nothing any more are known by their replicas, and not among these.
        Collection<Node> usable = brokers.values().stream().filter(node -> node.hasRack()).collect(Collectors.toList());
        Admin admin = admin(descriptions, usable);
        String wanted = topics.keySet().stream().map(name -> "{\"topic\":\"" + name + "\"}").collect(Collectors.joining(","));
        String ids = usable.stream().map(Node::idString).collect(Collectors.joining(","));
        // It prints both assignments, which nobody reads here.
        PrintStream out = System.out;
        System.setOut(new PrintStream(OutputStream.nullOutputStream()));
        long start = System.nanoTime();
        Map<TopicPartition, List<Integer>> proposed =
                ReassignPartitionsCommand.generateAssignment(admin, "{\"version\":1,\"topics\":[" + wanted + "]}", ids, true).getKey();
        long took = (System.nanoTime() - start) / 1_000_000;
        long moves = 0;
        for (Map.Entry<TopicPartition, List<Integer>> one : proposed.entrySet()) {
            List<Node> before = topics.get(one.getKey().topic()).get(one.getKey().partition()).replicas();
            HashSet<Integer> added = new HashSet<>(one.getValue());
            before.forEach(node -> added.remove(node.id()));
            moves += added.size();
        }
        out.println(moves + " " + took);
    }

    private static void read(Map<Integer, Node> brokers, Map<String, List<TopicPartitionInfo>> topics) throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); !line.isEmpty(); line = in.readLine()) {
            String[] broker = line.split(":");
            int id = Integer.parseInt(broker[0]);
            brokers.put(id, new Node(id, "broker-" + id, 9092, broker.length > 1 ? broker[1] : null));
        }
        int index = 0;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            List<Node> replicas = Arrays.stream(line.split(",")).map(id -> brokers.get(Integer.valueOf(id))).collect(Collectors.toList());
            List<TopicPartitionInfo> topic = topics.computeIfAbsent("topic-" + index / PARTITIONS_OF_A_TOPIC, name -> new ArrayList<>());
            topic.add(new TopicPartitionInfo(topic.size(), replicas.get(0), replicas, replicas));
            index++;
        }
    }

    /** It answers what the tool asks. */
    private static Admin admin(Map<String, TopicDescription> topics, Collection<Node> brokers) {
        Map<String, KafkaFuture<TopicDescription>> futures = new HashMap<>();
        topics.forEach((name, topic) -> futures.put(name, KafkaFuture.completedFuture(topic)));
        return (Admin) Proxy.newProxyInstance(Admin.class.getClassLoader(), new Class<?>[] {Admin.class}, (proxy, method, args) -> {
            switch (method.getName()) {
                case "describeTopics":
                    return DescribeTopicsResult.ofTopicNames(futures);
                case "describeCluster":
                    return new DescribeClusterResult(
                            KafkaFuture.completedFuture(brokers),
                            KafkaFuture.completedFuture(null),
                            KafkaFuture.completedFuture("generated"),
                            KafkaFuture.completedFuture(null));
                case "describeReplicaLogDirs":
                    return new DescribeReplicaLogDirsResult(Map.of());
                default:
                    throw new UnsupportedOperationException(method.getName());
            }
        });
    }
}
