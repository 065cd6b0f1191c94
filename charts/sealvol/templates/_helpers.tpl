{{- define "sealvol.labels" -}}
app.kubernetes.io/name: sealvol
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "sealvol.selector" -}}
app.kubernetes.io/name: sealvol
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* Base of all names: two releases in one cluster do not work anyway, since the CSI driver has one name. */ -}}
{{- define "sealvol.name" -}}
{{- if contains "sealvol" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-sealvol" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sealvol.image" -}}
{{- $i := index .root.Values.images .name -}}
{{ $i.repository }}:{{ $i.tag | default .root.Chart.AppVersion }}
{{- end }}

{{- define "sealvol.logArgs" -}}
- --log-level={{ .Values.logLevel }}
- --log-format={{ .Values.logFormat }}
{{- end }}

{{- /* Objects of a generated file, as {"objects": [...]}. */ -}}
{{- define "sealvol.generated" -}}
objects:
{{- range splitList "\n---\n" (printf "\n%s" (.root.Files.Get .file)) }}
{{- $o := fromYaml . }}
{{- if $o.kind }}
  - {{ toJson $o }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sealvol.operatorUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "sealvol.name" . }}-operator
{{- end }}

{{- define "sealvol.nodeUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "sealvol.name" . }}-node
{{- end }}
