package matrixtest

// Attempts from outside of Sealvol: a tenant, who edits the namespace crm (row F of the threat model), the kubelet of a node that was taken over (row G), and an
// administrator who errs.

func tenants() []attempt {
	const what = "reads Secrets of its own namespace"
	own := get("secrets crm/password")
	return []attempt{
		{who: tenant, what: "reads another's delivery Secret", rule: rbac, try: get("secrets ${release}/${volumeA}"), instead: what, control: own},
		{who: tenant, what: "reads its own volume's delivery Secret", rule: rbac, try: get("secrets ${release}/${volumeB}")},
		{who: tenant, what: "reads a key Secret", rule: rbac, try: get("secrets ${release}/${key}")},
		{who: tenant, what: "lists the release's Secrets", rule: rbac, try: list("secrets ${release}/"), instead: what, control: list("secrets crm/")},
		{who: tenant, what: "reads a Secret of another namespace", rule: rbac, try: get("secrets shop/password"), instead: what, control: own},
		{who: tenant, what: "makes a PersistentVolume that names another's Secret", rule: rbac, try: create("persistentvolumes x", "volume", `{}`)},
		{who: tenant, what: "makes a SealedVolume", rule: rbac, try: create("sealedvolumes x", "", `{apiVersion: sealvol.dev/v1alpha1, kind: SealedVolume, metadata: {name: x}, spec: {volumeHandle: h}}`)},
		{who: tenant, what: "reads another's anchor", rule: rbac, try: get("sealedvolumes ${volumeA}")},
		{who: tenant, what: "removes its own volume's anchor", rule: rbac, try: patch("sealedvolumes/status ${volumeB}", `{status: {anchor: null}}`)},
		{who: tenant, what: "reads another's VolumeKey", rule: rbac, try: get("volumekeys shop/team"), instead: "reads its own", control: get("volumekeys crm/team")},
		{who: tenant, what: "makes a VolumeKey in another namespace", rule: rbac, try: create("volumekeys shop/x", "", `{apiVersion: sealvol.dev/v1alpha1, kind: VolumeKey, metadata: {name: x}, spec: {}}`),
			instead: "makes one in its own", control: create("volumekeys crm/x", "", `{apiVersion: sealvol.dev/v1alpha1, kind: VolumeKey, metadata: {name: x}, spec: {}}`)},
		{who: tenant, what: "says that its VolumeKey is ready with another's Secret", rule: rbac, try: patch("volumekeys/status crm/team", `{status: {versions: [{version: 1, secretName: "${key}"}]}}`),
			instead: "labels it", control: patch("volumekeys crm/team", `{metadata: {labels: {a: b}}}`)},
		{who: tenant, what: "changes what a VolumeKey was made for", rule: validation, says: "can not be added or removed", try: patch("volumekeys crm/team", `{spec: {claimRef: {name: data, uid: "1"}}}`),
			instead: "labels it", control: patch("volumekeys crm/team", `{metadata: {labels: {a: b}}}`)},
		{who: tenant, what: "takes the operator's finalizer of its VolumeKey, to leave the Secret behind", rule: "keys", says: "is let go by the operator", try: patch("volumekeys crm/held", `{metadata: {finalizers: null}}`),
			instead: "labels it", control: patch("volumekeys crm/held", `{metadata: {labels: {a: b}}}`)},
		{who: tenant, what: "makes a VolumeSnapshotContent of another's volume", rule: rbac, try: create("volumesnapshotcontents x", "", `{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshotContent, metadata: {name: x},
			spec: {driver: csi.sealvol.dev, deletionPolicy: Retain, source: {volumeHandle: "vol-${volumeA}"}, volumeSnapshotRef: {namespace: crm, name: x}}}`)},
		{who: tenant, what: "asks for a token of the operator", rule: rbac, try: create("serviceaccounts/token ${release}/sealvol-operator", "", `{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {}}`)},
		{who: tenant, what: "impersonates the operator", rule: rbac, says: "impersonate", try: list("secrets ${release}/").by(tenantAsOperator)},
		{who: tenant, what: "starts a pod in the release's namespace", rule: rbac, try: create("pods ${release}/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {serviceAccountName: sealvol-operator, containers: [{name: c, image: i}]}}`),
			instead: "starts one in its own", control: create("pods crm/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: [{name: c, image: i}]}}`)},
		{who: tenant, what: "executes a program in a pod of Sealvol", rule: rbac, try: create("pods/exec ${release}/sealvol-node-node-a", "", `{apiVersion: v1, kind: PodExecOptions}`), instead: "reads its own pods", control: get("pods crm/app")},
		{who: tenant, what: "binds the role that imports keys, in the release's namespace", rule: rbac, try: create("rolebindings ${release}/x", "", `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: x},
			roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: sealvol-key-import}, subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: tenant}]}`)},
		{who: tenant, what: "removes a policy", rule: rbac, try: del("validatingadmissionpolicybindings sealvol-secrets")},
		{who: tenant, what: "makes a class of storage with Secrets of its choice", rule: rbac, try: create("storageclasses x", "", `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: x}, provisioner: csi.sealvol.dev}`)},
	}
}

func kubelets() []attempt {
	const token = `{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {}}`
	const mirrors = "tells of a pod of its own that names nothing"
	mirror := create("pods shop/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x, annotations: {kubernetes.io/config.mirror: x}, ownerReferences: [{apiVersion: v1, kind: Node, name: node-b, uid: "${nodeB}", controller: true}]},
		spec: {nodeName: node-b, containers: [{name: c, image: i}]}}`)
	return []attempt{
		{who: kubeletB, what: "reads the delivery Secret of a volume on another node", rule: nodes, says: "no relationship found", try: get("secrets ${release}/${volumeA}"),
			instead: "reads that of a volume of its pods", control: get("secrets ${release}/${volumeB}")},
		{who: kubeletB, what: "reads a pod of another node", rule: nodes, says: "no relationship found", try: get("pods shop/app"), instead: "reads one of its own", control: get("pods crm/app")},
		{who: kubeletB, what: "reads a key Secret", rule: nodes, says: "no relationship found", try: get("secrets ${release}/${key}")},
		{who: kubeletB, what: "lists the release's Secrets", rule: nodes, try: list("secrets ${release}/")},
		{who: kubeletB, what: "reads a Secret of the namespace of its pod that no volume of it names", rule: nodes, says: "no relationship found", try: get("secrets crm/password")},
		{who: kubeletB, what: "reads a claim of another node's pod", rule: nodes, says: "no relationship found", try: get("persistentvolumeclaims shop/data"), instead: "reads one of its own pods'", control: get("persistentvolumeclaims crm/data")},
		{who: kubeletB, what: "reads a PersistentVolume of another node's pod", rule: nodes, says: "no relationship found", try: get("persistentvolumes ${volumeA}"), instead: "reads one of its own pods'", control: get("persistentvolumes ${volumeB}")},
		{who: kubeletB, what: "makes a PersistentVolume", rule: nodes, try: create("persistentvolumes x", "volume", `{}`)},
		{who: kubeletB, what: "changes a PersistentVolume of its own", rule: nodes, try: patch("persistentvolumes ${volumeB}", `{spec: {claimRef: null}}`)},
		{who: kubeletB, what: "says that a claim of another node's pod is bigger", rule: nodes, says: "no relationship found", try: patch("persistentvolumeclaims/status shop/data", `{status: {capacity: {storage: 2Gi}}}`),
			instead: "says so of its own pods'", control: patch("persistentvolumeclaims/status crm/data", `{status: {capacity: {storage: 2Gi}}}`)},
		{who: kubeletB, what: "reads SealedVolumes", rule: nodes, try: list("sealedvolumes")},
		{who: kubeletB, what: "reads VolumeKeys", rule: nodes, try: get("volumekeys crm/team")},
		{who: kubeletB, what: "reads another node's attachment", rule: nodes, says: "no relationship found", try: get("volumeattachments attached"), instead: "the other kubelet reads it", control: get("volumeattachments attached").by(kubeletA)},
		{who: kubeletB, what: "says that an attachment is complete", rule: nodes, try: patch("volumeattachments/status attached", `{status: {attached: true}}`)},
		{who: kubeletB, what: "asks for a token of the operator", rule: nodes, says: "no relationship found", try: create("serviceaccounts/token ${release}/sealvol-operator", "", token)},
		{who: kubeletB, what: "asks for a node plugin's token that no pod has", rule: restriction, says: "not bound to a pod", try: create("serviceaccounts/token ${release}/sealvol-node", "", token), instead: "one of its pod",
			control: create("serviceaccounts/token ${release}/sealvol-node", "", token).with(`{spec: {boundObjectRef: {apiVersion: v1, kind: Pod, name: plugin-b, uid: "${podB}"}}}`)},
		{who: kubeletB, what: "starts a pod with the operator's account", rule: restriction, says: "can not create pods that reference", try: create("pods ${release}/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x, annotations: {kubernetes.io/config.mirror: x}, ownerReferences: [{apiVersion: v1, kind: Node, name: node-b, uid: "${nodeB}", controller: true}]},
			spec: {nodeName: node-b, serviceAccountName: sealvol-operator, containers: [{name: c, image: i}]}}`), instead: mirrors, control: mirror},
		{who: kubeletB, what: "starts a pod that uses the victim's claim", rule: restriction, says: "can not create pods that reference persistentvolumeclaims", try: create("pods shop/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x, annotations: {kubernetes.io/config.mirror: x}, ownerReferences: [{apiVersion: v1, kind: Node, name: node-b, uid: "${nodeB}", controller: true}]},
			spec: {nodeName: node-b, containers: [{name: c, image: i}], volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}`), instead: mirrors, control: mirror},
		{who: kubeletB, what: "changes another node's labels", rule: restriction, says: "is not allowed to modify node", try: patch("nodes node-a", `{metadata: {labels: {a: b}}}`), instead: "its own", control: patch("nodes node-b", `{metadata: {labels: {example.com/a: b}}}`)},
	}
}

// places are attempts to have volumes of another node come. With ebs volumes go where their pods do.
func places() []attempt {
	says := func(node string) string {
		return `{metadata: {labels: {topology.csi.sealvol.dev/node: ` + node + `}}}`
	}
	const rule, own, text = "places", "says that it is itself", "is its own name"
	a := func(who, what string, try, control request) attempt {
		return attempt{who: who, what: what, rule: rule, says: text, try: try, instead: own, control: control}
	}
	const node = `{apiVersion: v1, kind: Node, metadata: {name: node-c, labels: {topology.csi.sealvol.dev/node: `
	return []attempt{
		a(kubeletB, "says that its node is another", patch("nodes node-b", says("node-a")), patch("nodes node-b", says("node-b"))),
		a(kubeletB, "says with its status that its node is another", patch("nodes/status node-b", says("node-a")), patch("nodes/status node-b", says("node-b"))),
		a(kubeletB, "says that its node is none", patch("nodes node-b", says(`""`)), patch("nodes node-b", says("node-b"))),
		a(admin, "makes a node that says it is another", create("nodes node-c", "", node+`node-a}}}`), create("nodes node-c", "", node+`node-c}}}`)),
	}
}

func administrators() []attempt {
	annotate := func(name string) request {
		return patch("secrets ${release}/"+name, `{metadata: {annotations: {a: b}}}`)
	}
	const annotates = "annotates it"
	return []attempt{
		{who: admin, what: "deletes a key that is in use", rule: "secrets", says: "without it the volume is lost", try: del("secrets ${release}/${key}"), instead: annotates, control: annotate("${key}")},
		{who: admin, what: "takes a key Secret's finalizer", rule: "secrets", says: "belong to the operator", try: patch("secrets ${release}/${key}", `{metadata: {finalizers: null}}`),
			instead: annotates, control: annotate("${key}")},
		{who: admin, what: "takes a key Secret's label", rule: "secrets", says: "belong to the operator", try: patch("secrets ${release}/${key}", `{metadata: {labels: null}}`), instead: annotates, control: annotate("${key}")},
		{who: admin, what: "exchanges a key", rule: "secrets", says: "belong to the operator", try: patch("secrets ${release}/${key}", `{stringData: {kek: other}}`), instead: annotates, control: annotate("${key}")},
		{who: admin, what: "deletes a delivery Secret", rule: "secrets", says: "without it the volume is lost", try: del("secrets ${release}/${volumeA}"), instead: annotates, control: annotate("${volumeA}")},
		{who: admin, what: "exchanges what is delivered", rule: "secrets", says: "belong to the operator", try: patch("secrets ${release}/${volumeA}", `{stringData: {kek: other}}`), instead: annotates, control: annotate("${volumeA}")},
	}
}
