package dev.freehold.kafka;

import java.net.InetAddress;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.security.auth.KafkaPrincipal;
import org.apache.kafka.common.security.auth.SecurityProtocol;
import org.apache.kafka.metadata.authorizer.StandardAcl;
import org.apache.kafka.metadata.authorizer.StandardAuthorizer;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.AuthorizableRequestContext;
import org.apache.kafka.server.authorizer.AuthorizationResult;

/**
 * Kafka's own authorizer; principals in shadow mode are let through where it refuses them, and what would have been
 * refused is remembered for a day.
 *
 * <p>A principal is in shadow mode while it has an ACL on the transactional id {@link #MARK}, literally. DescribeAcls with
 * that name and a principal as filter answers what would still be refused to it by this node, as rules that deny.
 * The right to ask is that to describe ACLs: Describe on Cluster.
 *
 * <p>The same way this node tells how busy it is: DescribeAcls with the name {@link #LOAD} answers its {@link Load}, each measure
 * a rule whose resource is named {@code measure=value}.
 */
public final class ShadowAuthorizer extends StandardAuthorizer {
    static final String MARK = "freehold.dev/shadow";
    static final String LOAD = "freehold.dev/load";
    /** Of one principal; what comes beyond is not remembered. */
    private static final int REFUSALS_MAX = 200;
    private static final long KEEP_NANOS = TimeUnit.HOURS.toNanos(24);

    private record Refusal(AclOperation operation, ResourceType type, String name, InetAddress host) {}

    /** By principal, then by what was refused: when last. One for the process: a combined node has two authorizers. */
    private static final Map<String, Map<Refusal, Long>> REFUSALS = new ConcurrentHashMap<>();

    /** Ids of marking ACLs, and whom they mark. */
    private final Map<Uuid, String> marks = new ConcurrentHashMap<>();

    @Override
    public void addAcl(Uuid id, StandardAcl acl) {
        super.addAcl(id, acl);
        mark(id, acl);
    }

    @Override
    public void removeAcl(Uuid id) {
        super.removeAcl(id);
        String principal = marks.remove(id);
        if (principal != null && !marks.containsValue(principal)) {
            REFUSALS.remove(principal);
        }
    }

    @Override
    public void loadSnapshot(Map<Uuid, StandardAcl> acls) {
        super.loadSnapshot(acls);
        marks.clear();
        acls.forEach(this::mark);
        REFUSALS.keySet().retainAll(marks.values());
    }

    private void mark(Uuid id, StandardAcl acl) {
        boolean isMark = acl.resourceType() == ResourceType.TRANSACTIONAL_ID && acl.patternType() == PatternType.LITERAL
                && acl.resourceName().equals(MARK) && acl.permissionType() == AclPermissionType.ALLOW;
        if (isMark) {
            marks.put(id, acl.principal());
        }
    }

    private boolean isShadow(KafkaPrincipal principal) {
        return !marks.isEmpty() && marks.containsValue(principal.toString());
    }

    @Override
    public List<AuthorizationResult> authorize(AuthorizableRequestContext context, List<Action> actions) {
        List<AuthorizationResult> results = super.authorize(context, actions);
        if (!isShadow(context.principal())) {
            return results;
        }
        List<AuthorizationResult> shadowed = new ArrayList<>(results);
        for (int i = 0; i < shadowed.size(); i++) {
            Action action = actions.get(i);
            // What is not logged is no refusal: a list that is filtered, or a question before another one.
            if (shadowed.get(i) == AuthorizationResult.DENIED && action.logIfDenied()) {
                ResourcePattern resource = action.resourcePattern();
                remember(context, new Refusal(action.operation(), resource.resourceType(), resource.name(), context.clientAddress()));
                shadowed.set(i, AuthorizationResult.ALLOWED);
            }
        }
        return shadowed;
    }

    @Override
    public AuthorizationResult authorizeByResourceType(AuthorizableRequestContext context, AclOperation operation, ResourceType type) {
        AuthorizationResult result = super.authorizeByResourceType(context, operation, type);
        if (result == AuthorizationResult.DENIED && isShadow(context.principal())) {
            remember(context, new Refusal(operation, type, ResourcePattern.WILDCARD_RESOURCE, context.clientAddress()));
            return AuthorizationResult.ALLOWED;
        }
        return result;
    }

    private static void remember(AuthorizableRequestContext context, Refusal refusal) {
        Map<Refusal, Long> refusals = REFUSALS.computeIfAbsent(context.principal().toString(), key -> new ConcurrentHashMap<>());
        if (refusals.size() < REFUSALS_MAX || refusals.containsKey(refusal)) {
            refusals.put(refusal, System.nanoTime());
        }
    }

    @Override
    public Iterable<AclBinding> acls(AclBindingFilter filter) {
        if (LOAD.equals(filter.patternFilter().name())) {
            return Load.measures().entrySet().stream().map(ShadowAuthorizer::measure).toList();
        }
        String principal = filter.entryFilter().principal();
        if (!MARK.equals(filter.patternFilter().name()) || principal == null) {
            return super.acls(filter);
        }
        Map<Refusal, Long> refusals = REFUSALS.getOrDefault(principal, new ConcurrentHashMap<>());
        long now = System.nanoTime();
        refusals.entrySet().removeIf(entry -> now - entry.getValue() > KEEP_NANOS || isAllowedNow(principal, entry.getKey()));
        return refusals.keySet().stream().map(refusal -> new AclBinding(
                new ResourcePattern(refusal.type(), refusal.name(), PatternType.LITERAL),
                new AccessControlEntry(principal, refusal.host().getHostAddress(), refusal.operation(), AclPermissionType.DENY))).toList();
    }

    private static AclBinding measure(Map.Entry<String, Double> measure) {
        String text = String.format(Locale.ROOT, "%s=%.4f", measure.getKey(), measure.getValue());
        return new AclBinding(new ResourcePattern(ResourceType.CLUSTER, text, PatternType.LITERAL),
                new AccessControlEntry("User:" + LOAD, "*", AclOperation.DESCRIBE, AclPermissionType.DENY));
    }

    /** A right that was given since. */
    private boolean isAllowedNow(String principal, Refusal refusal) {
        Context context = new Context(principal, refusal.host());
        if (refusal.name().equals(ResourcePattern.WILDCARD_RESOURCE)) {
            return super.authorizeByResourceType(context, refusal.operation(), refusal.type()) == AuthorizationResult.ALLOWED;
        }
        ResourcePattern resource = new ResourcePattern(refusal.type(), refusal.name(), PatternType.LITERAL);
        Action action = new Action(refusal.operation(), resource, 1, false, false);
        return super.authorize(context, List.of(action)).get(0) == AuthorizationResult.ALLOWED;
    }

    /** A request that is none: who asks, and from where. */
    private record Context(String name, InetAddress clientAddress) implements AuthorizableRequestContext {
        @Override
        public KafkaPrincipal principal() {
            int colon = name.indexOf(':');
            return new KafkaPrincipal(name.substring(0, colon), name.substring(colon + 1));
        }

        @Override
        public String listenerName() {
            return "";
        }

        @Override
        public SecurityProtocol securityProtocol() {
            return SecurityProtocol.SASL_SSL;
        }

        @Override
        public int requestType() {
            return -1;
        }

        @Override
        public int requestVersion() {
            return -1;
        }

        @Override
        public String clientId() {
            return "";
        }

        @Override
        public int correlationId() {
            return 0;
        }
    }
}
