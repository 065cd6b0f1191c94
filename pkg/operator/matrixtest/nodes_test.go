package matrixtest

// These are attempts with the node plugin's token of a compromised node (row G), which
// csi-provisioner, csi-snapshotter and the node agent use with the local backend.

const ownFinalizer = "external-provisioner.volume.kubernetes.io/finalizer"

func volumesOfNodes() []attempt {
	const makes = "creates one for its own node, with its own Secret"
	own := create("persistentvolumes x", "volume", `{}`)
	refs := func(ns, name string) string {
		ref := `{namespace: "` + ns + `", name: "` + name + `"}`
		return `nodeStageSecretRef: ` + ref + `, nodePublishSecretRef: ` + ref + `, nodeExpandSecretRef: ` + ref
	}
	invented := func(ns, name string) string {
		return `{metadata: {name: "pvc-${invented}"}, spec: {claimRef: {name: data, uid: "${invented}"}, csi: {` + refs(ns, name) + `}}}`
	}
	making := func(what, says, change string) attempt {
		return attempt{who: nodeB, what: "creates a PersistentVolume " + what, rule: "volumes", says: says, try: create("persistentvolumes x", "volume", change), instead: makes, control: own}
	}
	const alone, named, added = "may write only its own PersistentVolumes", "may name only its own delivery Secret", "that csi-provisioner sets"
	term := func(more string) string {
		return `{spec: {nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.csi.sealvol.dev/node, operator: In, values: [node-b]}` + more + `]}}}}`
	}
	list := []attempt{
		making("for another node", alone, `{spec: {nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.csi.sealvol.dev/node, operator: In, values: [node-a]}]}]}}}}`),
		making("for any node", alone, `{spec: {nodeAffinity: null}}`),
		making("for other nodes besides its own", alone, term(`, {key: topology.csi.sealvol.dev/node, operator: Exists}]}`)),
		making("for its own node or a zone", alone, term(`]}, {matchExpressions: [{key: zone, operator: Exists}]}`)),
		making("of another driver", alone, `{spec: {csi: {driver: other.example}}}`),
		making("that is a directory of the node (hostPath)", alone, `{spec: {csi: null, hostPath: {path: /}}}`),
		making("without a claim", named, `{spec: {claimRef: null}}`),
		making("whose name does not match its claim", named, `{metadata: {name: pvc-x}}`),
		making("that has the name of a key Secret and refers to it", named, `{metadata: {name: "${key}"}, spec: {csi: {`+refs("${release}", "${key}")+`}}}`),
		making("with an invented claim UID that names a Secret of its pod's namespace", named, invented("crm", "password")),
		making("with an invented claim UID that names a Secret of another namespace", named, invented("shop", "password")),
		making("with an invented claim UID that names another volume's delivery Secret", named, invented("${release}", "${volumeA}")),
		making("with an invented claim UID that names a key Secret", named, invented("${release}", "${key}")),
		making("with another tenant's Secret for ControllerPublish", "the controller of Sealvol uses no Secrets", `{spec: {csi: {controllerPublishSecretRef: {namespace: crm, name: password}}}}`),
		making("with another tenant's Secret for ControllerExpand", "the controller of Sealvol uses no Secrets", `{spec: {csi: {controllerExpandSecretRef: {namespace: crm, name: password}}}}`),
		making("with another tenant's Secret for its deletion", added, `{metadata: {annotations: {volume.kubernetes.io/provisioner-deletion-secret-name: password, volume.kubernetes.io/provisioner-deletion-secret-namespace: crm}}}`),
		making("with an annotation that gives pods a group", added, `{metadata: {annotations: {pv.beta.kubernetes.io/gid: "0"}}}`),
		making("with an annotation that says that Kubernetes bound it", added, `{metadata: {annotations: {pv.kubernetes.io/bound-by-controller: "yes"}}}`),
		making("with an annotation that names another provisioner", added, `{metadata: {annotations: {pv.kubernetes.io/provisioned-by: other.example}}}`),
		making("with the finalizer of another controller", added, `{metadata: {finalizers: [example.com/held]}}`),
		making("with an owner", added, `{metadata: {ownerReferences: [{apiVersion: v1, kind: Node, name: node-b, uid: "1"}]}}`),
		{who: nowhere, what: "creates a PersistentVolume", rule: "volumes", says: alone, try: own, instead: "the same, with a token that is bound to a pod", control: own.by(nodeB)},
		{who: nodeB, what: "creates the volume of another node again", rule: "volumes", says: alone, try: create("persistentvolumes x", "volume", `{metadata: {name: "${volumeA}"}, spec: {claimRef: {uid: "${claimA}", namespace: shop, name: data},
			nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.csi.sealvol.dev/node, operator: In, values: [node-a]}]}]}}, csi: {`+refs("${release}", "${volumeA}")+`}}}`), instead: makes, control: own},
	}
	for _, f := range []string{"nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"} {
		list = append(list, making("with another volume's Secret as "+f, named, `{spec: {csi: {`+f+`: {namespace: "${release}", name: "${volumeA}"}}}}`))
	}
	return append(list, changesOfNodes()...)
}

