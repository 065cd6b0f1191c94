package matrixtest

// Attempts with the node plugin's token of a node that was taken over (row G): what the local backend's csi-provisioner, csi-snapshotter and the node agent may.

const ownFinalizer = "external-provisioner.volume.kubernetes.io/finalizer"

func volumesOfNodes() []attempt {
	const makes = "makes one for its own node, with its own Secret"
	own := create("persistentvolumes x", "volume", `{}`)
	refs := func(ns, name string) string {
		ref := `{namespace: "` + ns + `", name: "` + name + `"}`
		return `nodeStageSecretRef: ` + ref + `, nodePublishSecretRef: ` + ref + `, nodeExpandSecretRef: ` + ref
	}
	invented := func(ns, name string) string {
		return `{metadata: {name: "pvc-${invented}"}, spec: {claimRef: {name: data, uid: "${invented}"}, csi: {` + refs(ns, name) + `}}}`
	}
	making := func(what, says, change string) attempt {
		return attempt{who: nodeB, what: "makes a PersistentVolume " + what, rule: "volumes", says: says, try: create("persistentvolumes x", "volume", change), instead: makes, control: own}
	}
	const alone, named, added = "of its own alone", "with its own Secret", "csi-provisioner gives it"
	term := func(more string) string {
		return `{spec: {nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.csi.sealvol.dev/node, operator: In, values: [node-b]}` + more + `]}}}}`
	}
	list := []attempt{
		making("for another node", alone, `{spec: {nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.csi.sealvol.dev/node, operator: In, values: [node-a]}]}]}}}}`),
		making("for any node", alone, `{spec: {nodeAffinity: null}}`),
		making("for more nodes than its own", alone, term(`, {key: topology.csi.sealvol.dev/node, operator: Exists}]}`)),
		making("for its own node or a zone", alone, term(`]}, {matchExpressions: [{key: zone, operator: Exists}]}`)),
		making("of another driver", alone, `{spec: {csi: {driver: other.example}}}`),
		making("that is a directory of the node", alone, `{spec: {csi: null, hostPath: {path: /}}}`),
		making("named after no claim", named, `{spec: {claimRef: null}}`),
		making("under another name than its claim's", named, `{metadata: {name: pvc-x}}`),
		making("named as a key Secret, which it names", named, `{metadata: {name: "${key}"}, spec: {csi: {`+refs("${release}", "${key}")+`}}}`),
		making("with an invented uid, that names a Secret of its pod's namespace", named, invented("crm", "password")),
		making("with an invented uid, that names a Secret of another namespace", named, invented("shop", "password")),
		making("with an invented uid, that names another volume's delivery Secret", named, invented("${release}", "${volumeA}")),
		making("with an invented uid, that names a key Secret", named, invented("${release}", "${key}")),
		making("whose Secret for ControllerPublish is another's", "no controller of Sealvol", `{spec: {csi: {controllerPublishSecretRef: {namespace: crm, name: password}}}}`),
		making("whose Secret for ControllerExpand is another's", "no controller of Sealvol", `{spec: {csi: {controllerExpandSecretRef: {namespace: crm, name: password}}}}`),
		making("whose deletion needs another's Secret", added, `{metadata: {annotations: {volume.kubernetes.io/provisioner-deletion-secret-name: password, volume.kubernetes.io/provisioner-deletion-secret-namespace: crm}}}`),
		making("that gives pods a group", added, `{metadata: {annotations: {pv.beta.kubernetes.io/gid: "0"}}}`),
		making("that says it was bound by Kubernetes", added, `{metadata: {annotations: {pv.kubernetes.io/bound-by-controller: "yes"}}}`),
		making("that another provisioner would delete", added, `{metadata: {annotations: {pv.kubernetes.io/provisioned-by: other.example}}}`),
		making("with another's finalizer", added, `{metadata: {finalizers: [example.com/held]}}`),
		making("with an owner", added, `{metadata: {ownerReferences: [{apiVersion: v1, kind: Node, name: node-b, uid: "1"}]}}`),
		{who: nowhere, what: "makes a PersistentVolume", rule: "volumes", says: alone, try: own, instead: "a token of a pod does", control: own.by(nodeB)},
		{who: nodeB, what: "makes another node's volume again", rule: "volumes", says: alone, try: create("persistentvolumes x", "volume", `{metadata: {name: "${volumeA}"}, spec: {claimRef: {uid: "${claimA}", namespace: shop, name: data},
			nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.csi.sealvol.dev/node, operator: In, values: [node-a]}]}]}}, csi: {`+refs("${release}", "${volumeA}")+`}}}`), instead: makes, control: own},
	}
	for _, f := range []string{"nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"} {
		list = append(list, making("whose "+f+" is another's", named, `{spec: {csi: {`+f+`: {namespace: "${release}", name: "${volumeA}"}}}}`))
	}
	return append(list, changesOfNodes()...)
}

