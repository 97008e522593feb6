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

{{- define "freehold.namespaces" -}}
{{- .Values.watchNamespaces | default (list .Release.Namespace) | toJson -}}
{{- end }}

{{- define "freehold.images" -}}
{{- $pairs := list -}}
{{- range $version, $image := .Values.kafkaImages -}}
{{- $pairs = append $pairs (printf "%s=%s" $version $image) -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end }}

{{/* Name of the cluster-wide objects of the webhook. */}}
{{- define "freehold.webhook" -}}
{{ .Release.Name }}-{{ .Release.Namespace }}
{{- end }}
