package matrixtest

// Attempts with the tokens of controller, operator and mounter, and what sidecars do on nodes or in the controller, whoever has them.

// contents are attempts of csi-snapshotter.
func contents(who string) []attempt {
	const vsc, status = "volumesnapshotcontents ", "volumesnapshotcontents/status "
	const none, same, notes, finals, once = "no snapshot of Sealvol", "what a snapshot is of, and whose, does not change", "of a content's annotations", "removes its finalizer, and no other", "is said once"
	begin := patch(vsc+"content-b", `{metadata: {annotations: {snapshot.storage.kubernetes.io/volumesnapshot-being-created: "yes"}}}`)
	changing := func(what, says, at, change string) attempt {
		return attempt{who: who, what: what, rule: "contents", says: says, try: patch(vsc+at, change), instead: "notes that it makes one of its own", control: begin}
	}
	telling := func(what, says, at, change string) attempt {
		return attempt{who: who, what: what, rule: "contents", says: says, try: patch(status+at, change), instead: "says which snapshot a content stands for", control: patch(status+"content-new", `{status: {snapshotHandle: snap-2, readyToUse: true, creationTime: 1, restoreSize: 1}}`)}
	}
	finalizer := changing("takes a finalizer of a content that stays", finals, "content-b", `{metadata: {finalizers: [example.com/other]}}`)
	finalizer.instead, finalizer.control = "of one that is being deleted", patch(vsc+"content-going", `{metadata: {finalizers: [example.com/other]}}`)
	clears := telling("takes back which snapshot a content stands for", once, "content-b", `{status: {snapshotHandle: null}}`)
	clears.instead, clears.control = "does so when it is being deleted", patch(status+"content-going", `{status: {snapshotHandle: null, readyToUse: null, creationTime: null, restoreSize: null}}`)
	given := telling("says that a content made by hand stands for another snapshot", once, "by-hand-b", `{status: {snapshotHandle: snap-9, readyToUse: true}}`)
	given.instead, given.control = "says what it was made with", patch(status+"by-hand-b", `{status: {snapshotHandle: snap-1, readyToUse: true}}`)
	list := []attempt{
		changing("changes another driver's content", none, "content-other", `{metadata: {annotations: {snapshot.storage.kubernetes.io/volumesnapshot-being-created: "yes"}}}`),
		changing("takes the finalizers of another driver's content", none, "content-other", `{metadata: {finalizers: null}}`),
		telling("says that another driver's content stands for another snapshot", none, "content-other", `{status: {snapshotHandle: snap-9}}`),
		changing("gives a snapshot to another namespace", same, "content-b", `{spec: {volumeSnapshotRef: {namespace: crm}}}`),
		changing("has a snapshot retained", same, "content-b", `{spec: {deletionPolicy: Retain}}`),
		changing("gives a content an owner that does not exist", same, "content-b", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("labels a content", same, "content-b", `{metadata: {labels: {a: b}}}`),
		changing("has a snapshot deleted", notes, "content-new", `{metadata: {annotations: {snapshot.storage.kubernetes.io/volumesnapshot-being-deleted: null, a: b}}}`),
		changing("names a Secret for the deletion", notes, "content-b", `{metadata: {annotations: {snapshot.storage.kubernetes.io/deletion-secret-name: password, snapshot.storage.kubernetes.io/deletion-secret-namespace: crm}}}`),
		changing("says that a snapshot is of another volume", notes, "content-b", `{metadata: {annotations: {sealvol.dev/source-volume: "vol-${volumeA}"}}}`),
		changing("says anew what a snapshot made by hand is of", notes, "by-hand-b", `{metadata: {annotations: {sealvol.dev/source-volume: "vol-${volumeA}"}}}`),
		finalizer,
		changing("takes another's finalizer of a content that is being deleted", finals, "content-going", `{metadata: {finalizers: null}}`),
		telling("exchanges which snapshot a content stands for", once, "content-b", `{status: {snapshotHandle: snap-9}}`),
		telling("exchanges how big a snapshot is", once, "content-b", `{status: {restoreSize: 9}}`),
		telling("says that a snapshot is one of a group", once, "content-b", `{status: {volumeGroupSnapshotHandle: g}}`),
		clears, given,
	}
	if who == controller {
		return list
	}
	const alone = "sees to snapshots of its own alone"
	hand := patch(vsc+"by-hand", `{metadata: {labels: {snapshot.storage.kubernetes.io/managed-by: node-b}, annotations: {sealvol.dev/source-volume: vol-1}}}`)
	taking := func(what, at, change string) attempt {
		a := changing(what, alone, at, change)
		a.instead, a.control = "takes one that was made by hand and that no node has", hand
		return a
	}
	return append(list,
		taking("changes the content of another node's snapshot", "content-a", `{metadata: {annotations: {snapshot.storage.kubernetes.io/volumesnapshot-being-created: "yes"}}}`),
		taking("takes the content of another node's snapshot", "content-a", `{metadata: {labels: {snapshot.storage.kubernetes.io/managed-by: node-b}}}`),
		taking("takes a content that Kubernetes has made and not placed", "unplaced", `{metadata: {labels: {snapshot.storage.kubernetes.io/managed-by: node-b}}}`),
		taking("gives a content to another node", "by-hand", `{metadata: {labels: {snapshot.storage.kubernetes.io/managed-by: node-a}}}`),
		telling("says that another node's snapshot is lost", alone, "content-a", `{status: {readyToUse: false}}`),
		attempt{who: nowhere, what: "changes a content", rule: "contents", says: alone, try: begin, instead: "a token of a pod does", control: begin.by(nodeB)},
	)
}

// resizer is what the local backend's controller may do with PersistentVolumes.
func resizer() []attempt {
	const other = "changes sizes, and nothing else"
	bigger := patch("persistentvolumes ${volumeA}", `{metadata: {annotations: {volume.alpha.kubernetes.io/pre-resize-capacity: 1Gi}}, spec: {capacity: {storage: 2Gi}}}`)
	changing := func(what, says, at, change string) attempt {
		return attempt{who: controller, what: what, rule: "sizes", says: says, try: patch("persistentvolumes "+at, change), instead: "says that a volume is bigger", control: bigger}
	}
	list := []attempt{
		changing("says that another driver's volume is bigger", "no volume of Sealvol", "pvc-other", `{spec: {capacity: {storage: 2Gi}}}`),
		changing("gives a bound volume to another claim", other, "${volumeA}", `{spec: {claimRef: {namespace: crm, name: pending, uid: "${pending}"}}}`),
		changing("takes a volume from its claim", other, "${volumeA}", `{spec: {claimRef: null}}`),
		changing("has a volume deleted that is to be retained", other, "pvc-retained", `{spec: {persistentVolumeReclaimPolicy: Delete}}`),
		changing("takes a volume's finalizers", other, "${volumeA}", `{metadata: {finalizers: null}}`),
		changing("gives a volume an owner that does not exist", other, "${volumeA}", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("annotates a volume", other, "${volumeA}", `{metadata: {annotations: {pv.beta.kubernetes.io/gid: "0"}}}`),
		changing("labels a volume", other, "${volumeA}", `{metadata: {labels: {a: b}}}`),
		changing("mounts with other options", other, "${volumeA}", `{spec: {mountOptions: [suid]}}`),
	}
	return append(list, controllersRights(
		attempt{who: controller, what: "makes a PersistentVolume", rule: rbac, try: create("persistentvolumes x", "volume", `{}`)},
		attempt{who: controller, what: "deletes a PersistentVolume", rule: rbac, try: del("persistentvolumes pvc-released")},
		attempt{who: controller, what: "changes a claim", rule: rbac, try: update("persistentvolumeclaims shop/data", `{metadata: {labels: {a: b}}}`)},
		attempt{who: controller, what: "changes a VolumeSnapshotContent", rule: rbac, try: patch("volumesnapshotcontents content-a", `{metadata: {labels: {a: b}}}`)},
		attempt{who: controller, what: "says that an attachment is complete", rule: rbac, try: patch("volumeattachments/status attached", `{status: {attached: true}}`)},
	)...)
}

// controllersRights is what roles leave to the controller, with both backends.
func controllersRights(more ...attempt) []attempt {
	return append(more,
		attempt{who: controller, what: "reads a delivery Secret", rule: rbac, try: get("secrets ${release}/${volumeA}")},
		attempt{who: controller, what: "lists the release's Secrets", rule: rbac, try: list("secrets ${release}/")},
		attempt{who: controller, what: "reads a tenant's Secret", rule: rbac, try: get("secrets crm/password")},
		attempt{who: controller, what: "reads VolumeKeys", rule: rbac, try: list("volumekeys crm/")},
		attempt{who: controller, what: "changes a SealedVolume", rule: rbac, try: patch("sealedvolumes/status ${volumeA}", `{status: {anchor: null}}`)},
		attempt{who: controller, what: "says that a PersistentVolume is Released", rule: rbac, try: patch("persistentvolumes/status ${volumeA}", `{status: {phase: Released}}`)},
		attempt{who: controller, what: "takes the operator's place", rule: rbac, try: update("leases ${release}/sealvol-operator", `{spec: {holderIdentity: x}}`),
			instead: "keeps its own", control: update("leases ${release}/external-resizer-csi-sealvol-dev", `{spec: {holderIdentity: x}}`)},
		attempt{who: controller, what: "deletes a lease", rule: rbac, try: del("leases ${release}/external-resizer-csi-sealvol-dev")},
		attempt{who: controller, what: "reads all events", rule: rbac, try: list("events crm/")},
	)
}

// resizes are csi-resizer's of claims, with both backends.
func resizes() []attempt {
	const claims = "persistentvolumeclaims/status "
	const none, meta, status = "has no volume of Sealvol", "of a claim csi-resizer changes", "about sizes and VolumeAttributesClasses"
	condition := func(kind string) string {
		return `[{type: ` + kind + `, status: "True", lastTransitionTime: "2026-01-01T00:00:00Z"}]`
	}
	grows := patch(claims+"shop/data", `{metadata: {annotations: {volume.kubernetes.io/node-expansion-not-required: "true"}}, status: {capacity: {storage: 2Gi}, allocatedResources: {storage: 2Gi},
		allocatedResourceStatuses: {storage: ControllerResizeInProgress}, conditions: `+condition("Resizing")+`}}`)
	changing := func(what, says, at, change string) attempt {
		return attempt{who: controller, what: what, rule: "resizes", says: says, try: patch(claims+at, change), instead: "says how far a claim has grown", control: grows}
	}
	return []attempt{
		changing("says that another driver's claim has grown", none, "shop/other", `{status: {capacity: {storage: 2Gi}}}`),
		changing("says that a claim without a volume has grown", none, "shop/taken", `{status: {capacity: {storage: 2Gi}}}`),
		changing("says that a claim is lost", status, "shop/data", `{status: {phase: Lost}}`),
		changing("says that a claim can be written by many", status, "shop/data", `{status: {accessModes: [ReadWriteMany]}}`),
		changing("gives a claim a condition that is not about sizes", status, "shop/data", `{status: {conditions: `+condition("Unused")+`}}`),
		changing("says that a claim is bound", meta, "shop/data", `{metadata: {annotations: {pv.kubernetes.io/bind-completed: "yes"}}}`),
		changing("names a key in a claim", meta, "shop/data", `{metadata: {annotations: {sealvol.dev/volume-key: team}}}`),
		changing("takes a claim's protection", meta, "shop/data", `{metadata: {finalizers: null}}`),
		changing("gives a claim an owner that does not exist", meta, "shop/data", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("labels a claim", meta, "shop/data", `{metadata: {labels: {app: other}}}`),
	}
}

// events are in Sealvol's name.
func events(who string) []attempt {
	const about, name = "Sealvol tells of claims, volumes", "in nobody else's name"
	tells := create("events crm/x", "event", `{}`)
	newer := `{apiVersion: events.k8s.io/v1, kind: Event, metadata: {name: x}, type: Normal, reason: X, action: X, note: x, eventTime: "2026-01-01T00:00:00.000000Z", reportingController: sealvol-node, reportingInstance: x,
		regarding: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: crm, name: data}}`
	list := []attempt{
		{who: who, what: "tells of a pod", rule: "events", says: about, try: create("events crm/x", "event", `{involvedObject: {kind: Pod, name: app}}`), instead: "tells of a claim", control: tells},
		{who: who, what: "tells in the scheduler's name", rule: "events", says: name, try: create("events crm/x", "event", `{source: {component: default-scheduler}, reportingComponent: default-scheduler}`), instead: "in its own", control: tells},
		{who: who, what: "changes what the scheduler told", rule: "events", says: name, try: patch("events crm/by-scheduler", `{message: other}`), instead: "what it told", control: patch("events crm/by-sealvol", `{message: other}`)},
		{who: who, what: "has an event tell of another claim", rule: "events", says: about, try: patch("events crm/by-sealvol", `{involvedObject: {name: pending}}`), instead: "counts", control: patch("events crm/by-sealvol", `{count: 2}`)},
		{who: nodeB, what: "tells of a node, by events.k8s.io", rule: "events", says: about, try: create("events.k8s.io crm/x", "", newer).with(`{regarding: {kind: Node, name: node-a}}`), instead: "of a claim", control: create("events.k8s.io crm/x", "", newer)},
		{who: nodeB, what: "tells in the kubelet's name, by events.k8s.io", rule: "events", says: name, try: create("events.k8s.io crm/x", "", newer).with(`{reportingController: kubelet}`), instead: "in its own", control: create("events.k8s.io crm/x", "", newer)},
		{who: who, what: "deletes an event", rule: rbac, try: del("events crm/by-scheduler")},
	}
	if who == nodeB {
		list = append(list, attempt{who: who, what: "reads all events", rule: rbac, try: request{verb: "list", what: "events crm/"}})
	}
	return list
}

// volumesOfController are attempts with the ebs backend's controller, which makes, attaches and resizes volumes.
func volumesOfController() []attempt {
	const named, added, same, stays = "with its own Secret", "csi-provisioner gives it", "what a volume is, and whose, does not change", "finalizers of others stay"
	own := create("persistentvolumes x", "volume", `{}`)
	making := func(what, says, change string) attempt {
		return attempt{who: controller, what: "makes a PersistentVolume " + what, rule: "volumes", says: says, try: create("persistentvolumes x", "volume", change), instead: "makes one with its own Secret", control: own}
	}
	bigger := patch("persistentvolumes ${volumeA}", `{metadata: {annotations: {volume.alpha.kubernetes.io/pre-resize-capacity: 1Gi}}, spec: {capacity: {storage: 2Gi}, volumeAttributesClassName: fast}}`)
	changing := func(what, says, at, change string) attempt {
		return attempt{who: controller, what: what, rule: "volumes", says: says, try: patch("persistentvolumes "+at, change), instead: "says that a volume is bigger or of another class", control: bigger}
	}
	finalizer := changing("takes csi-attacher's finalizer of a volume that stays", stays, "${volumeA}", `{metadata: {finalizers: [`+ownFinalizer+`, kubernetes.io/pv-protection, sealvol.dev/delivery]}}`)
	finalizer.instead, finalizer.control = "of one that is being deleted", patch("persistentvolumes pvc-going", `{metadata: {finalizers: [`+ownFinalizer+`, kubernetes.io/pv-protection, sealvol.dev/delivery]}}`)
	operators := changing("takes the operator's finalizer", stays, "pvc-going", `{metadata: {finalizers: [`+ownFinalizer+`, kubernetes.io/pv-protection]}}`)
	operators.instead, operators.control = "takes both of its own", patch("persistentvolumes pvc-going", `{metadata: {finalizers: [kubernetes.io/pv-protection, sealvol.dev/delivery]}}`)
	list := []attempt{
		making("of another driver", "no volume of Sealvol", `{spec: {csi: {driver: other.example}}}`),
		making("under another name than its claim's", named, `{metadata: {name: pvc-x}}`),
		making("named as a key Secret", named, `{metadata: {name: "${key}"}, spec: {csi: {nodeStageSecretRef: {name: "${key}"}, nodePublishSecretRef: null, nodeExpandSecretRef: null}}}`),
		making("that names another volume's delivery Secret", named, `{spec: {csi: {nodeStageSecretRef: {name: "${volumeA}"}}}}`),
		making("that names a Secret of the claim's namespace", named, `{spec: {csi: {nodePublishSecretRef: {namespace: crm, name: password}}}}`),
		making("whose Secret for ControllerPublish is another's", "no controller of Sealvol", `{spec: {csi: {controllerPublishSecretRef: {namespace: crm, name: password}}}}`),
		making("that gives pods a group", added, `{metadata: {annotations: {pv.beta.kubernetes.io/gid: "0"}}}`),
		changing("changes another driver's volume", "no volume of Sealvol", "pvc-other", `{spec: {capacity: {storage: 2Gi}}}`),
		changing("takes the finalizers of another driver's volume", "no volume of Sealvol", "pvc-other", `{metadata: {finalizers: null}}`),
		changing("gives a volume to another claim", same, "${volumeA}", `{spec: {claimRef: {namespace: crm, name: pending, uid: "${pending}"}}}`),
		changing("takes a volume from its claim", same, "${volumeA}", `{spec: {claimRef: null}}`),
		changing("has a volume deleted that is to be retained", same, "pvc-retained", `{spec: {persistentVolumeReclaimPolicy: Delete}}`),
		changing("gives a volume an owner that does not exist", same, "${volumeA}", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("annotates a volume", same, "${volumeA}", `{metadata: {annotations: {pv.beta.kubernetes.io/gid: "0"}}}`),
		changing("mounts with other options", same, "${volumeA}", `{spec: {mountOptions: [suid]}}`),
		changing("takes a bound volume's finalizers", stays, "${volumeA}", `{metadata: {finalizers: null}}`),
		finalizer, operators,
		{who: controller, what: "deletes a bound volume", rule: "volumes", says: "that are Released", try: del("persistentvolumes ${volumeA}"), instead: "deletes one that is Released", control: del("persistentvolumes pvc-released")},
		{who: controller, what: "deletes another driver's volume", rule: "volumes", says: "no volume of Sealvol", try: del("persistentvolumes pvc-other"), instead: "deletes one that is Released", control: del("persistentvolumes pvc-released")},
	}
	return append(list, controllersRights()...)
}

func claimsOfController() []attempt {
	const nothing, gives = "changes no claim", "gives back those that have a node"
	back := update("persistentvolumeclaims crm/mine", `{metadata: {annotations: {volume.kubernetes.io/selected-node: null}}}`)
	changing := func(what, says, claim, change string) attempt {
		return attempt{who: controller, what: what, rule: "claims", says: says, try: update("persistentvolumeclaims "+claim, change), instead: "gives a claim back to the scheduler", control: back}
	}
	return []attempt{
		changing("says that a claim is bound", nothing, "shop/taken", `{metadata: {annotations: {pv.kubernetes.io/bind-completed: "yes"}}}`),
		changing("names a key in a claim", nothing, "shop/taken", `{metadata: {annotations: {sealvol.dev/volume-key: team}}}`),
		changing("binds a claim", nothing, "shop/taken", `{spec: {volumeName: pvc-x}}`),
		changing("takes a claim's protection", nothing, "shop/data", `{metadata: {finalizers: null}}`),
		changing("gives a claim to a node", gives, "crm/pending", `{metadata: {annotations: {volume.kubernetes.io/selected-node: node-a}}}`),
		changing("holds another driver's claim", "the source of a clone is held", "shop/other", `{metadata: {finalizers: [kubernetes.io/pvc-protection, provisioner.storage.kubernetes.io/cloning-protection]}}`),
	}
}

func attachments() []attempt {
	const none, same = "no attachment of a volume of Sealvol", "of an attachment csi-attacher changes"
	const va, status = "volumeattachments ", "volumeattachments/status "
	done := patch(status+"attached", `{status: {attached: true}}`)
	telling := func(what, says, at, change string) attempt {
		return attempt{who: controller, what: what, rule: "attachments", says: says, try: patch(at, change), instead: "says that a volume of Sealvol is attached", control: done}
	}
	finalizer := telling("takes another's finalizer of an attachment", same, va+"attached", `{metadata: {finalizers: null}}`)
	finalizer.instead, finalizer.control = "takes its own", patch(va+"attached", `{metadata: {finalizers: [example.com/other], annotations: {csi.alpha.kubernetes.io/node-id: i-1}}}`)
	return []attempt{
		telling("says that another driver's volume is attached", none, status+"attached-other", `{status: {attached: true}}`),
		telling("takes the finalizers of another driver's attachment", none, va+"attached-other", `{metadata: {finalizers: null}}`),
		finalizer,
		telling("gives an attachment an owner that does not exist", same, va+"attached", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		telling("annotates an attachment", same, va+"attached", `{metadata: {annotations: {a: b}}}`),
		telling("labels an attachment", same, va+"attached", `{metadata: {labels: {a: b}}}`),
		{who: controller, what: "attaches a volume", rule: rbac, try: create("volumeattachments x", "attachment", `{}`)},
		{who: controller, what: "deletes an attachment", rule: rbac, try: del("volumeattachments attached")},
	}
}

func operatorRights() []attempt {
	const places, nowhere, finalizer = "and changes nothing else of them", "neither a node nor a volume", "and nothing else"
	place := `{metadata: {annotations: {volume.kubernetes.io/selected-node: node-a, sealvol.dev/placed-at: "2026-01-01T00:00:00Z"}}}`
	placing := func(what, says, claim, change string) attempt {
		return attempt{who: operators, what: what, rule: "placements", says: says, try: patch("persistentvolumeclaims "+claim, change), instead: "places a claim", control: patch("persistentvolumeclaims crm/pending", place)}
	}
	delivering := func(what, says, volume, change string) attempt {
		return attempt{who: operators, what: what, rule: "deliveries", says: says, try: patch("persistentvolumes "+volume, change), instead: "removes its finalizer",
			control: patch("persistentvolumes ${volumeA}", `{metadata: {finalizers: [external-provisioner.volume.kubernetes.io/finalizer, kubernetes.io/pv-protection, external-attacher/csi-sealvol-dev]}}`)}
	}
	return []attempt{
		placing("names a key in a claim", places, "crm/pending", `{metadata: {annotations: {sealvol.dev/volume-key: team}}}`),
		placing("says that a claim is bound", places, "crm/pending", `{metadata: {annotations: {pv.kubernetes.io/bind-completed: "yes"}}}`),
		placing("binds a claim", places, "crm/pending", `{spec: {volumeName: pvc-x}}`),
		placing("labels a claim", places, "crm/pending", `{metadata: {labels: {app: other}}}`),
		placing("takes a claim's protection", places, "shop/data", `{metadata: {finalizers: null}}`),
		placing("gives a claim an owner that does not exist", places, "crm/pending", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		placing("places a claim that has a node", nowhere, "crm/mine", place),
		placing("places a claim that has a volume", nowhere, "shop/data", place),
		delivering("changes another driver's volume", "no volume of Sealvol", "pvc-other", `{metadata: {finalizers: [sealvol.dev/delivery]}}`),
		delivering("gives a volume to another claim", finalizer, "${volumeA}", `{spec: {claimRef: {namespace: crm, name: pending, uid: "${pending}"}}}`),
		delivering("has a volume deleted that is to be retained", finalizer, "pvc-retained", `{spec: {persistentVolumeReclaimPolicy: Delete}}`),
		delivering("takes others' finalizers of a volume", finalizer, "${volumeA}", `{metadata: {finalizers: [sealvol.dev/delivery]}}`),
		delivering("annotates a volume", finalizer, "${volumeA}", `{metadata: {annotations: {a: b}}}`),
		delivering("labels a volume", finalizer, "${volumeA}", `{metadata: {labels: {a: b}}}`),
		{who: operators, what: "reads a tenant's Secret", rule: rbac, try: get("secrets crm/password"), instead: "reads those of the release", control: get("secrets ${release}/${key}")},
		{who: operators, what: "lists all Secrets", rule: rbac, try: list("secrets")},
		{who: operators, what: "makes a Secret in a tenant's namespace", rule: rbac, try: create("secrets crm/x", "", `{apiVersion: v1, kind: Secret, metadata: {name: x}}`)},
		{who: operators, what: "makes a claim", rule: rbac, try: create("persistentvolumeclaims crm/x", "claim", `{}`)},
		{who: operators, what: "replaces a claim", rule: rbac, try: update("persistentvolumeclaims crm/pending", `{}`)},
		{who: operators, what: "deletes a claim", rule: rbac, try: del("persistentvolumeclaims shop/data")},
		{who: operators, what: "makes a PersistentVolume", rule: rbac, try: create("persistentvolumes x", "volume", `{}`)},
		{who: operators, what: "deletes a PersistentVolume", rule: rbac, try: del("persistentvolumes ${volumeA}")},
		{who: operators, what: "changes a VolumeSnapshotContent", rule: rbac, try: patch("volumesnapshotcontents content-a", `{metadata: {labels: {a: b}}}`)},
		{who: operators, what: "changes an attachment", rule: rbac, try: patch("volumeattachments/status attached", `{status: {attached: true}}`)},
		{who: operators, what: "reads pods", rule: rbac, try: list("pods shop/")},
		{who: operators, what: "lowers an anchor", rule: "anchors", says: "neither lowered", try: patch("sealedvolumes/status ${volumeA}", `{status: {anchor: {generation: 1}}}`), instead: "writes the rest of the status", control: patch("sealedvolumes/status ${volumeA}", `{status: {phase: Available}}`)},
	}
}

// mounters: the mounter's account has no rights, and no token is mounted; this is what one would be worth.
func mounters() []attempt {
	return []attempt{
		{who: mounter, what: "reads a delivery Secret", rule: rbac, try: get("secrets ${release}/${volumeB}")},
		{who: mounter, what: "reads a SealedVolume", rule: rbac, try: get("sealedvolumes ${volumeB}")},
		{who: mounter, what: "reads a PersistentVolume", rule: rbac, try: get("persistentvolumes ${volumeB}")},
		{who: mounter, what: "reports on a volume", rule: rbac, try: patch("sealedvolumes/status ${volumeB}", `{status: {health: Healthy}}`)},
	}
}
