{{- define "prelim.name" -}}
{{- if contains "prelim" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-prelim" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "prelim.selector" -}}
app.kubernetes.io/name: prelim
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "prelim.labels" -}}
{{ include "prelim.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "prelim.image" -}}
{{- $variant := ternary "gpu" "cpu" (gt (int .Values.gpu.count) 0) -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s-%s" .Chart.AppVersion $variant) }}
{{- end -}}
{{- end }}

{{/* What every container has in common: no rights, and nothing of the image can be changed. */}}
{{- define "prelim.container" -}}
image: {{ include "prelim.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Threads of a worker. A request below one core, or in thousandths, counts up to the next whole core. */}}
{{- define "prelim.threads" -}}
{{- $cpu := toString .Values.server.resources.requests.cpu -}}
{{- if .Values.server.threads -}}
{{ .Values.server.threads }}
{{- else if hasSuffix "m" $cpu -}}
{{ max 1 (div (int (trimSuffix "m" $cpu)) 1000) }}
{{- else -}}
{{ max 1 (int (floor (float64 $cpu))) }}
{{- end -}}
{{- end }}

{{/* Where the launcher finds the key that must have signed the archives. */}}
{{- define "prelim.publicKey" -}}
{name: PRELIM_PUBLIC_KEY, value: /etc/prelim-signer/archives.pub}
{{- end }}
