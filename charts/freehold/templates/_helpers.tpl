{{- define "freehold.labels" -}}
app.kubernetes.io/name: freehold
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "freehold.selector" -}}
app.kubernetes.io/name: freehold
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The namespaces that are watched, for Topics and Users; none where all are. */}}
{{- define "freehold.namespaces" -}}
{{- if .Values.watchAllNamespaces -}}
{{- if .Values.watchNamespaces -}}
{{- fail "watchAllNamespaces is true and watchNamespaces names some: leave out one of them" -}}
{{- end -}}
[]
{{- else -}}
{{- concat (.Values.watchNamespaces | default (list .Release.Namespace)) .Values.clusterNamespaces | uniq | toJson -}}
{{- end -}}
{{- end }}

{{/* Those of them that have KafkaClusters; none where all may. */}}
{{- define "freehold.clusterNamespaces" -}}
{{- if .Values.clusterNamespaces -}}
{{- .Values.clusterNamespaces | toJson -}}
{{- else -}}
{{- include "freehold.namespaces" . -}}
{{- end -}}
{{- end }}

{{/* Those of some namespaces in which objects can be created. An upgrade leaves out those that are gone
or being deleted, because one of them would fail the whole upgrade; an installation does not, so that
a wrong name is noticed. Without a cluster to ask (helm template) all of them count as there. */}}
{{- define "freehold.living" -}}
{{- $root := index . 0 -}}
{{- $asks := and $root.Release.IsUpgrade (lookup "v1" "Namespace" "" $root.Release.Namespace) -}}
{{- $living := list -}}
{{- range $name := index . 1 | fromJsonArray -}}
{{- $phase := "Active" -}}
{{- if $asks -}}
{{- $phase = dig "status" "phase" "Gone" (lookup "v1" "Namespace" "" $name | default dict) -}}
{{- end -}}
{{- if eq $phase "Active" -}}
{{- $living = append $living $name -}}
{{- end -}}
{{- end -}}
{{- $living | toJson -}}
{{- end }}

{{- define "freehold.livingNamespaces" -}}
{{- include "freehold.living" (list . (include "freehold.namespaces" .)) -}}
{{- end }}

{{- define "freehold.images" -}}
{{- $pairs := list -}}
{{- range $version, $image := .Values.kafkaImages -}}
{{- $pairs = append $pairs (printf "%s=%s" $version $image) -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end }}

{{/* The environment of every command of the operator's binary: namespaces and the webhook. */}}
{{- define "freehold.environment" -}}
- name: FREEHOLD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- if .Values.watchAllNamespaces }}
- name: FREEHOLD_ALL_NAMESPACES
  value: "true"
{{- else }}
- name: FREEHOLD_WATCH_NAMESPACES
  value: {{ include "freehold.namespaces" . | fromJsonArray | join "," | quote }}
{{- end }}
{{- with .Values.clusterNamespaces }}
- name: FREEHOLD_CLUSTER_NAMESPACES
  value: {{ join "," . | quote }}
{{- end }}
{{- if .Values.webhook.enabled }}
- name: FREEHOLD_WEBHOOK_CONFIGURATION
  value: {{ include "freehold.webhook" . }}
{{- end }}
{{- end }}

{{/* Name of the cluster-wide objects of the webhook. */}}
{{- define "freehold.webhook" -}}
{{ .Release.Name }}-{{ .Release.Namespace }}
{{- end }}
