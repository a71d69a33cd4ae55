{{/* What the pods of the server and of the worker have in common. */}}

{{- define "infold.name" -}}
{{- if contains "infold" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-infold" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "infold.selector" -}}
app.kubernetes.io/name: infold
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "infold.labels" -}}
{{ include "infold.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "infold.claim" -}}
{{ .Values.persistence.existingClaim | default (printf "data-%s-0" (include "infold.name" .)) }}
{{- end }}

{{- define "infold.pod" -}}
serviceAccountName: {{ include "infold.name" . }}
automountServiceAccountToken: false
enableServiceLinks: false # they would set INFOLD_PORT
terminationGracePeriodSeconds: {{ add (mul 2 .Values.drainSeconds) 10 }} # requests drain, then the job, then the store closes
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "infold.container" -}}
image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "infold.environment" -}}
- {name: INFOLD_NAMESPACES, value: {{ .Values.namespaces | toJson | quote }}}
- {name: INFOLD_DRAIN_SECONDS, value: {{ .Values.drainSeconds | quote }}}
{{- with .Values.model }}
- {name: INFOLD_MODEL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.traces }}
- {name: INFOLD_TRACES, value: {{ . | quote }}}
{{- end }}
{{- if .Values.redis.secret }}
- name: INFOLD_REDIS_URL
  valueFrom: {secretKeyRef: {name: {{ .Values.redis.secret }}, key: {{ .Values.redis.key }}}}
{{- else if .Values.redis.url }}
- {name: INFOLD_REDIS_URL, value: {{ .Values.redis.url | quote }}}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: INFOLD_{{ upper $name }}, value: {{ kindIs "string" $value | ternary $value ($value | toJson) | quote }}}
{{- end }}
{{- end }}
