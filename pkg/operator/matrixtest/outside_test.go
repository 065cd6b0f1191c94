package matrixtest

// These are attempts from outside of Sealvol: by a tenant with the role "edit" in the namespace crm
// (row F of the threat model), by the kubelet of a compromised node (row G), and by an
// administrator's mistake.

func tenants() []attempt {
	const what = "reads Secrets of its own namespace"
	own := get("secrets crm/password")
	return []attempt{
		{who: tenant, what: "reads the delivery Secret of another tenant's volume", rule: rbac, try: get("secrets ${release}/${volumeA}"), instead: what, control: own},
		{who: tenant, what: "reads the delivery Secret of its own volume", rule: rbac, try: get("secrets ${release}/${volumeB}")},
		{who: tenant, what: "reads a key Secret", rule: rbac, try: get("secrets ${release}/${key}")},
		{who: tenant, what: "lists the Secrets of the release's namespace", rule: rbac, try: list("secrets ${release}/"), instead: what, control: list("secrets crm/")},
		{who: tenant, what: "reads a Secret of another namespace", rule: rbac, try: get("secrets shop/password"), instead: what, control: own},
		{who: tenant, what: "creates a PersistentVolume that names another tenant's Secret", rule: rbac, try: create("persistentvolumes x", "volume", `{}`)},
		{who: tenant, what: "creates a SealedVolume", rule: rbac, try: create("sealedvolumes x", "", `{apiVersion: sealvol.dev/v1alpha1, kind: SealedVolume, metadata: {name: x}, spec: {volumeHandle: h}}`)},
		{who: tenant, what: "reads the anchor of another tenant's volume", rule: rbac, try: get("sealedvolumes ${volumeA}")},
		{who: tenant, what: "removes the anchor of its own volume", rule: rbac, try: patch("sealedvolumes/status ${volumeB}", `{status: {anchor: null}}`)},
		{who: tenant, what: "reads another tenant's VolumeKey", rule: rbac, try: get("volumekeys shop/team"), instead: "reads its own VolumeKey", control: get("volumekeys crm/team")},
		{who: tenant, what: "creates a VolumeKey in another namespace", rule: rbac, try: create("volumekeys shop/x", "", `{apiVersion: sealvol.dev/v1alpha1, kind: VolumeKey, metadata: {name: x}, spec: {}}`),
			instead: "creates one in its own namespace", control: create("volumekeys crm/x", "", `{apiVersion: sealvol.dev/v1alpha1, kind: VolumeKey, metadata: {name: x}, spec: {}}`)},
		{who: tenant, what: "puts the Secret of another key into the status of its VolumeKey", rule: rbac, try: patch("volumekeys/status crm/team", `{status: {versions: [{version: 1, secretName: "${key}"}]}}`),
			instead: "labels its VolumeKey", control: patch("volumekeys crm/team", `{metadata: {labels: {a: b}}}`)},
		{who: tenant, what: "adds a claimRef to its VolumeKey", rule: validation, says: "cannot be added or removed", try: patch("volumekeys crm/team", `{spec: {claimRef: {name: data, uid: "1"}}}`),
			instead: "labels its VolumeKey", control: patch("volumekeys crm/team", `{metadata: {labels: {a: b}}}`)},
		{who: tenant, what: "removes the operator's finalizer from its VolumeKey, to leave the Secret behind", rule: "keys", says: "only the operator may remove the finalizer", try: patch("volumekeys crm/held", `{metadata: {finalizers: null}}`),
			instead: "labels its VolumeKey", control: patch("volumekeys crm/held", `{metadata: {labels: {a: b}}}`)},
		{who: tenant, what: "creates a VolumeSnapshotContent for another tenant's volume", rule: rbac, try: create("volumesnapshotcontents x", "", `{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshotContent, metadata: {name: x},
			spec: {driver: csi.sealvol.dev, deletionPolicy: Retain, source: {volumeHandle: "vol-${volumeA}"}, volumeSnapshotRef: {namespace: crm, name: x}}}`)},
		{who: tenant, what: "requests a token of the operator", rule: rbac, try: create("serviceaccounts/token ${release}/sealvol-operator", "", `{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {}}`)},
		{who: tenant, what: "impersonates the operator", rule: rbac, says: "impersonate", try: list("secrets ${release}/").by(tenantAsOperator)},
		{who: tenant, what: "creates a pod in the release's namespace", rule: rbac, try: create("pods ${release}/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {serviceAccountName: sealvol-operator, containers: [{name: c, image: i}]}}`),
			instead: "creates one in its own namespace", control: create("pods crm/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: c, image: i}]}}`)},
		{who: tenant, what: "runs a command in a pod of Sealvol", rule: rbac, try: create("pods/exec ${release}/sealvol-node-node-a", "", `{apiVersion: v1, kind: PodExecOptions}`), instead: "reads its own pods", control: get("pods crm/app")},
		{who: tenant, what: "binds the role for key import in the release's namespace", rule: rbac, try: create("rolebindings ${release}/x", "", `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: x},
			roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: sealvol-key-import}, subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: tenant}]}`)},
		{who: tenant, what: "deletes the binding of an admission policy", rule: rbac, try: del("validatingadmissionpolicybindings sealvol-secrets")},
		{who: tenant, what: "creates a StorageClass that names Secrets of its choice", rule: rbac, try: create("storageclasses x", "", `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: x}, provisioner: csi.sealvol.dev}`)},
	}
}

func kubelets() []attempt {
	const token = `{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {}}`
	const mirrors = "creates a mirror pod that references nothing"
	mirror := create("pods shop/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x, annotations: {kubernetes.io/config.mirror: x}, ownerReferences: [{apiVersion: v1, kind: Node, name: node-b, uid: "${nodeB}", controller: true}]},
		spec: {nodeName: node-b, containers: [{name: c, image: i}]}}`)
	return []attempt{
		{who: kubeletB, what: "reads the delivery Secret of a volume on another node", rule: nodes, says: "no relationship found", try: get("secrets ${release}/${volumeA}"),
			instead: "reads the delivery Secret of a volume of its own pod", control: get("secrets ${release}/${volumeB}")},
		{who: kubeletB, what: "reads a pod of another node", rule: nodes, says: "no relationship found", try: get("pods shop/app"), instead: "reads a pod of its own", control: get("pods crm/app")},
		{who: kubeletB, what: "reads a key Secret", rule: nodes, says: "no relationship found", try: get("secrets ${release}/${key}")},
		{who: kubeletB, what: "lists the Secrets of the release's namespace", rule: nodes, try: list("secrets ${release}/")},
		{who: kubeletB, what: "reads a Secret in its pod's namespace that no volume of the pod names", rule: nodes, says: "no relationship found", try: get("secrets crm/password")},
		{who: kubeletB, what: "reads a claim of another node's pod", rule: nodes, says: "no relationship found", try: get("persistentvolumeclaims shop/data"), instead: "reads a claim of its own pod", control: get("persistentvolumeclaims crm/data")},
		{who: kubeletB, what: "reads a PersistentVolume of another node's pod", rule: nodes, says: "no relationship found", try: get("persistentvolumes ${volumeA}"), instead: "reads a PersistentVolume of its own pod", control: get("persistentvolumes ${volumeB}")},
		{who: kubeletB, what: "creates a PersistentVolume", rule: nodes, try: create("persistentvolumes x", "volume", `{}`)},
		{who: kubeletB, what: "changes a PersistentVolume of its own pod", rule: nodes, try: patch("persistentvolumes ${volumeB}", `{spec: {claimRef: null}}`)},
		{who: kubeletB, what: "changes the capacity of a claim of another node's pod", rule: nodes, says: "no relationship found", try: patch("persistentvolumeclaims/status shop/data", `{status: {capacity: {storage: 2Gi}}}`),
			instead: "changes the capacity of a claim of its own pod", control: patch("persistentvolumeclaims/status crm/data", `{status: {capacity: {storage: 2Gi}}}`)},
		{who: kubeletB, what: "reads SealedVolumes", rule: nodes, try: list("sealedvolumes")},
		{who: kubeletB, what: "reads VolumeKeys", rule: nodes, try: get("volumekeys crm/team")},
		{who: kubeletB, what: "reads a VolumeAttachment of another node", rule: nodes, says: "no relationship found", try: get("volumeattachments attached"), instead: "the kubelet of that node reads it", control: get("volumeattachments attached").by(kubeletA)},
		{who: kubeletB, what: "marks a VolumeAttachment as attached", rule: nodes, try: patch("volumeattachments/status attached", `{status: {attached: true}}`)},
		{who: kubeletB, what: "requests a token of the operator", rule: nodes, says: "no relationship found", try: create("serviceaccounts/token ${release}/sealvol-operator", "", token)},
		{who: kubeletB, what: "requests a token of the node plugin that is not bound to a pod", rule: restriction, says: "not bound to a pod", try: create("serviceaccounts/token ${release}/sealvol-node", "", token), instead: "requests a token that is bound to its own pod",
			control: create("serviceaccounts/token ${release}/sealvol-node", "", token).with(`{spec: {boundObjectRef: {apiVersion: v1, kind: Pod, name: plugin-b, uid: "${podB}"}}}`)},
		{who: kubeletB, what: "creates a pod with the operator's service account", rule: restriction, says: "can not create pods that reference", try: create("pods ${release}/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x, annotations: {kubernetes.io/config.mirror: x}, ownerReferences: [{apiVersion: v1, kind: Node, name: node-b, uid: "${nodeB}", controller: true}]},
			spec: {nodeName: node-b, serviceAccountName: sealvol-operator, containers: [{name: c, image: i}]}}`), instead: mirrors, control: mirror},
		{who: kubeletB, what: "creates a pod that uses another tenant's claim", rule: restriction, says: "can not create pods that reference persistentvolumeclaims", try: create("pods shop/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x, annotations: {kubernetes.io/config.mirror: x}, ownerReferences: [{apiVersion: v1, kind: Node, name: node-b, uid: "${nodeB}", controller: true}]},
			spec: {nodeName: node-b, containers: [{name: c, image: i}], volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}`), instead: mirrors, control: mirror},
		{who: kubeletB, what: "changes another node's labels", rule: restriction, says: "is not allowed to modify node", try: patch("nodes node-a", `{metadata: {labels: {a: b}}}`), instead: "changes its own labels", control: patch("nodes node-b", `{metadata: {labels: {example.com/a: b}}}`)},
	}
}

// places are attempts to get the volumes of another node. With ebs, volumes follow their pods.
func places() []attempt {
	says := func(node string) string {
		return `{metadata: {labels: {topology.csi.sealvol.dev/node: ` + node + `}}}`
	}
	const rule, own, text = "places", "sets the label to the node's own name", "must be the name of the node"
	a := func(who, what string, try, control request) attempt {
		return attempt{who: who, what: what, rule: rule, says: text, try: try, instead: own, control: control}
	}
	const node = `{apiVersion: v1, kind: Node, metadata: {name: node-c, labels: {topology.csi.sealvol.dev/node: `
	return []attempt{
		a(kubeletB, "sets its topology label to the name of another node", patch("nodes node-b", says("node-a")), patch("nodes node-b", says("node-b"))),
		a(kubeletB, "sets its topology label to the name of another node in a status update", patch("nodes/status node-b", says("node-a")), patch("nodes/status node-b", says("node-b"))),
		a(kubeletB, "sets its topology label to an empty name", patch("nodes node-b", says(`""`)), patch("nodes node-b", says("node-b"))),
		a(admin, "creates a node whose topology label is the name of another node", create("nodes node-c", "", node+`node-a}}}`), create("nodes node-c", "", node+`node-c}}}`)),
	}
}

func administrators() []attempt {
	annotate := func(name string) request {
		return patch("secrets ${release}/"+name, `{metadata: {annotations: {a: b}}}`)
	}
	const annotates = "annotates the Secret"
	return []attempt{
		{who: admin, what: "deletes a key Secret that is in use", rule: "secrets", says: "Without the key, the volume is lost", try: del("secrets ${release}/${key}"), instead: annotates, control: annotate("${key}")},
		{who: admin, what: "removes the finalizer of a key Secret", rule: "secrets", says: "Only the operator may change its data", try: patch("secrets ${release}/${key}", `{metadata: {finalizers: null}}`),
			instead: annotates, control: annotate("${key}")},
		{who: admin, what: "removes the labels of a key Secret", rule: "secrets", says: "Only the operator may change its data", try: patch("secrets ${release}/${key}", `{metadata: {labels: null}}`), instead: annotates, control: annotate("${key}")},
		{who: admin, what: "replaces the key in a key Secret", rule: "secrets", says: "Only the operator may change its data", try: patch("secrets ${release}/${key}", `{stringData: {kek: other}}`), instead: annotates, control: annotate("${key}")},
		{who: admin, what: "deletes a delivery Secret", rule: "secrets", says: "Without the key, the volume is lost", try: del("secrets ${release}/${volumeA}"), instead: annotates, control: annotate("${volumeA}")},
		{who: admin, what: "replaces the key in a delivery Secret", rule: "secrets", says: "Only the operator may change its data", try: patch("secrets ${release}/${volumeA}", `{stringData: {kek: other}}`), instead: annotates, control: annotate("${volumeA}")},
	}
}
