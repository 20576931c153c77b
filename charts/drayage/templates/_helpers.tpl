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

{{- /* With cert-manager, its injector writes whom to trust into what leads to the managers. */ -}}
{{- define "drayage.injectedCA" -}}
{{- if .Values.certificates.certManager.enabled -}}
annotations:
  cert-manager.io/inject-ca-from: {{ .Release.Namespace }}/drayage-serving
{{- end -}}
{{- end }}

{{- /* The size of a node's share of the pods' range, if the range has such shares and one has an address for each pod of a
slot. A share's first and last address are no pod's. */ -}}
{{- define "drayage.nodeCIDRMaskSize" -}}
{{- $size := int (default 24 .Values.network.nodeCIDRMaskSize) -}}
{{- if lt $size (int (last (splitList "/" .Values.network.podCIDR))) -}}
{{- fail (printf "network.nodeCIDRMaskSize: the range network.podCIDR %s has no shares of /%d" .Values.network.podCIDR $size) -}}
{{- end -}}
{{- $pods := 1 -}}
{{- range until (int (sub 32 $size)) }}{{ $pods = mul 2 $pods }}{{ end -}}
{{- $pods = sub $pods 2 -}}
{{- if gt (int .Values.agent.slot.pods) (int $pods) -}}
{{- fail (printf "network.nodeCIDRMaskSize: a /%d has the addresses of %d pods, agent.slot.pods are %d" $size $pods (int .Values.agent.slot.pods)) -}}
{{- end -}}
{{- $size -}}
{{- end }}

{{- define "drayage.election" -}}
- --leader-elect
- --leader-elect-lease-duration={{ .Values.leaderElection.leaseDuration }}
- --leader-elect-renew-deadline={{ .Values.leaderElection.renewDeadline }}
- --leader-elect-retry-period={{ .Values.leaderElection.retryPeriod }}
{{- end }}

{{- /* What an agent's container may, beside a container's usual: namespaces and mounts, networks, other processes' namespaces. */ -}}
{{- define "drayage.agentSecurityContext" -}}
runAsUser: 0
runAsGroup: 0
{{- if .Values.agent.privileged }}
privileged: true
{{- else }}
seccompProfile: {type: Unconfined}
appArmorProfile: {type: Unconfined}
capabilities:
  add: [SYS_ADMIN, NET_ADMIN, SYS_PTRACE]
{{- end }}
{{- end }}

{{- /* The one-shot pod that takes what Drayage has left off one node. It waits until the node's agent has ended. */ -}}
{{- define "drayage.cleanPod" -}}
apiVersion: v1
kind: Pod
metadata:
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "drayage.labels" . | nindent 4 }}
    app.kubernetes.io/component: clean
spec:
  restartPolicy: OnFailure
  hostNetwork: true
  hostPID: true
  automountServiceAccountToken: false
  priorityClassName: {{ .Values.agent.priorityClassName }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  containers:
  - name: clean
    image: {{ include "drayage.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [/usr/local/bin/dray-agent]
    args:
    - clean
    - --host
    - --purge
    - --data-dir={{ .Values.agent.dataDir }}
    - --run-dir={{ .Values.agent.runDir }}
    - --cgroup-root={{ .Values.agent.cgroupRoot }}
    env:
    - name: NODE_NAME
      valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
    terminationMessagePolicy: FallbackToLogsOnError
    resources:
      {{- toYaml .Values.uninstall.resources | nindent 6 }}
    securityContext:
      {{- include "drayage.agentSecurityContext" . | nindent 6 }}
    volumeMounts:
    - {name: data, mountPath: {{ .Values.agent.dataDir }}}
    - {name: run, mountPath: {{ .Values.agent.runDir }}}
  volumes:
  - name: data
    hostPath: {path: {{ .Values.agent.dataDir }}, type: DirectoryOrCreate}
  - name: run
    hostPath: {path: {{ .Values.agent.runDir }}, type: DirectoryOrCreate}
{{- end }}