func changesOfNodes() []attempt {
	const holds, stays, released = "the spec, status, annotations, labels and owners of a PersistentVolume may not be changed", "the finalizers of others may not be changed", "deletes a volume that is Released"
	add := patch("persistentvolumes pvc-released", `{metadata: {finalizers: [`+ownFinalizer+`, kubernetes.io/pv-protection, sealvol.dev/delivery, external-attacher/csi-sealvol-dev]}}`)
	changing := func(what, says, at, change string) attempt {
		return attempt{who: nodeB, what: what, rule: "volumes", says: says, try: patch("persistentvolumes "+at, change), instead: "adds csi-provisioner's finalizer to its own volume", control: add}
	}
	return []attempt{
		changing("changes another node's PersistentVolume", "may write only its own PersistentVolumes", "${volumeA}", `{metadata: {labels: {a: b}}}`),
		changing("changes another driver's PersistentVolume", "may write only its own PersistentVolumes", "pvc-other", `{metadata: {labels: {a: b}}}`),
		changing("assigns a volume to another claim", holds, "${volumeB}", `{spec: {claimRef: {namespace: shop, name: taken, uid: "${taken}"}}}`),
		changing("removes the claim of a volume", holds, "${volumeB}", `{spec: {claimRef: null}}`),
		changing("changes the reclaim policy of a volume from Retain to Delete", holds, "pvc-retained", `{spec: {persistentVolumeReclaimPolicy: Delete}}`),
		changing("changes the capacity of a volume", holds, "${volumeB}", `{spec: {capacity: {storage: 1Ti}}}`),
		changing("changes the mount options of a volume", holds, "${volumeB}", `{spec: {mountOptions: [suid]}}`),
		changing("sets an owner that does not exist on a volume", holds, "${volumeB}", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("annotates a volume", holds, "${volumeB}", `{metadata: {annotations: {pv.beta.kubernetes.io/gid: "0"}}}`),
		changing("labels a volume", holds, "${volumeB}", `{metadata: {labels: {a: b}}}`),
		changing("removes all finalizers of a bound volume", stays, "${volumeB}", `{metadata: {finalizers: null}}`),
		changing("removes csi-provisioner's finalizer from a bound volume", stays, "${volumeB}", `{metadata: {finalizers: [kubernetes.io/pv-protection, sealvol.dev/delivery, external-attacher/csi-sealvol-dev]}}`),
		{who: nodeB, what: "removes the operator's finalizer from a volume that is being deleted", rule: "volumes", says: stays, try: patch("persistentvolumes pvc-going", `{metadata: {finalizers: [`+ownFinalizer+`, kubernetes.io/pv-protection, external-attacher/csi-sealvol-dev]}}`),
			instead: "removes its own finalizer from that volume", control: patch("persistentvolumes pvc-going", `{metadata: {finalizers: [kubernetes.io/pv-protection, sealvol.dev/delivery, external-attacher/csi-sealvol-dev]}}`)},
		{who: nodeB, what: "deletes a bound volume of its own", rule: "volumes", says: "may delete only volumes that are Released", try: del("persistentvolumes ${volumeB}"), instead: released, control: del("persistentvolumes pvc-released")},
		{who: nodeB, what: "deletes a volume with the reclaim policy Retain", rule: "volumes", says: "may delete only volumes that are Released", try: del("persistentvolumes pvc-retained"), instead: released, control: del("persistentvolumes pvc-released")},
		{who: nodeB, what: "deletes another node's volume", rule: "volumes", says: "may write only its own PersistentVolumes", try: del("persistentvolumes ${volumeA}"), instead: released, control: del("persistentvolumes pvc-released")},
		{who: nodeB, what: "sets the phase of a bound volume to Released", rule: rbac, try: patch("persistentvolumes/status ${volumeB}", `{status: {phase: Released}}`)},
	}
}

func claimsOfNodes() []attempt {
	const nothing, takes, held = "may change only the annotation selected-node", "may select only itself for a claim", "may add the finalizer cloning-protection only to"
	own := update("persistentvolumeclaims crm/pending", `{metadata: {annotations: {volume.kubernetes.io/selected-node: node-b}}}`)
	back := update("persistentvolumeclaims crm/mine", `{metadata: {annotations: {volume.kubernetes.io/selected-node: null}}}`)
	changing := func(what, says, claim, change string) attempt {
		return attempt{who: nodeB, what: what, rule: "claims", says: says, try: update("persistentvolumeclaims "+claim, change), instead: "selects itself for a claim that has no node", control: own}
	}
	selected := func(node string) string {
		return `{metadata: {annotations: {volume.kubernetes.io/selected-node: ` + node + `}}}`
	}
	giving := changing("removes the selection of another node from a claim", takes, "shop/taken", selected("null"))
	giving.instead, giving.control = "removes its own selection", back
	hold := `{metadata: {finalizers: [kubernetes.io/pvc-protection, provisioner.storage.kubernetes.io/cloning-protection]}}`
	holding := changing("adds the finalizer for cloning to another driver's claim", held, "shop/other", hold)
	holding.instead, holding.control = "adds it to the source of a clone", update("persistentvolumeclaims shop/data", hold)
	return []attempt{
		changing("sets the VolumeKey of a claim", nothing, "crm/pending", `{metadata: {annotations: {sealvol.dev/volume-key: team}}}`),
		changing("marks a claim as bound", nothing, "shop/taken", `{metadata: {annotations: {pv.kubernetes.io/bind-completed: "yes"}}}`),
		changing("marks the volume of a claim as chosen by Kubernetes", nothing, "shop/taken", `{metadata: {annotations: {pv.kubernetes.io/bound-by-controller: "yes"}}}`),
		changing("sets another driver as the provisioner of a claim", nothing, "shop/taken", `{metadata: {annotations: {volume.kubernetes.io/storage-provisioner: other.example}}}`),
		changing("binds a claim to a volume", nothing, "shop/taken", `{spec: {volumeName: pvc-x}}`),
		changing("sets an owner that does not exist on a claim", nothing, "shop/data", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("removes the protection finalizer from a claim", nothing, "shop/data", `{metadata: {finalizers: null}}`),
		changing("labels a claim", nothing, "shop/data", `{metadata: {labels: {app: other}}}`),
		changing("selects itself for a claim of another node", takes, "shop/taken", selected("node-b")),
		changing("selects another node for a claim", takes, "crm/pending", selected("node-a")),
		changing("selects itself for another driver's claim", takes, "shop/other", selected("node-b")),
		changing("selects itself for a claim that has a volume", takes, "shop/data", selected("node-b")),
		giving, holding,
		{who: nowhere, what: "selects a node for a claim", rule: "claims", says: takes, try: own, instead: "the same, with a token that is bound to a pod", control: own.by(nodeB)},
		{who: nodeB, what: "creates a claim", rule: rbac, try: create("persistentvolumeclaims crm/x", "claim", `{}`)},
		{who: nodeB, what: "deletes a claim", rule: rbac, try: del("persistentvolumeclaims shop/data")},
		{who: nodeB, what: "sets the phase of a claim to Lost", rule: rbac, try: patch("persistentvolumeclaims/status shop/data", `{status: {phase: Lost}}`)},
	}
}

func capacities() []attempt {
	const says = "may report only its own capacity"
	own := create("csistoragecapacities ${release}/x", "capacity", `{}`)
	return []attempt{
		{who: nodeB, what: "reports the capacity of another node", rule: "capacities", says: says, try: create("csistoragecapacities ${release}/x", "capacity", `{nodeTopology: {matchLabels: {topology.csi.sealvol.dev/node: node-a}}}`), instead: "reports its own capacity", control: own},
		{who: nodeB, what: "reports the capacity of all nodes", rule: "capacities", says: says, try: create("csistoragecapacities ${release}/x", "capacity", `{nodeTopology: {matchLabels: null}}`), instead: "reports its own capacity", control: own},
		{who: nodeB, what: "reports the capacity of several nodes", rule: "capacities", says: says, try: create("csistoragecapacities ${release}/x", "capacity", `{nodeTopology: {matchExpressions: [{key: zone, operator: Exists}]}}`), instead: "reports its own capacity", control: own},
		{who: nodeB, what: "reports capacity for another driver", rule: "capacities", says: says, try: create("csistoragecapacities ${release}/x", "capacity", `{metadata: {labels: {csi.storage.k8s.io/drivername: other.example}}}`), instead: "reports capacity for Sealvol", control: own},
		{who: nodeB, what: "sets the capacity of another node to 0", rule: "capacities", says: says, try: update("csistoragecapacities ${release}/room-node-a", `{capacity: "0"}`), instead: "sets its own capacity to 0", control: update("csistoragecapacities ${release}/room-node-b", `{capacity: "0"}`)},
		{who: nodeB, what: "deletes the reported capacity of another node", rule: "capacities", says: says, try: del("csistoragecapacities ${release}/room-node-a"), instead: "deletes its own reported capacity", control: del("csistoragecapacities ${release}/room-node-b")},
	}
}

// reports are attempts of a node to report on volumes, with both backends.
func reports() []attempt {
	const sv = "sealedvolumes/status "
	anchor := func(change string) string { return `{status: {anchor: {` + change + `}}}` }
	raise := patch(sv+"${volumeB}", anchor(`generation: 6`))
	healthy := patch(sv+"${volumeB}", `{status: {health: Healthy}}`)
	reporting := func(who, what, says, volume, change string) attempt {
		return attempt{who: who, what: what, rule: "reports", says: says, try: patch(sv+volume, change), instead: "reports on its own volume", control: healthy.by(nodeB)}
	}
	anchoring := func(what, change string) attempt {
		return attempt{who: nodeB, what: what, rule: "anchors", says: "To lower, remove or replace it", try: patch(sv+"${volumeB}", change), instead: "raises the anchor", control: raise}
	}
	mended := anchoring("lowers an anchor that it has raised too far", anchor(`generation: 4`))
	mended.instead, mended.control = "a user with the verb override-anchor may do it", patch(sv+"${volumeB}", anchor(`generation: 4`)).by(overrider)
	rises := func(what, volume, change, instead, control string) attempt {
		return attempt{who: nodeB, what: what, rule: "reports", says: "would rise too far", try: patch(sv+volume, anchor(change)), instead: instead, control: patch(sv+volume, anchor(control))}
	}
	first := `volume: "${uuid}", instance: "${uuid}", mac: "${mac}", `
	return []attempt{
		reporting(nodeB, "reports on another node's volume", "the volume is not assigned to this node", "${volumeA}", `{status: {health: DataLoss}}`),
		reporting(nodeB, "raises another node's anchor", "the volume is not assigned to this node", "${volumeA}", anchor(`generation: 99`)),
		reporting(nowhere, "reports on a volume", "the volume is not assigned to this node", "${volumeB}", `{status: {health: Healthy}}`),
		reporting(nodeB, "reports in the name of another node", "may set status.node only to its own name", "${volumeB}", `{status: {node: node-a}}`),
		reporting(nodeB, "sets the phase of its volume to Deleted", "only the operator may change status.phase", "${volumeB}", `{status: {phase: Deleted}}`),
		reporting(nodeB, "changes the key version of its volume", "only the operator may change status.phase", "${volumeB}", `{status: {keyVersion: 2}}`),
		reporting(nodeB, "sets the condition KeyReady of its volume", "only the operator may change status.phase", "${volumeB}", `{status: {conditions: [{type: KeyReady, status: "True", reason: Mine, message: "", lastTransitionTime: "2026-01-01T00:00:00Z"}]}}`),
		rises("raises the anchor of its volume to generation 2^62", "${volumeB}", `generation: 4611686018427387904`, "raises it by 2^32", `generation: 4294967301`),
		rises("raises the key epoch of its volume's anchor to 2^32", "${volumeB}", `generation: 6, epoch: 4294967296`, "raises it by 1024", `generation: 6, epoch: 1026`),
		rises("sets a first anchor with generation 2^62", "new-b", first+`generation: 4611686018427387904, epoch: 1`, "sets a first anchor with generation 2^48", first+`generation: 281474976710656, epoch: 1`),
		mended,
		anchoring("removes the anchor of its volume", `{status: {anchor: null}}`),
		anchoring("replaces the MAC in the anchor of its volume", anchor(`mac: "`+string(bs('b', 64))+`"`)),
		anchoring("changes the instance in the anchor of its volume", anchor(`generation: 9, instance: "`+string(bs('2', 36))+`"`)),
		anchoring("lowers the key epoch in the anchor of its volume", anchor(`generation: 9, epoch: 1`)),
		{who: nodeB, what: "sets the format record of its volume to Formatting", rule: "formats", says: "records that the device was formatted", try: patch(sv+"${volumeB}", `{status: {format: {state: Formatting}}}`), instead: "reports, and keeps the format record", control: healthy},
		{who: nodeB, what: "removes the format record of its volume", rule: "formats", says: "records that the device was formatted", try: patch(sv+"${volumeB}", `{status: {format: null}}`),
			instead: "a user with the verb override-anchor may do it", control: patch(sv+"${volumeB}", `{status: {format: null}}`).by(overrider)},
		{who: nodeB, what: "assigns a volume of another node to its own", rule: rbac, try: patch("sealedvolumes ${volumeA}", `{spec: {nodeName: node-b}}`)},
		{who: nodeB, what: "creates a SealedVolume", rule: rbac, try: create("sealedvolumes x", "", `{apiVersion: sealvol.dev/v1alpha1, kind: SealedVolume, metadata: {name: x}}`)},
		{who: nodeB, what: "deletes a SealedVolume", rule: rbac, try: del("sealedvolumes ${volumeB}")},
		{who: nodeB, what: "reads VolumeKeys", rule: rbac, try: list("volumekeys crm/")},
		{who: nodeB, what: "reads the delivery Secret of its volume", rule: rbac, try: get("secrets ${release}/${volumeB}"), instead: "its kubelet reads it", control: get("secrets ${release}/${volumeB}").by(kubeletB)},
		{who: nodeB, what: "lists the Secrets of the release's namespace", rule: rbac, try: list("secrets ${release}/")},
	}
}

func bs(c byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = c
	}
	return b
}

// nodesRights are attempts of a node that RBAC refuses with the local backend.
func nodesRights() []attempt {
	return []attempt{
		{who: nodeB, what: "replaces a PersistentVolume", rule: rbac, try: update("persistentvolumes ${volumeB}", `{}`)},
		{who: nodeB, what: "creates a VolumeSnapshotContent", rule: rbac, try: create("volumesnapshotcontents x", "content", `{}`)},
		{who: nodeB, what: "deletes a VolumeSnapshotContent", rule: rbac, try: del("volumesnapshotcontents content-b")},
		{who: nodeB, what: "reads pods of other namespaces", rule: rbac, try: list("pods shop/")},
		{who: nodeB, what: "creates a pod", rule: rbac, try: create("pods ${release}/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x}}`), instead: "reads its own pod", control: get("pods ${release}/sealvol-node-node-b")},
		{who: nodeB, what: "requests a token of the operator", rule: rbac, try: create("serviceaccounts/token ${release}/sealvol-operator", "", `{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {}}`)},
		{who: nodeB, what: "changes its DaemonSet", rule: rbac, try: patch("daemonsets ${release}/sealvol-node", `{metadata: {labels: {a: b}}}`), instead: "reads its DaemonSet", control: get("daemonsets ${release}/sealvol-node")},
		{who: nodeB, what: "takes over the operator's lease", rule: rbac, try: update("leases ${release}/sealvol-operator", `{spec: {holderIdentity: node-b}}`)},
		{who: nodeB, what: "changes a Node", rule: rbac, try: patch("nodes node-a", `{metadata: {labels: {a: b}}}`), instead: "reads the Node", control: get("nodes node-a")},
		{who: nodeB, what: "creates a StorageClass", rule: rbac, try: create("storageclasses x", "", `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: x}, provisioner: csi.sealvol.dev}`)},
		{who: nodeB, what: "creates a VolumeAttachment", rule: rbac, try: create("volumeattachments x", "attachment", `{}`)},
		{who: nodeB, what: "deletes the binding of an admission policy", rule: rbac, try: del("validatingadmissionpolicybindings sealvol-volumes")},
	}
}

// nodesRightsEBS are attempts of a node that RBAC refuses with the ebs backend, where it creates
// nothing.
func nodesRightsEBS() []attempt {
	return []attempt{
		{who: nodeB, what: "creates a PersistentVolume", rule: rbac, try: create("persistentvolumes x", "volume", `{}`)},
		{who: nodeB, what: "changes a PersistentVolume", rule: rbac, try: patch("persistentvolumes ${volumeB}", `{spec: {claimRef: null}}`)},
		{who: nodeB, what: "deletes a PersistentVolume", rule: rbac, try: del("persistentvolumes pvc-released")},
		{who: nodeB, what: "reads PersistentVolumes", rule: rbac, try: list("persistentvolumes")},
		{who: nodeB, what: "reads claims", rule: rbac, try: list("persistentvolumeclaims crm/")},
		{who: nodeB, what: "changes a claim", rule: rbac, try: update("persistentvolumeclaims crm/pending", `{metadata: {labels: {a: b}}}`)},
		{who: nodeB, what: "changes a VolumeSnapshotContent", rule: rbac, try: patch("volumesnapshotcontents content-b", `{metadata: {labels: {a: b}}}`)},
		{who: nodeB, what: "creates a VolumeAttachment", rule: rbac, try: create("volumeattachments x", "attachment", `{}`)},
		{who: nodeB, what: "marks a VolumeAttachment as attached", rule: rbac, try: patch("volumeattachments/status attached", `{status: {attached: true}}`)},
		{who: nodeB, what: "reports its capacity", rule: rbac, try: create("csistoragecapacities ${release}/x", "capacity", `{}`)},
		{who: nodeB, what: "changes a Node", rule: rbac, try: patch("nodes node-b", `{metadata: {labels: {a: b}}}`), instead: "reads the Node", control: get("nodes node-b")},
	}
}
