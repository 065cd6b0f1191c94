package matrixtest

// These are attempts with the tokens of controller, operator and mounter, and with those of
// sidecars, which run on the nodes or in the controller.

// contents are attempts of csi-snapshotter.
func contents(who string) []attempt {
	const vsc, status = "volumesnapshotcontents ", "volumesnapshotcontents/status "
	const none, same, notes, finals, once = "is not a snapshot of Sealvol", "the spec, owners and labels of a VolumeSnapshotContent may not be changed", "only the annotation volumesnapshot-being-created may be changed", "may remove only its own finalizer", "only once"
	begin := patch(vsc+"content-b", `{metadata: {annotations: {snapshot.storage.kubernetes.io/volumesnapshot-being-created: "yes"}}}`)
	changing := func(what, says, at, change string) attempt {
		return attempt{who: who, what: what, rule: "contents", says: says, try: patch(vsc+at, change), instead: "sets the annotation volumesnapshot-being-created on one of its own", control: begin}
	}
	telling := func(what, says, at, change string) attempt {
		return attempt{who: who, what: what, rule: "contents", says: says, try: patch(status+at, change), instead: "sets the snapshot handle of a new one", control: patch(status+"content-new", `{status: {snapshotHandle: snap-2, readyToUse: true, creationTime: 1, restoreSize: 1}}`)}
	}
	finalizer := changing("removes a finalizer from a VolumeSnapshotContent that is not being deleted", finals, "content-b", `{metadata: {finalizers: [example.com/other]}}`)
	finalizer.instead, finalizer.control = "removes its own finalizer from one that is being deleted", patch(vsc+"content-going", `{metadata: {finalizers: [example.com/other]}}`)
	clears := telling("removes the snapshot handle of a VolumeSnapshotContent", once, "content-b", `{status: {snapshotHandle: null}}`)
	clears.instead, clears.control = "removes it while it is being deleted", patch(status+"content-going", `{status: {snapshotHandle: null, readyToUse: null, creationTime: null, restoreSize: null}}`)
	given := telling("sets another snapshot handle on a VolumeSnapshotContent that was created by hand", once, "by-hand-b", `{status: {snapshotHandle: snap-9, readyToUse: true}}`)
	given.instead, given.control = "sets the handle that it was created with", patch(status+"by-hand-b", `{status: {snapshotHandle: snap-1, readyToUse: true}}`)
	list := []attempt{
		changing("changes another driver's VolumeSnapshotContent", none, "content-other", `{metadata: {annotations: {snapshot.storage.kubernetes.io/volumesnapshot-being-created: "yes"}}}`),
		changing("removes the finalizers of another driver's VolumeSnapshotContent", none, "content-other", `{metadata: {finalizers: null}}`),
		telling("changes the snapshot handle of another driver's VolumeSnapshotContent", none, "content-other", `{status: {snapshotHandle: snap-9}}`),
		changing("assigns a snapshot to another namespace", same, "content-b", `{spec: {volumeSnapshotRef: {namespace: crm}}}`),
		changing("changes the deletion policy of a snapshot to Retain", same, "content-b", `{spec: {deletionPolicy: Retain}}`),
		changing("sets an owner that does not exist on a VolumeSnapshotContent", same, "content-b", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("labels a VolumeSnapshotContent", same, "content-b", `{metadata: {labels: {a: b}}}`),
		changing("removes the annotation volumesnapshot-being-deleted", notes, "content-new", `{metadata: {annotations: {snapshot.storage.kubernetes.io/volumesnapshot-being-deleted: null, a: b}}}`),
		changing("sets a Secret for the deletion of a snapshot", notes, "content-b", `{metadata: {annotations: {snapshot.storage.kubernetes.io/deletion-secret-name: password, snapshot.storage.kubernetes.io/deletion-secret-namespace: crm}}}`),
		changing("sets another source volume for a snapshot", notes, "content-b", `{metadata: {annotations: {sealvol.dev/source-volume: "vol-${volumeA}"}}}`),
		changing("changes the source volume of a snapshot that was imported by hand", notes, "by-hand-b", `{metadata: {annotations: {sealvol.dev/source-volume: "vol-${volumeA}"}}}`),
		finalizer,
		changing("removes another controller's finalizer from a VolumeSnapshotContent that is being deleted", finals, "content-going", `{metadata: {finalizers: null}}`),
		telling("changes the snapshot handle of a VolumeSnapshotContent", once, "content-b", `{status: {snapshotHandle: snap-9}}`),
		telling("changes the size of a snapshot", once, "content-b", `{status: {restoreSize: 9}}`),
		telling("adds a snapshot to a group of snapshots", once, "content-b", `{status: {volumeGroupSnapshotHandle: g}}`),
		clears, given,
	}
	if who == controller {
		return list
	}
	const alone = "may change only its own snapshots"
	hand := patch(vsc+"by-hand", `{metadata: {labels: {snapshot.storage.kubernetes.io/managed-by: node-b}, annotations: {sealvol.dev/source-volume: vol-1}}}`)
	taking := func(what, at, change string) attempt {
		a := changing(what, alone, at, change)
		a.instead, a.control = "assigns one that was created by hand and has no node to itself", hand
		return a
	}
	return append(list,
		taking("changes the VolumeSnapshotContent of another node", "content-a", `{metadata: {annotations: {snapshot.storage.kubernetes.io/volumesnapshot-being-created: "yes"}}}`),
		taking("assigns the VolumeSnapshotContent of another node to itself", "content-a", `{metadata: {labels: {snapshot.storage.kubernetes.io/managed-by: node-b}}}`),
		taking("assigns a VolumeSnapshotContent that Kubernetes created without a node to itself", "unplaced", `{metadata: {labels: {snapshot.storage.kubernetes.io/managed-by: node-b}}}`),
		taking("assigns a VolumeSnapshotContent to another node", "by-hand", `{metadata: {labels: {snapshot.storage.kubernetes.io/managed-by: node-a}}}`),
		telling("marks the snapshot of another node as not ready", alone, "content-a", `{status: {readyToUse: false}}`),
		attempt{who: nowhere, what: "changes a VolumeSnapshotContent", rule: "contents", says: alone, try: begin, instead: "the same, with a token that is bound to a pod", control: begin.by(nodeB)},
	)
}

// resizer are attempts of the local backend's controller on PersistentVolumes.
func resizer() []attempt {
	const other = "csi-resizer may change only the capacity"
	bigger := patch("persistentvolumes ${volumeA}", `{metadata: {annotations: {volume.alpha.kubernetes.io/pre-resize-capacity: 1Gi}}, spec: {capacity: {storage: 2Gi}}}`)
	changing := func(what, says, at, change string) attempt {
		return attempt{who: controller, what: what, rule: "sizes", says: says, try: patch("persistentvolumes "+at, change), instead: "changes the capacity of a volume", control: bigger}
	}
	list := []attempt{
		changing("changes the capacity of another driver's volume", "is not a volume of Sealvol", "pvc-other", `{spec: {capacity: {storage: 2Gi}}}`),
		changing("assigns a bound volume to another claim", other, "${volumeA}", `{spec: {claimRef: {namespace: crm, name: pending, uid: "${pending}"}}}`),
		changing("removes the claim of a volume", other, "${volumeA}", `{spec: {claimRef: null}}`),
		changing("changes the reclaim policy of a volume from Retain to Delete", other, "pvc-retained", `{spec: {persistentVolumeReclaimPolicy: Delete}}`),
		changing("removes the finalizers of a volume", other, "${volumeA}", `{metadata: {finalizers: null}}`),
		changing("sets an owner that does not exist on a volume", other, "${volumeA}", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("annotates a volume", other, "${volumeA}", `{metadata: {annotations: {pv.beta.kubernetes.io/gid: "0"}}}`),
		changing("labels a volume", other, "${volumeA}", `{metadata: {labels: {a: b}}}`),
		changing("changes the mount options of a volume", other, "${volumeA}", `{spec: {mountOptions: [suid]}}`),
	}
	return append(list, controllersRights(
		attempt{who: controller, what: "creates a PersistentVolume", rule: rbac, try: create("persistentvolumes x", "volume", `{}`)},
		attempt{who: controller, what: "deletes a PersistentVolume", rule: rbac, try: del("persistentvolumes pvc-released")},
		attempt{who: controller, what: "changes a claim", rule: rbac, try: update("persistentvolumeclaims shop/data", `{metadata: {labels: {a: b}}}`)},
		attempt{who: controller, what: "changes a VolumeSnapshotContent", rule: rbac, try: patch("volumesnapshotcontents content-a", `{metadata: {labels: {a: b}}}`)},
		attempt{who: controller, what: "marks a VolumeAttachment as attached", rule: rbac, try: patch("volumeattachments/status attached", `{status: {attached: true}}`)},
	)...)
}

// controllersRights are attempts of the controller that RBAC refuses with both backends.
func controllersRights(more ...attempt) []attempt {
	return append(more,
		attempt{who: controller, what: "reads a delivery Secret", rule: rbac, try: get("secrets ${release}/${volumeA}")},
		attempt{who: controller, what: "lists the Secrets of the release's namespace", rule: rbac, try: list("secrets ${release}/")},
		attempt{who: controller, what: "reads a tenant's Secret", rule: rbac, try: get("secrets crm/password")},
		attempt{who: controller, what: "reads VolumeKeys", rule: rbac, try: list("volumekeys crm/")},
		attempt{who: controller, what: "changes a SealedVolume", rule: rbac, try: patch("sealedvolumes/status ${volumeA}", `{status: {anchor: null}}`)},
		attempt{who: controller, what: "sets the phase of a PersistentVolume to Released", rule: rbac, try: patch("persistentvolumes/status ${volumeA}", `{status: {phase: Released}}`)},
		attempt{who: controller, what: "takes over the operator's lease", rule: rbac, try: update("leases ${release}/sealvol-operator", `{spec: {holderIdentity: x}}`),
			instead: "updates its own lease", control: update("leases ${release}/external-resizer-csi-sealvol-dev", `{spec: {holderIdentity: x}}`)},
		attempt{who: controller, what: "deletes a lease", rule: rbac, try: del("leases ${release}/external-resizer-csi-sealvol-dev")},
		attempt{who: controller, what: "reads all events", rule: rbac, try: list("events crm/")},
	)
}

// resizes are attempts of csi-resizer on claims, with both backends.
func resizes() []attempt {
	const claims = "persistentvolumeclaims/status "
	const none, meta, status = "is not bound to a volume of Sealvol", "csi-resizer may change only the status of a claim", "about sizes and VolumeAttributesClasses"
	condition := func(kind string) string {
		return `[{type: ` + kind + `, status: "True", lastTransitionTime: "2026-01-01T00:00:00Z"}]`
	}
	grows := patch(claims+"shop/data", `{metadata: {annotations: {volume.kubernetes.io/node-expansion-not-required: "true"}}, status: {capacity: {storage: 2Gi}, allocatedResources: {storage: 2Gi},
		allocatedResourceStatuses: {storage: ControllerResizeInProgress}, conditions: `+condition("Resizing")+`}}`)
	changing := func(what, says, at, change string) attempt {
		return attempt{who: controller, what: what, rule: "resizes", says: says, try: patch(claims+at, change), instead: "reports the progress of a resize in the status of a claim", control: grows}
	}
	return []attempt{
		changing("changes the capacity of another driver's claim", none, "shop/other", `{status: {capacity: {storage: 2Gi}}}`),
		changing("changes the capacity of a claim without a volume", none, "shop/taken", `{status: {capacity: {storage: 2Gi}}}`),
		changing("sets the phase of a claim to Lost", status, "shop/data", `{status: {phase: Lost}}`),
		changing("changes the access mode of a claim to ReadWriteMany", status, "shop/data", `{status: {accessModes: [ReadWriteMany]}}`),
		changing("sets a condition of a claim that is not about sizes", status, "shop/data", `{status: {conditions: `+condition("Unused")+`}}`),
		changing("marks a claim as bound", meta, "shop/data", `{metadata: {annotations: {pv.kubernetes.io/bind-completed: "yes"}}}`),
		changing("sets the VolumeKey of a claim", meta, "shop/data", `{metadata: {annotations: {sealvol.dev/volume-key: team}}}`),
		changing("removes the protection finalizer from a claim", meta, "shop/data", `{metadata: {finalizers: null}}`),
		changing("sets an owner that does not exist on a claim", meta, "shop/data", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("labels a claim", meta, "shop/data", `{metadata: {labels: {app: other}}}`),
	}
}

// events are attempts to write events.
func events(who string) []attempt {
	const about, name = "Sealvol may write events only about", "Sealvol may write events only in its own name"
	tells := create("events crm/x", "event", `{}`)
	newer := `{apiVersion: events.k8s.io/v1, kind: Event, metadata: {name: x}, type: Normal, reason: X, action: X, note: x, eventTime: "2026-01-01T00:00:00.000000Z", reportingController: sealvol-node, reportingInstance: x,
		regarding: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: crm, name: data}}`
	list := []attempt{
		{who: who, what: "writes an event about a pod", rule: "events", says: about, try: create("events crm/x", "event", `{involvedObject: {kind: Pod, name: app}}`), instead: "writes an event about a claim", control: tells},
		{who: who, what: "writes an event in the scheduler's name", rule: "events", says: name, try: create("events crm/x", "event", `{source: {component: default-scheduler}, reportingComponent: default-scheduler}`), instead: "writes an event in its own name", control: tells},
		{who: who, what: "changes an event of the scheduler", rule: "events", says: name, try: patch("events crm/by-scheduler", `{message: other}`), instead: "changes an event of its own", control: patch("events crm/by-sealvol", `{message: other}`)},
		{who: who, what: "changes the object of an event", rule: "events", says: about, try: patch("events crm/by-sealvol", `{involvedObject: {name: pending}}`), instead: "updates the count of the event", control: patch("events crm/by-sealvol", `{count: 2}`)},
		{who: nodeB, what: "writes an event about a node through events.k8s.io", rule: "events", says: about, try: create("events.k8s.io crm/x", "", newer).with(`{regarding: {kind: Node, name: node-a}}`), instead: "writes an event about a claim", control: create("events.k8s.io crm/x", "", newer)},
		{who: nodeB, what: "writes an event in the kubelet's name through events.k8s.io", rule: "events", says: name, try: create("events.k8s.io crm/x", "", newer).with(`{reportingController: kubelet}`), instead: "writes an event in its own name", control: create("events.k8s.io crm/x", "", newer)},
		{who: who, what: "deletes an event", rule: rbac, try: del("events crm/by-scheduler")},
	}
	if who == nodeB {
		list = append(list, attempt{who: who, what: "reads all events", rule: rbac, try: request{verb: "list", what: "events crm/"}})
	}
	return list
}

// volumesOfController are attempts of the ebs backend's controller, which creates, attaches and
// resizes volumes.
func volumesOfController() []attempt {
	const named, added, same, stays = "may name only its own delivery Secret", "that csi-provisioner sets", "only the capacity and the VolumeAttributesClass of a PersistentVolume may be changed", "the finalizers of others may not be changed"
	own := create("persistentvolumes x", "volume", `{}`)
	making := func(what, says, change string) attempt {
		return attempt{who: controller, what: "creates a PersistentVolume " + what, rule: "volumes", says: says, try: create("persistentvolumes x", "volume", change), instead: "creates one with its own Secret", control: own}
	}
	bigger := patch("persistentvolumes ${volumeA}", `{metadata: {annotations: {volume.alpha.kubernetes.io/pre-resize-capacity: 1Gi}}, spec: {capacity: {storage: 2Gi}, volumeAttributesClassName: fast}}`)
	changing := func(what, says, at, change string) attempt {
		return attempt{who: controller, what: what, rule: "volumes", says: says, try: patch("persistentvolumes "+at, change), instead: "changes the capacity or the VolumeAttributesClass of a volume", control: bigger}
	}
	finalizer := changing("removes csi-attacher's finalizer from a volume that is not being deleted", stays, "${volumeA}", `{metadata: {finalizers: [`+ownFinalizer+`, kubernetes.io/pv-protection, sealvol.dev/delivery]}}`)
	finalizer.instead, finalizer.control = "removes it from a volume that is being deleted", patch("persistentvolumes pvc-going", `{metadata: {finalizers: [`+ownFinalizer+`, kubernetes.io/pv-protection, sealvol.dev/delivery]}}`)
	operators := changing("removes the operator's finalizer from a volume", stays, "pvc-going", `{metadata: {finalizers: [`+ownFinalizer+`, kubernetes.io/pv-protection]}}`)
	operators.instead, operators.control = "removes both of its own finalizers", patch("persistentvolumes pvc-going", `{metadata: {finalizers: [kubernetes.io/pv-protection, sealvol.dev/delivery]}}`)
	list := []attempt{
		making("of another driver", "is not a volume of Sealvol", `{spec: {csi: {driver: other.example}}}`),
		making("whose name does not match its claim", named, `{metadata: {name: pvc-x}}`),
		making("that has the name of a key Secret", named, `{metadata: {name: "${key}"}, spec: {csi: {nodeStageSecretRef: {name: "${key}"}, nodePublishSecretRef: null, nodeExpandSecretRef: null}}}`),
		making("that names another volume's delivery Secret", named, `{spec: {csi: {nodeStageSecretRef: {name: "${volumeA}"}}}}`),
		making("that names a Secret of the claim's namespace", named, `{spec: {csi: {nodePublishSecretRef: {namespace: crm, name: password}}}}`),
		making("with another tenant's Secret for ControllerPublish", "the controller of Sealvol uses no Secrets", `{spec: {csi: {controllerPublishSecretRef: {namespace: crm, name: password}}}}`),
		making("with an annotation that gives pods a group", added, `{metadata: {annotations: {pv.beta.kubernetes.io/gid: "0"}}}`),
		changing("changes another driver's volume", "is not a volume of Sealvol", "pvc-other", `{spec: {capacity: {storage: 2Gi}}}`),
		changing("removes the finalizers of another driver's volume", "is not a volume of Sealvol", "pvc-other", `{metadata: {finalizers: null}}`),
		changing("assigns a volume to another claim", same, "${volumeA}", `{spec: {claimRef: {namespace: crm, name: pending, uid: "${pending}"}}}`),
		changing("removes the claim of a volume", same, "${volumeA}", `{spec: {claimRef: null}}`),
		changing("changes the reclaim policy of a volume from Retain to Delete", same, "pvc-retained", `{spec: {persistentVolumeReclaimPolicy: Delete}}`),
		changing("sets an owner that does not exist on a volume", same, "${volumeA}", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		changing("annotates a volume", same, "${volumeA}", `{metadata: {annotations: {pv.beta.kubernetes.io/gid: "0"}}}`),
		changing("changes the mount options of a volume", same, "${volumeA}", `{spec: {mountOptions: [suid]}}`),
		changing("removes the finalizers of a bound volume", stays, "${volumeA}", `{metadata: {finalizers: null}}`),
		finalizer, operators,
		{who: controller, what: "deletes a bound volume", rule: "volumes", says: "may delete only volumes that are Released", try: del("persistentvolumes ${volumeA}"), instead: "deletes a volume that is Released", control: del("persistentvolumes pvc-released")},
		{who: controller, what: "deletes another driver's volume", rule: "volumes", says: "is not a volume of Sealvol", try: del("persistentvolumes pvc-other"), instead: "deletes a volume that is Released", control: del("persistentvolumes pvc-released")},
	}
	return append(list, controllersRights()...)
}

func claimsOfController() []attempt {
	const nothing, gives = "may change only the annotation selected-node", "may only remove the selected node of a claim"
	back := update("persistentvolumeclaims crm/mine", `{metadata: {annotations: {volume.kubernetes.io/selected-node: null}}}`)
	changing := func(what, says, claim, change string) attempt {
		return attempt{who: controller, what: what, rule: "claims", says: says, try: update("persistentvolumeclaims "+claim, change), instead: "removes the selected node of a claim", control: back}
	}
	return []attempt{
		changing("marks a claim as bound", nothing, "shop/taken", `{metadata: {annotations: {pv.kubernetes.io/bind-completed: "yes"}}}`),
		changing("sets the VolumeKey of a claim", nothing, "shop/taken", `{metadata: {annotations: {sealvol.dev/volume-key: team}}}`),
		changing("binds a claim to a volume", nothing, "shop/taken", `{spec: {volumeName: pvc-x}}`),
		changing("removes the protection finalizer from a claim", nothing, "shop/data", `{metadata: {finalizers: null}}`),
		changing("selects a node for a claim", gives, "crm/pending", `{metadata: {annotations: {volume.kubernetes.io/selected-node: node-a}}}`),
		changing("adds the finalizer for cloning to another driver's claim", "may add the finalizer cloning-protection only to", "shop/other", `{metadata: {finalizers: [kubernetes.io/pvc-protection, provisioner.storage.kubernetes.io/cloning-protection]}}`),
	}
}

func attachments() []attempt {
	const none, same = "is not for a volume of Sealvol", "csi-attacher may change only"
	const va, status = "volumeattachments ", "volumeattachments/status "
	done := patch(status+"attached", `{status: {attached: true}}`)
	telling := func(what, says, at, change string) attempt {
		return attempt{who: controller, what: what, rule: "attachments", says: says, try: patch(at, change), instead: "marks a volume of Sealvol as attached", control: done}
	}
	finalizer := telling("removes another controller's finalizer from a VolumeAttachment", same, va+"attached", `{metadata: {finalizers: null}}`)
	finalizer.instead, finalizer.control = "removes its own finalizer", patch(va+"attached", `{metadata: {finalizers: [example.com/other], annotations: {csi.alpha.kubernetes.io/node-id: i-1}}}`)
	return []attempt{
		telling("marks another driver's volume as attached", none, status+"attached-other", `{status: {attached: true}}`),
		telling("removes the finalizers of another driver's VolumeAttachment", none, va+"attached-other", `{metadata: {finalizers: null}}`),
		finalizer,
		telling("sets an owner that does not exist on a VolumeAttachment", same, va+"attached", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		telling("annotates a VolumeAttachment", same, va+"attached", `{metadata: {annotations: {a: b}}}`),
		telling("labels a VolumeAttachment", same, va+"attached", `{metadata: {labels: {a: b}}}`),
		{who: controller, what: "creates a VolumeAttachment", rule: rbac, try: create("volumeattachments x", "attachment", `{}`)},
		{who: controller, what: "deletes a VolumeAttachment", rule: rbac, try: del("volumeattachments attached")},
	}
}

func operatorRights() []attempt {
	const places, nowhere, finalizer = "the operator may change only the annotations", "neither a node nor a volume", "the operator may change only the finalizer"
	place := `{metadata: {annotations: {volume.kubernetes.io/selected-node: node-a, sealvol.dev/placed-at: "2026-01-01T00:00:00Z"}}}`
	placing := func(what, says, claim, change string) attempt {
		return attempt{who: operators, what: what, rule: "placements", says: says, try: patch("persistentvolumeclaims "+claim, change), instead: "selects a node for a claim", control: patch("persistentvolumeclaims crm/pending", place)}
	}
	delivering := func(what, says, volume, change string) attempt {
		return attempt{who: operators, what: what, rule: "deliveries", says: says, try: patch("persistentvolumes "+volume, change), instead: "removes its own finalizer",
			control: patch("persistentvolumes ${volumeA}", `{metadata: {finalizers: [external-provisioner.volume.kubernetes.io/finalizer, kubernetes.io/pv-protection, external-attacher/csi-sealvol-dev]}}`)}
	}
	return []attempt{
		placing("sets the VolumeKey of a claim", places, "crm/pending", `{metadata: {annotations: {sealvol.dev/volume-key: team}}}`),
		placing("marks a claim as bound", places, "crm/pending", `{metadata: {annotations: {pv.kubernetes.io/bind-completed: "yes"}}}`),
		placing("binds a claim to a volume", places, "crm/pending", `{spec: {volumeName: pvc-x}}`),
		placing("labels a claim", places, "crm/pending", `{metadata: {labels: {app: other}}}`),
		placing("removes the protection finalizer from a claim", places, "shop/data", `{metadata: {finalizers: null}}`),
		placing("sets an owner that does not exist on a claim", places, "crm/pending", `{metadata: {ownerReferences: [{apiVersion: v1, kind: Pod, name: gone, uid: "1"}]}}`),
		placing("selects a node for a claim that already has one", nowhere, "crm/mine", place),
		placing("selects a node for a claim that has a volume", nowhere, "shop/data", place),
		delivering("changes another driver's volume", "is not a volume of Sealvol", "pvc-other", `{metadata: {finalizers: [sealvol.dev/delivery]}}`),
		delivering("assigns a volume to another claim", finalizer, "${volumeA}", `{spec: {claimRef: {namespace: crm, name: pending, uid: "${pending}"}}}`),
		delivering("changes the reclaim policy of a volume from Retain to Delete", finalizer, "pvc-retained", `{spec: {persistentVolumeReclaimPolicy: Delete}}`),
		delivering("removes the finalizers of others from a volume", finalizer, "${volumeA}", `{metadata: {finalizers: [sealvol.dev/delivery]}}`),
		delivering("annotates a volume", finalizer, "${volumeA}", `{metadata: {annotations: {a: b}}}`),
		delivering("labels a volume", finalizer, "${volumeA}", `{metadata: {labels: {a: b}}}`),
		{who: operators, what: "reads a tenant's Secret", rule: rbac, try: get("secrets crm/password"), instead: "reads the Secrets of the release's namespace", control: get("secrets ${release}/${key}")},
		{who: operators, what: "lists all Secrets", rule: rbac, try: list("secrets")},
		{who: operators, what: "creates a Secret in a tenant's namespace", rule: rbac, try: create("secrets crm/x", "", `{apiVersion: v1, kind: Secret, metadata: {name: x}}`)},
		{who: operators, what: "creates a claim", rule: rbac, try: create("persistentvolumeclaims crm/x", "claim", `{}`)},
		{who: operators, what: "replaces a claim", rule: rbac, try: update("persistentvolumeclaims crm/pending", `{}`)},
		{who: operators, what: "deletes a claim", rule: rbac, try: del("persistentvolumeclaims shop/data")},
		{who: operators, what: "creates a PersistentVolume", rule: rbac, try: create("persistentvolumes x", "volume", `{}`)},
		{who: operators, what: "deletes a PersistentVolume", rule: rbac, try: del("persistentvolumes ${volumeA}")},
		{who: operators, what: "changes a VolumeSnapshotContent", rule: rbac, try: patch("volumesnapshotcontents content-a", `{metadata: {labels: {a: b}}}`)},
		{who: operators, what: "changes a VolumeAttachment", rule: rbac, try: patch("volumeattachments/status attached", `{status: {attached: true}}`)},
		{who: operators, what: "reads pods", rule: rbac, try: list("pods shop/")},
		{who: operators, what: "lowers an anchor", rule: "anchors", says: "To lower, remove or replace it", try: patch("sealedvolumes/status ${volumeA}", `{status: {anchor: {generation: 1}}}`), instead: "writes the rest of the status", control: patch("sealedvolumes/status ${volumeA}", `{status: {phase: Available}}`)},
	}
}

// mounters are attempts with a token of the mounter. Its service account has no rights, and its pod
// mounts no token.
func mounters() []attempt {
	return []attempt{
		{who: mounter, what: "reads a delivery Secret", rule: rbac, try: get("secrets ${release}/${volumeB}")},
		{who: mounter, what: "reads a SealedVolume", rule: rbac, try: get("sealedvolumes ${volumeB}")},
		{who: mounter, what: "reads a PersistentVolume", rule: rbac, try: get("persistentvolumes ${volumeB}")},
		{who: mounter, what: "reports on a volume", rule: rbac, try: patch("sealedvolumes/status ${volumeB}", `{status: {health: Healthy}}`)},
	}
}
