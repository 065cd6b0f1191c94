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

{{- /* Base of all names. Two releases in one cluster cannot work, because the CSI driver has one name. */ -}}
{{- define "sealvol.name" -}}
{{- if contains "sealvol" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-sealvol" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- /* One of Sealvol's images. The chart of a release has the digests of its appVersion. They apply
unless another tag is set. Values of an earlier version (helm upgrade --reuse-values) have neither
registry nor pinned nor digest. */ -}}
{{- define "sealvol.image" -}}
{{- $images := .root.Values.images -}}
{{- $i := index $images .name -}}
{{- $digest := $i.digest -}}
{{- if and (ne (toString $images.pinned) "false") (not $i.tag) (not $digest) -}}
{{- $digest = get (fromYaml (.root.Files.Get "files/digests.yaml")) .name -}}
{{- end -}}
{{- include "sealvol.reference" (dict "registry" (.root.Values.registry | default $images.registry) "repository" $i.repository "tag" ($i.tag | default .root.Chart.AppVersion) "digest" $digest) -}}
{{- end }}

{{- /* The image of a sidecar. tools/release/chart.go has the same table. The chart of a release has
digests for the tags in its own values if charts/sidecars.lock existed when it was made. They do not
apply to other tags. */ -}}
{{- define "sealvol.sidecar" -}}
{{- $sidecars := .root.Values.sidecars -}}
{{- $name := get (dict "provisioner" "csi-provisioner" "snapshotter" "csi-snapshotter" "resizer" "csi-resizer" "attacher" "csi-attacher" "registrar" "csi-node-driver-registrar") .name -}}
{{- $tag := get $sidecars .name -}}
{{- $digest := "" -}}
{{- if ne (toString .root.Values.images.pinned) "false" -}}
{{- $digest = get (get (fromYaml (.root.Files.Get "files/digests.yaml")) "sidecars" | default dict) (printf "%s:%s" $name $tag) -}}
{{- end -}}
{{- include "sealvol.reference" (dict "registry" .root.Values.registry "repository" (printf "%s/%s" $sidecars.registry $name) "tag" $tag "digest" $digest) -}}
{{- end }}

{{- /* registry replaces the registry in the repository's name, if it has one. */ -}}
{{- define "sealvol.reference" -}}
{{- with .registry }}{{ . | trimSuffix "/" }}/{{ regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $.repository "" }}{{ else }}{{ .repository }}{{ end }}:{{ .tag }}{{ with .digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* "true" if snapshots are enabled. auto: unless the cluster lacks their API. Every API server has
apiregistration.k8s.io, so helm is rendering without a cluster if that is missing. Then snapshots are
enabled, because an operator that ignores snapshots deletes keys that they need. */ -}}
{{- define "sealvol.snapshots" -}}
{{- if ne (toString .Values.snapshots.enabled) "auto" -}}
{{- if .Values.snapshots.enabled }}true{{ end }}
{{- else if or (.Capabilities.APIVersions.Has "snapshot.storage.k8s.io/v1") (not (.Capabilities.APIVersions.Has "apiregistration.k8s.io/v1")) -}}
true
{{- end }}
{{- end }}

{{- define "sealvol.nodeSelector" -}}
nodeSelector: {{- toYaml (merge dict . (dict "kubernetes.io/os" "linux")) | nindent 2 }}
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

{{- /* The user that creates PersistentVolumes: csi-provisioner, on each node or in the controller. */ -}}
{{- define "sealvol.provisionerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "sealvol.name" . }}-{{ if eq .Values.backend "ebs" }}controller{{ else }}node{{ end }}
{{- end }}

{{- /* Flags of controller and node about EC2. */ -}}
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

{{- /* Parameters of a class must be strings; values may be numbers. */ -}}
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
