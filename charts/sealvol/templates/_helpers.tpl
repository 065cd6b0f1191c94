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

{{- /* Who makes PersistentVolumes: csi-provisioner, on each node or in the controller. */ -}}
{{- define "sealvol.provisionerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "sealvol.name" . }}-{{ if eq .Values.backend "ebs" }}controller{{ else }}node{{ end }}
{{- end }}

{{- /* What controller and node are told of EC2. */ -}}
{{- define "sealvol.ebsArgs" -}}
{{- $e := .Values.ebs -}}
- --backend=ebs
- --metadata-sources={{ join "," $e.metadataSources }}
{{- with $e.region }}
- --aws-region={{ . }}
{{- end }}
{{- with $e.endpoints.ec2 }}
- --aws-ec2-endpoint={{ . }}
{{- end }}
{{- with $e.endpoints.metadata }}
- --aws-metadata-endpoint={{ . }}
{{- end }}
{{- end }}

{{- define "sealvol.ebsEnv" -}}
{{- $e := .Values.ebs -}}
{{- with $e.endpoints.sts }}
- {name: AWS_ENDPOINT_URL_STS, value: {{ . | quote }}}
{{- end }}
{{- if $e.fipsEndpoints }}
- {name: AWS_USE_FIPS_ENDPOINT, value: "true"}
{{- end }}
{{- if $e.dualStackEndpoints }}
- {name: AWS_USE_DUALSTACK_ENDPOINT, value: "true"}
{{- end }}
{{- if $e.caBundle }}
- {name: AWS_CA_BUNDLE, value: /etc/sealvol/ca/ca.crt}
{{- end }}
{{- range $name, $value := dict "HTTPS_PROXY" .Values.proxy.httpsProxy "HTTP_PROXY" .Values.proxy.httpProxy "NO_PROXY" .Values.proxy.noProxy }}
{{- with $value }}
- {name: {{ $name }}, value: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{- /* Parameters of a class are strings, whatever values say. */ -}}
{{- define "sealvol.parameters" -}}
{{- range $name, $value := . }}
{{ $name }}: {{ kindIs "float64" $value | ternary (int64 $value) $value | toString | quote }}
{{- end }}
{{- end }}

{{- define "sealvol.nodeAffinity" -}}
{{- if .Values.node.affinity }}
affinity: {{- toYaml .Values.node.affinity | nindent 2 }}
{{- else if eq .Values.backend "ebs" }}
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - {key: kubernetes.io/os, operator: In, values: [linux]}
            - {key: eks.amazonaws.com/compute-type, operator: NotIn, values: [fargate, hybrid]}
{{- end }}
{{- end }}

{{- define "sealvol.nodeUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "sealvol.name" . }}-node
{{- end }}
