{{/* What values.schema.json cannot say: values that contradict each other. Each ends with the one line that says so. */}}
{{- define "prelim.check" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "prelim.name" .)) -}}
{{- fail (printf "the release is called %s; a Service needs a name of small letters, digits and dashes that begins with a letter" .Release.Name) -}}
{{- end -}}
{{- include "prelim.checkFetch" . -}}
{{- include "prelim.checkEnv" . -}}
{{- include "prelim.checkAmounts" (list "server" .Values.server.resources) -}}
{{- include "prelim.checkAmounts" (list "gateway" .Values.gateway.resources) -}}
{{- with .Values.autoscaling -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas is %v, above autoscaling.maxReplicas, %v" .minReplicas .maxReplicas) -}}
{{- end -}}
{{- range .metrics -}}
{{- if not (hasKey . (untitle .type)) -}}
{{- fail (printf "autoscaling.metrics has one of the type %s without its %s" .type (untitle .type)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if eq (int .Values.service.port) (int .Values.service.grpcPort) -}}
{{- fail (printf "service.port and service.grpcPort are both %v; they need two ports" .Values.service.port) -}}
{{- end -}}
{{- if hasKey .Values.podAnnotations "checksum/settings" -}}
{{- fail "podAnnotations has checksum/settings, which the chart writes itself; leave it out" -}}
{{- end -}}
{{- range $key, $_ := .Values.serviceMonitor.labels -}}
{{- if hasKey (include "prelim.labels" $ | fromYaml) $key -}}
{{- fail (printf "serviceMonitor.labels has %s, which the chart writes itself; leave it out" $key) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Archives that overwrite each other, and downloads that the NetworkPolicy drops. */}}
{{- define "prelim.checkFetch" -}}
{{- $files := dict -}}
{{- range .Values.archives.fetch -}}
{{- $url := urlParse .url -}}
{{- $file := base $url.path -}}
{{- if hasKey $files $file -}}
{{- fail (printf "archives.fetch has two archives called %s; rename one" $file) -}}
{{- end -}}
{{- $_ := set $files $file true -}}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "80" "443" (eq $url.scheme "http")) | int -}}
{{- $open := list -}}
{{- range $.Values.networkPolicy.fetchPorts -}}{{- $open = append $open (int .) -}}{{- end -}}
{{- if and $.Values.networkPolicy.enabled (not (has $port $open)) -}}
{{- fail (printf "archives.fetch needs port %d, which is not in networkPolicy.fetchPorts" $port) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Variables that the chart sets, and those that are given twice. */}}
{{- define "prelim.checkEnv" -}}
{{- $names := dict "OMP_NUM_THREADS" "server.threads" "PRELIM_PUBLIC_KEY" "archives.publicKey" "PRELIM_AUDIT" "audit" "PRELIM_AUDIT_KEY" "audit" -}}
{{- $names = merge $names (dict "PRELIM_FOLDER" "nothing: its place is fixed" "POD_NAME" "nothing: it is the name of the pod") -}}
{{- range .Values.server.env -}}
{{- if hasKey $names .name -}}
{{- fail (printf "server.env has %s, which is set already; use %s" .name (get $names .name)) -}}
{{- end -}}
{{- if and (hasKey . "value") (hasKey . "valueFrom") -}}
{{- fail (printf "server.env has value and valueFrom for %s; leave one out" .name) -}}
{{- end -}}
{{- $_ := set $names .name "one of the two entries" -}}
{{- end -}}
{{- end }}

{{/* Limits below what is requested. */}}
{{- define "prelim.checkAmounts" -}}
{{- $name := first . -}}
{{- $limits := (last .).limits | default dict -}}
{{- range $resource, $requested := (last .).requests -}}
{{- with get $limits $resource -}}
{{- if lt (include "prelim.amount" . | float64) (include "prelim.amount" $requested | float64) -}}
{{- fail (printf "%s.resources.limits.%s is %v, below what is requested, %v" $name $resource . $requested) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* A quantity of Kubernetes as a number. */}}
{{- define "prelim.amount" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9.]+(e[+][0-9]+)?" $text -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 "Pi" 1125899906842624.0 -}}
{{- mulf (float64 $number) (get $units (trimPrefix $number $text) | default 1.0) -}}
{{- end }}