func changesOfNodes() []attempt {
	const holds, stays, released = "what a volume is, and whose, does not change", "finalizers of others stay", "deletes one that is Released"
	add := patch("persistentvolumes pvc-released", `{metadata: {finalizers: [`+ownFinalizer+`, kubernetes.io/pv-protection, sealvol.dev/delivery, external-attacher/csi-sealvol-dev]}}`)
	changing := func(what, says, at, change string) attempt {
		return attempt{who: nodeB, what: what, rule: "volumes", says: says, try: patch("persistentvolumes "+at, change), instead: "holds its own with csi-provisioner's finalizer", control: add}
	}
	return []attempt{
		changing("changes another node's PersistentVolume", "of its own alone", "${volumeA}", `{metadata: {labels: {a: b}}}`),
		changing("changes another driver's PersistentVolume", "of its own alone", "pvc-other", `{metadata: {labels: {a: b}}}`),
		changing("gives a volume to another claim", holds, "${volumeB}", `{spec: {claimRef: {namespace: shop, name: taken, uid: "${taken}"}}}`),
		changing("takes a volume from its claim", holds, "${volumeB}", `{spec: {claimRef: null}}`),
		changing("has a volume deleted that is to be retained", holds, "pvc-retained", `{spec: {persistentVolumeReclaimPolicy: Delete}}`),
		changing("says that a volume is bigger", holds, "${volumeB}", `{spec: {capacity: {storage: 1Ti}}}`),
		changing("mounts with other options", holds, "${volumeB}", `{spec: {mountOptions: [suid]}}`),
		changing("gives a volume an owner that does not exist", holds, "${volumeB}", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("annotates a volume", holds, "${volumeB}", `{metadata: {annotations: {pv.beta.kubernetes.io/gid: "0"}}}`),
		changing("labels a volume", holds, "${volumeB}", `{metadata: {labels: {a: b}}}`),
		changing("takes the finalizers of a bound volume", stays, "${volumeB}", `{metadata: {finalizers: null}}`),
		changing("takes csi-provisioner's finalizer of a bound volume", stays, "${volumeB}", `{metadata: {finalizers: [kubernetes.io/pv-protection, sealvol.dev/delivery, external-attacher/csi-sealvol-dev]}}`),
		{who: nodeB, what: "takes the operator's finalizer of a volume that is being deleted", rule: "volumes", says: stays, try: patch("persistentvolumes pvc-going", `{metadata: {finalizers: [`+ownFinalizer+`, kubernetes.io/pv-protection, external-attacher/csi-sealvol-dev]}}`),
			instead: "takes its own there", control: patch("persistentvolumes pvc-going", `{metadata: {finalizers: [kubernetes.io/pv-protection, sealvol.dev/delivery, external-attacher/csi-sealvol-dev]}}`)},
		{who: nodeB, what: "deletes a bound volume of its own", rule: "volumes", says: "that are Released", try: del("persistentvolumes ${volumeB}"), instead: released, control: del("persistentvolumes pvc-released")},
		{who: nodeB, what: "deletes a volume that is to be retained", rule: "volumes", says: "that are Released", try: del("persistentvolumes pvc-retained"), instead: released, control: del("persistentvolumes pvc-released")},
		{who: nodeB, what: "deletes another node's volume", rule: "volumes", says: "of its own alone", try: del("persistentvolumes ${volumeA}"), instead: released, control: del("persistentvolumes pvc-released")},
		{who: nodeB, what: "says that a bound volume is Released", rule: rbac, try: patch("persistentvolumes/status ${volumeB}", `{status: {phase: Released}}`)},
	}
}

func claimsOfNodes() []attempt {
	const nothing, takes, held = "changes no claim", "takes those that no node has", "the source of a clone is held"
	own := update("persistentvolumeclaims crm/pending", `{metadata: {annotations: {volume.kubernetes.io/selected-node: node-b}}}`)
	back := update("persistentvolumeclaims crm/mine", `{metadata: {annotations: {volume.kubernetes.io/selected-node: null}}}`)
	changing := func(what, says, claim, change string) attempt {
		return attempt{who: nodeB, what: what, rule: "claims", says: says, try: update("persistentvolumeclaims "+claim, change), instead: "takes a claim that no node has", control: own}
	}
	selected := func(node string) string {
		return `{metadata: {annotations: {volume.kubernetes.io/selected-node: ` + node + `}}}`
	}
	giving := changing("gives a claim of another node's back", takes, "shop/taken", selected("null"))
	giving.instead, giving.control = "gives back its own", back
	hold := `{metadata: {finalizers: [kubernetes.io/pvc-protection, provisioner.storage.kubernetes.io/cloning-protection]}}`
	holding := changing("holds another driver's claim", held, "shop/other", hold)
	holding.instead, holding.control = "holds the source of a clone", update("persistentvolumeclaims shop/data", hold)
	return []attempt{
		changing("names a key in a claim", nothing, "crm/pending", `{metadata: {annotations: {sealvol.dev/volume-key: team}}}`),
		changing("says that a claim is bound", nothing, "shop/taken", `{metadata: {annotations: {pv.kubernetes.io/bind-completed: "yes"}}}`),
		changing("says that Kubernetes chose a claim's volume", nothing, "shop/taken", `{metadata: {annotations: {pv.kubernetes.io/bound-by-controller: "yes"}}}`),
		changing("says that another driver makes a claim's volume", nothing, "shop/taken", `{metadata: {annotations: {volume.kubernetes.io/storage-provisioner: other.example}}}`),
		changing("binds a claim", nothing, "shop/taken", `{spec: {volumeName: pvc-x}}`),
		changing("gives a claim an owner that does not exist", nothing, "shop/data", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("takes a claim's protection", nothing, "shop/data", `{metadata: {finalizers: null}}`),
		changing("labels a claim", nothing, "shop/data", `{metadata: {labels: {app: other}}}`),
		changing("takes a claim of another node's", takes, "shop/taken", selected("node-b")),
		changing("gives a claim to another node", takes, "crm/pending", selected("node-a")),
		changing("takes another driver's claim", takes, "shop/other", selected("node-b")),
		changing("takes a claim that has a volume", takes, "shop/data", selected("node-b")),
		giving, holding,
		{who: nowhere, what: "takes a claim", rule: "claims", says: takes, try: own, instead: "a token of a pod does", control: own.by(nodeB)},
		{who: nodeB, what: "makes a claim", rule: rbac, try: create("persistentvolumeclaims crm/x", "claim", `{}`)},
		{who: nodeB, what: "deletes a claim", rule: rbac, try: del("persistentvolumeclaims shop/data")},
		{who: nodeB, what: "says that a claim is lost", rule: rbac, try: patch("persistentvolumeclaims/status shop/data", `{status: {phase: Lost}}`)},
	}
}

func capacities() []attempt {
	const says = "a node tells how much room it has itself"
	own := create("csistoragecapacities ${release}/x", "capacity", `{}`)
	return []attempt{
		{who: nodeB, what: "says how much room another node has", rule: "capacities", says: says, try: create("csistoragecapacities ${release}/x", "capacity", `{nodeTopology: {matchLabels: {topology.csi.sealvol.dev/node: node-a}}}`), instead: "says how much it has", control: own},
		{who: nodeB, what: "says how much room all nodes have", rule: "capacities", says: says, try: create("csistoragecapacities ${release}/x", "capacity", `{nodeTopology: {matchLabels: null}}`), instead: "says how much it has", control: own},
		{who: nodeB, what: "says how much room some nodes have", rule: "capacities", says: says, try: create("csistoragecapacities ${release}/x", "capacity", `{nodeTopology: {matchExpressions: [{key: zone, operator: Exists}]}}`), instead: "says how much it has", control: own},
		{who: nodeB, what: "says it for another driver", rule: "capacities", says: says, try: create("csistoragecapacities ${release}/x", "capacity", `{metadata: {labels: {csi.storage.k8s.io/drivername: other.example}}}`), instead: "says it for Sealvol", control: own},
		{who: nodeB, what: "says that another node is full", rule: "capacities", says: says, try: update("csistoragecapacities ${release}/room-node-a", `{capacity: "0"}`), instead: "that it is", control: update("csistoragecapacities ${release}/room-node-b", `{capacity: "0"}`)},
		{who: nodeB, what: "takes back what another node said", rule: "capacities", says: says, try: del("csistoragecapacities ${release}/room-node-a"), instead: "what it said", control: del("csistoragecapacities ${release}/room-node-b")},
	}
}

// reports are a node's about volumes, with both backends.
func reports() []attempt {
	const sv = "sealedvolumes/status "
	anchor := func(change string) string { return `{status: {anchor: {` + change + `}}}` }
	raise := patch(sv+"${volumeB}", anchor(`generation: 6`))
	healthy := patch(sv+"${volumeB}", `{status: {health: Healthy}}`)
	reporting := func(who, what, says, volume, change string) attempt {
		return attempt{who: who, what: what, rule: "reports", says: says, try: patch(sv+volume, change), instead: "reports on its own volume", control: healthy.by(nodeB)}
	}
	anchoring := func(what, change string) attempt {
		return attempt{who: nodeB, what: what, rule: "anchors", says: "neither lowered, removed nor exchanged", try: patch(sv+"${volumeB}", change), instead: "raises it", control: raise}
	}
	mended := anchoring("lowers an anchor that it has raised too far", anchor(`generation: 4`))
	mended.instead, mended.control = "who has the verb override-anchor does", patch(sv+"${volumeB}", anchor(`generation: 4`)).by(overrider)
	rises := func(what, volume, change, instead, control string) attempt {
		return attempt{who: nodeB, what: what, rule: "reports", says: "rises too far", try: patch(sv+volume, anchor(change)), instead: instead, control: patch(sv+volume, anchor(control))}
	}
	first := `volume: "${uuid}", instance: "${uuid}", mac: "${mac}", `
	return []attempt{
		reporting(nodeB, "reports on another node's volume", "does not have the volume", "${volumeA}", `{status: {health: DataLoss}}`),
		reporting(nodeB, "raises another node's anchor", "does not have the volume", "${volumeA}", anchor(`generation: 99`)),
		reporting(nowhere, "reports on a volume", "does not have the volume", "${volumeB}", `{status: {health: Healthy}}`),
		reporting(nodeB, "reports for another node", "of itself alone", "${volumeB}", `{status: {node: node-a}}`),
		reporting(nodeB, "says that its volume is gone", "are the operator's", "${volumeB}", `{status: {phase: Deleted}}`),
		reporting(nodeB, "says that its volume has another key", "are the operator's", "${volumeB}", `{status: {keyVersion: 2}}`),
		reporting(nodeB, "says that its volume's key is delivered", "are the operator's", "${volumeB}", `{status: {conditions: [{type: KeyReady, status: "True", reason: Mine, message: "", lastTransitionTime: "2026-01-01T00:00:00Z"}]}}`),
		rises("raises its anchor to 2^62", "${volumeB}", `generation: 4611686018427387904`, "by 2^32", `generation: 4294967301`),
		rises("raises its key epoch to 2^32", "${volumeB}", `generation: 6, epoch: 4294967296`, "by 1024", `generation: 6, epoch: 1026`),
		rises("begins with an anchor of 2^62", "new-b", first+`generation: 4611686018427387904, epoch: 1`, "begins at 2^48", first+`generation: 281474976710656, epoch: 1`),
		mended,
		anchoring("removes its anchor", `{status: {anchor: null}}`),
		anchoring("exchanges its anchor", anchor(`mac: "`+string(bs('b', 64))+`"`)),
		anchoring("gives its anchor to another instance", anchor(`generation: 9, instance: "`+string(bs('2', 36))+`"`)),
		anchoring("goes back to an older key", anchor(`generation: 9, epoch: 1`)),
		{who: nodeB, what: "says that its volume was never made", rule: "formats", says: "the volume was made on its device", try: patch(sv+"${volumeB}", `{status: {format: {state: Formatting}}}`), instead: "reports, and leaves that", control: healthy},
		{who: nodeB, what: "removes that its volume was made", rule: "formats", says: "the volume was made on its device", try: patch(sv+"${volumeB}", `{status: {format: null}}`),
			instead: "who has the verb override-anchor does", control: patch(sv+"${volumeB}", `{status: {format: null}}`).by(overrider)},
		{who: nodeB, what: "says that a volume is on its node", rule: rbac, try: patch("sealedvolumes ${volumeA}", `{spec: {nodeName: node-b}}`)},
		{who: nodeB, what: "makes a SealedVolume", rule: rbac, try: create("sealedvolumes x", "", `{apiVersion: sealvol.dev/v1alpha1, kind: SealedVolume, metadata: {name: x}}`)},
		{who: nodeB, what: "deletes a SealedVolume", rule: rbac, try: del("sealedvolumes ${volumeB}")},
		{who: nodeB, what: "reads VolumeKeys", rule: rbac, try: list("volumekeys crm/")},
		{who: nodeB, what: "reads its volume's delivery Secret", rule: rbac, try: get("secrets ${release}/${volumeB}"), instead: "its kubelet does", control: get("secrets ${release}/${volumeB}").by(kubeletB)},
		{who: nodeB, what: "lists the release's Secrets", rule: rbac, try: list("secrets ${release}/")},
	}
}

func bs(c byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = c
	}
	return b
}

// nodesRights is what roles leave to a node with the local backend.
func nodesRights() []attempt {
	return []attempt{
		{who: nodeB, what: "replaces a PersistentVolume", rule: rbac, try: update("persistentvolumes ${volumeB}", `{}`)},
		{who: nodeB, what: "makes a VolumeSnapshotContent", rule: rbac, try: create("volumesnapshotcontents x", "content", `{}`)},
		{who: nodeB, what: "deletes a VolumeSnapshotContent", rule: rbac, try: del("volumesnapshotcontents content-b")},
		{who: nodeB, what: "reads pods of other namespaces", rule: rbac, try: list("pods shop/")},
		{who: nodeB, what: "starts a pod", rule: rbac, try: create("pods ${release}/x", "", `{apiVersion: v1, kind: Pod, metadata: {name: x}}`), instead: "reads its own pod", control: get("pods ${release}/sealvol-node-node-b")},
		{who: nodeB, what: "asks for a token of the operator", rule: rbac, try: create("serviceaccounts/token ${release}/sealvol-operator", "", `{apiVersion: authentication.k8s.io/v1, kind: TokenRequest, spec: {}}`)},
		{who: nodeB, what: "changes its DaemonSet", rule: rbac, try: patch("daemonsets ${release}/sealvol-node", `{metadata: {labels: {a: b}}}`), instead: "reads it", control: get("daemonsets ${release}/sealvol-node")},
		{who: nodeB, what: "takes the operator's place", rule: rbac, try: update("leases ${release}/sealvol-operator", `{spec: {holderIdentity: node-b}}`)},
		{who: nodeB, what: "changes a Node", rule: rbac, try: patch("nodes node-a", `{metadata: {labels: {a: b}}}`), instead: "reads it", control: get("nodes node-a")},
		{who: nodeB, what: "makes a class of storage", rule: rbac, try: create("storageclasses x", "", `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: x}, provisioner: csi.sealvol.dev}`)},
		{who: nodeB, what: "attaches a volume", rule: rbac, try: create("volumeattachments x", "attachment", `{}`)},
		{who: nodeB, what: "removes a policy", rule: rbac, try: del("validatingadmissionpolicybindings sealvol-volumes")},
	}
}

// nodesRightsEBS is what roles leave to a node with the ebs backend: it makes nothing.
func nodesRightsEBS() []attempt {
	return []attempt{
		{who: nodeB, what: "makes a PersistentVolume", rule: rbac, try: create("persistentvolumes x", "volume", `{}`)},
		{who: nodeB, what: "changes a PersistentVolume", rule: rbac, try: patch("persistentvolumes ${volumeB}", `{spec: {claimRef: null}}`)},
		{who: nodeB, what: "deletes a PersistentVolume", rule: rbac, try: del("persistentvolumes pvc-released")},
		{who: nodeB, what: "reads PersistentVolumes", rule: rbac, try: list("persistentvolumes")},
		{who: nodeB, what: "reads claims", rule: rbac, try: list("persistentvolumeclaims crm/")},
		{who: nodeB, what: "changes a claim", rule: rbac, try: update("persistentvolumeclaims crm/pending", `{metadata: {labels: {a: b}}}`)},
		{who: nodeB, what: "changes a VolumeSnapshotContent", rule: rbac, try: patch("volumesnapshotcontents content-b", `{metadata: {labels: {a: b}}}`)},
		{who: nodeB, what: "attaches a volume", rule: rbac, try: create("volumeattachments x", "attachment", `{}`)},
		{who: nodeB, what: "says that an attachment is complete", rule: rbac, try: patch("volumeattachments/status attached", `{status: {attached: true}}`)},
		{who: nodeB, what: "says how much room it has", rule: rbac, try: create("csistoragecapacities ${release}/x", "capacity", `{}`)},
		{who: nodeB, what: "changes a Node", rule: rbac, try: patch("nodes node-b", `{metadata: {labels: {a: b}}}`), instead: "reads it", control: get("nodes node-b")},
	}
}
