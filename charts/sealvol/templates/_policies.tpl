{{- /* Parts of the admission policies. `root` is the chart's scope. */ -}}

{{- /* The beginning of a policy: root, policy. */ -}}
{{- define "sealvol.policy" }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ include "sealvol.name" .root }}-{{ .policy }}
  labels: {{- include "sealvol.labels" .root | nindent 4 }}
{{- end }}

{{- define "sealvol.policyBinding" }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ include "sealvol.name" .root }}-{{ .policy }}
  labels: {{- include "sealvol.labels" .root | nindent 4 }}
spec:
  policyName: {{ include "sealvol.name" .root }}-{{ .policy }}
  validationActions: [Deny]
{{- end }}

{{- define "sealvol.controllerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "sealvol.name" . }}-controller
{{- end }}

{{- /* Variables that most policies have: annotations before and after. */ -}}
{{- define "sealvol.policyAnnotations" -}}
- name: annotations
  expression: object.metadata.?annotations.orValue({})
- name: oldAnnotations
  expression: oldObject.metadata.?annotations.orValue({})
{{- end }}

{{- /* The node that a token is bound to. */ -}}
{{- define "sealvol.policyNode" -}}
- name: node
  expression: >-
    'authentication.kubernetes.io/node-name' in request.userInfo.extra ? request.userInfo.extra['authentication.kubernetes.io/node-name'][0] : ''
{{- end }}

{{- /* The driver that creates a claim's volume, as Kubernetes records it; '' for a claim that was bound
to an existing volume. */ -}}
{{- define "sealvol.policyProvisioner" -}}
- name: provisioner
  expression: >-
    variables.oldAnnotations[?'volume.kubernetes.io/storage-provisioner'].or(variables.oldAnnotations[?'volume.beta.kubernetes.io/storage-provisioner']).orValue('')
{{- end }}

{{- /* An expression: annotations are unchanged, except the listed ones. */ -}}
{{- define "sealvol.celAnnotationsBut" -}}
{{- $but := printf "['%s']" (join "', '" .) -}}
variables.annotations.all(k, k in {{ $but }} || k in variables.oldAnnotations && variables.annotations[k] == variables.oldAnnotations[k]) &&
variables.oldAnnotations.all(k, k in {{ $but }} || k in variables.annotations)
{{- end }}

{{- /* An expression: finalizers are unchanged, except the listed ones. */ -}}
{{- define "sealvol.celFinalizersBut" -}}
{{- $but := printf "['%s']" (join "', '" .) -}}
sets.equivalent(object.metadata.?finalizers.orValue([]).filter(f, !(f in {{ $but }})), oldObject.metadata.?finalizers.orValue([]).filter(f, !(f in {{ $but }})))
{{- end }}

{{- /* An expression: labels and owners are unchanged. With an owner that does not exist, an object would
be deleted. */ -}}
{{- define "sealvol.celBelongs" -}}
object.metadata.?labels == oldObject.metadata.?labels && object.metadata.?ownerReferences == oldObject.metadata.?ownerReferences
{{- end }}

{{- /* An expression: a part of an object (part) is unchanged, except the listed fields (but). Fields
that later versions of Kubernetes add are included. */ -}}
{{- define "sealvol.celFieldsBut" -}}
{{- $but := printf "['%s']" (join "', '" .but) -}}
dyn(object).?{{ .part }}.orValue({}).all(k, k in {{ $but }} || k in dyn(oldObject).?{{ .part }}.orValue({}) && dyn(object).{{ .part }}[k] == dyn(oldObject).{{ .part }}[k]) &&
dyn(oldObject).?{{ .part }}.orValue({}).all(k, k in {{ $but }} || k in dyn(object).?{{ .part }}.orValue({}))
{{- end }}

{{- /* An expression: a PersistentVolume is unchanged, except its size and its VolumeAttributesClass. */ -}}
{{- define "sealvol.celVolumeButSize" -}}
{{ include "sealvol.celFieldsBut" (dict "part" "spec" "but" (list "capacity" "volumeAttributesClassName")) }} &&
dyn(object).spec.?capacity.orValue({}).all(k, k == 'storage')
{{- end }}
