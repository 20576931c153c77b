{{- define "drayage.labels" -}}
app.kubernetes.io/name: drayage
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* What selects a component's pods: it never changes. The argument is the component's name. */ -}}
{{- define "drayage.selector" -}}
app.kubernetes.io/name: drayage
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- define "drayage.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* What PodSecurity's level restricted asks of a pod. */ -}}
{{- define "drayage.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "drayage.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Pods of one component keep apart by node. */ -}}
{{- define "drayage.affinity" -}}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
  - weight: 100
    podAffinityTerm:
      topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          {{- include "drayage.selector" . | nindent 10 }}
{{- end }}

{{- /* How a process logs, and where it shows metrics and profiles over TLS. */ -}}
{{- define "drayage.diagnostics" -}}
- --logging-format={{ .Values.logging.format }}
{{- if .Values.secureMetrics.enabled }}
- --secure-listen-address=:{{ .Values.secureMetrics.port }}
{{- end }}
{{- end }}

{{- define "drayage.election" -}}
- --leader-elect
- --leader-elect-lease-duration={{ .Values.leaderElection.leaseDuration }}
- --leader-elect-renew-deadline={{ .Values.leaderElection.renewDeadline }}
- --leader-elect-retry-period={{ .Values.leaderElection.retryPeriod }}
{{- end }}
