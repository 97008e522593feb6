{{- /* Made by `cargo xtask generate` from the registry of kinds and src/reference/roles.rs.
What the operator uses, and no more. docs/reference/rights.md says which code uses each right. */ -}}
{{- /* Role freehold */ -}}
{{- define "freehold.rules" -}}
# Its own resources. Finalizers are set by patch.
- apiGroups: [freehold.dev]
  resources: [topics, users]
  verbs: [get, list, watch, patch]
# Status is a subresource.
- apiGroups: [freehold.dev]
  resources: [topics/status, users/status]
  verbs: [patch]
# Owner references that block deletion need it (OwnerReferencesPermissionEnforcement).
- apiGroups: [freehold.dev]
  resources: [users/finalizers]
  verbs: [update]
# A User's Secret is replaced whole, so that no old key is left in it; it is watched, and
# deleted under its former name. A Secret that gives a password is read.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, update, delete]
# Events about its own resources. One that repeats is counted up by patch.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
{{- /* Role freehold-clusters */ -}}
{{- define "freehold.clusterRules" -}}
# Its own resources. Finalizers are set by patch.
- apiGroups: [freehold.dev]
  resources: [kafkaclusters, pipelines]
  verbs: [get, list, watch, patch]
# Status, and in it the lease of a disruption.
- apiGroups: [freehold.dev]
  resources: [kafkaclusters/status, pipelines/status]
  verbs: [patch]
# Owner references that block deletion need it (OwnerReferencesPermissionEnforcement).
- apiGroups: [freehold.dev]
  resources: [kafkaclusters/finalizers, pipelines/finalizers]
  verbs: [update]
# What a cluster is made of, its CAs and certificates, and the Secrets that its spec names.
# Server-side apply needs create and patch.
- apiGroups: [""]
  resources: [configmaps, secrets, services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# One for each pool and zone. One that is made anew is deleted without its pods.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# Who reaches which port of Kafka nodes.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# Evictions wait until the other nodes are in sync.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# StatefulSets make the volumes. They grow by patch, and are deleted only where deletionPolicy
# says Delete, or where a broker that holds nothing is replaced.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
# Pods are watched. One that is to restart is deleted, and its StatefulSet makes it anew.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
# The readiness gate of a pod.
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
# Only the events of a StatefulSet tell why it makes no pod: a quota, a policy.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
# What the stages of a Pipeline do, and their ServiceAccount, which has no rights.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
# One for each HTTP source of a Pipeline.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# The certificate of an HTTP source. Whether a Secret that a block names has the keys that the
# block needs is looked at before a pod starts.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, create, patch, delete]
# One for each stage of a Pipeline.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# The revisions of a Pipeline; the oldest are deleted.
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, list, create, delete]
# The pods of a stage reach brokers, DNS and the hosts that its blocks name.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# One replica of a stage at a time is evicted.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# The replicas of a Pipeline, which are asked how they do.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
# Only the events of a StatefulSet tell why it makes no pod: a quota, a policy.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
# A Pipeline without userRef has a User of its own, and one with isolated blocks has Topics of
# its own.
- apiGroups: [freehold.dev]
  resources: [users, topics]
  verbs: [create, delete]
{{- end }}
{{- /* Role freehold-leader */ -}}
{{- define "freehold.leaderRules" -}}
# The Lease of leader election is created once. No rule can name what is not there yet.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
# The Lease is held and renewed.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [freehold]
  verbs: [get, update]
{{- end }}
{{- /* ClusterRole freehold-NAMESPACE-namespaces */ -}}
{{- define "freehold.namespaceRules" -}}
# Labels of namespaces, for `access.namespaces.from: Selector`; they hold no secret. They are
# watched, so that a label that is taken away counts at once.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get, list, watch]
{{- end }}
{{- /* ClusterRole freehold-NAMESPACE-ending */ -}}
{{- define "freehold.endingRules" -}}
# A finalizer is removed by patch of the object; RBAC knows nothing smaller.
- apiGroups: [freehold.dev]
  resources: [kafkaclusters, topics, users, pipelines]
  verbs: [get, list, watch, patch]
# Whether a namespace is being deleted.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- end }}
{{- /* Role freehold-webhook */ -}}
{{- define "freehold.webhookRules" -}}
# The Secret of the webhook's certificate is created once.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
# The webhook's certificate is read and renewed.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [freehold-webhook]
  verbs: [get, update]
{{- end }}
{{- /* ClusterRole freehold-NAMESPACE-webhook */ -}}
{{- define "freehold.webhookConfigurationRules" -}}
# The API server is told the CA of the webhook, in this one object.
- apiGroups: [admissionregistration.k8s.io]
  resources: [validatingwebhookconfigurations]
  resourceNames: [{{ include "freehold.webhook" . }}]
  verbs: [get, patch]
{{- end }}
{{- /* The objects that the API server sends to the webhook. */ -}}
{{- define "freehold.reviewRules" -}}
- apiGroups: [freehold.dev]
  apiVersions: [v1alpha1]
  resources: [kafkaclusters, topics, users, pipelines]
  operations: [CREATE, UPDATE]
  scope: Namespaced
{{- end }}
