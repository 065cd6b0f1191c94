package matrixtest

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealvol/sealvol/pkg/operator/operatortest"
)

// populate creates the objects that Kubernetes, its users and the operator would have created.
func (w *world) populate(t *testing.T) {
	t.Helper()
	w.names["release"], w.names["mac"], w.names["uuid"] = operatortest.Namespace, strings.Repeat("a", 64), strings.Repeat("1", 36)
	w.names["invented"] = "99999999-8888-7777-6666-555555555555"
	w.names["key"] = "volumekey-11111111-2222-3333-4444-555555555555-v1"
	node, err := parseTarget("nodes").in(w.clients[admin]).Get(t.Context(), "node-b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.names["podB"] = string(w.yaml(t, `
apiVersion: v1
kind: Pod
metadata: {namespace: "${release}", name: plugin-b}
spec:
  nodeName: node-b
  serviceAccountName: sealvol-node
  containers: [{name: c, image: i}]
  volumes: [{name: token, projected: {sources: [{serviceAccountToken: {path: token}}]}}]
`).GetUID())
	w.names["nodeB"] = string(node.GetUID())
	w.populateAccess(t)
	w.populateClaims(t)
	w.populateVolumes(t)
	w.populateSnapshots(t)
	w.populateRest(t)
}

func (w *world) populateAccess(t *testing.T) {
	t.Helper()
	w.yaml(t, `
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: crm}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: edits-keys}
rules: [{apiGroups: [sealvol.dev], resources: [volumekeys], verbs: [get, list, watch, create, update, patch, delete]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: overrides-anchors}
rules: [{apiGroups: [sealvol.dev], resources: [sealedvolumes, sealedvolumes/status], verbs: [get, update, patch, delete, override-anchor]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: overrides-anchors}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: overrides-anchors}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: overrider}]
`)
	// The controller that aggregates "edit" and "view" does not run here, so bind their parts.
	for _, role := range []string{"system:aggregate-to-edit", "system:aggregate-to-view", "edits-keys"} {
		w.names["role"], w.names["binding"] = role, strings.ReplaceAll(role, ":", "-")
		w.yaml(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: "${binding}", namespace: crm}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "${role}"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: tenant}]
`)
	}
}

// populateClaims creates claims: data in both namespaces has a volume, pending has none, taken is
// assigned to node a, mine to node b, and other belongs to another driver.
func (w *world) populateClaims(t *testing.T) {
	t.Helper()
	claim := `
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  namespace: ${namespace}
  name: ${claim}
  annotations: {volume.kubernetes.io/storage-provisioner: ${driver}}
  labels: {app: x}
spec: {storageClassName: sealvol, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`
	for name, c := range map[string][3]string{"claimA": {"shop", "data"}, "claimB": {"crm", "data"}, "pending": {"crm", "pending"}, "taken": {"shop", "taken"}, "mine": {"crm", "mine"},
		"other": {"shop", "other", "other.example"}} {
		w.names["namespace"], w.names["claim"], w.names["driver"] = c[0], c[1], "csi.sealvol.dev"
		if c[2] != "" {
			w.names["driver"] = c[2]
		}
		w.names[name] = string(w.yaml(t, claim).GetUID())
	}
	w.mustPatch(t, "persistentvolumeclaims shop/taken", `{metadata: {annotations: {volume.kubernetes.io/selected-node: node-a}}}`)
	w.mustPatch(t, "persistentvolumeclaims crm/mine", `{metadata: {annotations: {volume.kubernetes.io/selected-node: node-b}}}`)
}

// populateVolumes creates volumes and their Secrets, SealedVolumes and pods. A belongs to the other
// tenant on node a, B to the tenant on node b; both are in use. On node b, released and retained
// have lost their claims, and going is being deleted. other belongs to another driver.
func (w *world) populateVolumes(t *testing.T) {
	t.Helper()
	w.names["volumeA"], w.names["volumeB"], w.names["volumeP"] = "pvc-"+w.names["claimA"], "pvc-"+w.names["claimB"], "pvc-"+w.names["pending"]
	affinity := `{required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.csi.sealvol.dev/node, operator: In, values: [${node}]}]}]}}`
	if w.backend == "ebs" {
		affinity = `{required: {nodeSelectorTerms: [{matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [eu-west-1a]}]}]}}`
	}
	volume := `
apiVersion: v1
kind: PersistentVolume
metadata:
  name: ${volume}
  annotations:
    pv.kubernetes.io/provisioned-by: csi.sealvol.dev
    volume.kubernetes.io/provisioner-deletion-secret-name: ""
    volume.kubernetes.io/provisioner-deletion-secret-namespace: ""
  finalizers: [external-provisioner.volume.kubernetes.io/finalizer]
spec:
  storageClassName: sealvol
  accessModes: [ReadWriteOnce]
  capacity: {storage: 1Gi}
  persistentVolumeReclaimPolicy: Delete
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: ${namespace}, name: ${claim}, uid: "${uid}"}
  csi:
    driver: ${driver}
    volumeHandle: vol-${volume}
    nodeStageSecretRef: {namespace: ${release}, name: ${volume}}
    nodePublishSecretRef: {namespace: ${release}, name: ${volume}}
    nodeExpandSecretRef: {namespace: ${release}, name: ${volume}}
  nodeAffinity: ` + affinity
	set := func(volume, namespace, claim, uid, node, driver string) {
		w.names["volume"], w.names["namespace"], w.names["claim"], w.names["uid"], w.names["node"], w.names["driver"] = volume, namespace, claim, uid, node, driver
	}
	add := func(volumeName, namespace, claim, uid, node, driver, phase string) {
		set(volumeName, namespace, claim, uid, node, driver)
		w.yaml(t, volume)
		w.mustPatch(t, "persistentvolumes "+volumeName, `{metadata: {finalizers: [external-provisioner.volume.kubernetes.io/finalizer, kubernetes.io/pv-protection, sealvol.dev/delivery, external-attacher/csi-sealvol-dev]}}`)
		w.mustPatch(t, "persistentvolumes/status "+volumeName, `{status: {phase: `+phase+`}}`)
	}
	const ours = "csi.sealvol.dev"
	add(w.names["volumeA"], "shop", "data", w.names["claimA"], "node-a", ours, "Bound")
	add(w.names["volumeB"], "crm", "data", w.names["claimB"], "node-b", ours, "Bound")
	add("pvc-released", "crm", "gone", "released", "node-b", ours, "Released")
	add("pvc-retained", "crm", "gone", "retained", "node-b", ours, "Released")
	add("pvc-going", "crm", "gone", "going", "node-b", ours, "Released")
	add("pvc-other", "shop", "other", w.names["other"], "node-b", "other.example", "Bound")
	w.mustPatch(t, "persistentvolumes pvc-retained", `{spec: {persistentVolumeReclaimPolicy: Retain}}`)
	for claim, volume := range map[string]string{"shop/data": "volumeA", "crm/data": "volumeB"} {
		w.mustPatch(t, "persistentvolumeclaims "+claim, `{spec: {volumeName: ${`+volume+`}}}`)
		w.mustPatch(t, "persistentvolumeclaims/status "+claim, `{status: {phase: Bound, accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}}}`)
	}
	w.mustPatch(t, "persistentvolumeclaims shop/other", `{spec: {volumeName: pvc-other}}`)
	w.mustDelete(t, "persistentvolumes pvc-going")

	// This is the template of the volume that node b creates for a claim that is assigned to it.
	set(w.names["volumeP"], "crm", "pending", w.names["pending"], "node-b", ours)
	list, err := operatortest.Parse([]byte(w.expand(volume)))
	if err != nil {
		t.Fatal(err)
	}
	w.objects["volume"] = list[0].Object
	w.populateKeys(t)
}

func (w *world) populateKeys(t *testing.T) {
	t.Helper()
	w.yaml(t, `
apiVersion: v1
kind: Secret
metadata: {namespace: "${release}", name: "${key}", labels: {sealvol.dev/role: key}, finalizers: [sealvol.dev/key-in-use]}
stringData: {kek: not-a-key}
---
{apiVersion: v1, kind: Secret, metadata: {namespace: crm, name: password}, stringData: {password: x}}
---
{apiVersion: v1, kind: Secret, metadata: {namespace: shop, name: password}, stringData: {password: x}}
---
{apiVersion: sealvol.dev/v1alpha1, kind: VolumeKey, metadata: {namespace: shop, name: team}, spec: {}}
---
{apiVersion: sealvol.dev/v1alpha1, kind: VolumeKey, metadata: {namespace: crm, name: team, finalizers: [sealvol.dev/key-in-use]}, spec: {}}
---
{apiVersion: sealvol.dev/v1alpha1, kind: VolumeKey, metadata: {namespace: crm, name: held, finalizers: [sealvol.dev/key-in-use]}, spec: {}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: shop, name: app}, spec: {nodeName: node-a, containers: [{name: c, image: i}], volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: crm, name: app}, spec: {nodeName: node-b, containers: [{name: c, image: i}], volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}
`)
	for volume, node := range map[string]string{"volumeA": "node-a", "volumeB": "node-b"} {
		w.names["volume"], w.names["node"] = w.names[volume], node
		w.yaml(t, `
{apiVersion: v1, kind: Secret, metadata: {namespace: "${release}", name: "${volume}", labels: {sealvol.dev/role: delivery}}, stringData: {kek: not-a-key}}
---
apiVersion: sealvol.dev/v1alpha1
kind: SealedVolume
metadata: {name: "${volume}"}
spec: {nodeName: "${node}", volumeHandle: "vol-${volume}"}
status:
  phase: Staged
  keyVersion: 1
  node: ${node}
  format: {state: Formatted}
  anchor: {volume: "${uuid}", instance: "${uuid}", generation: 5, epoch: 2, mac: "${mac}"}
`)
	}
	w.yaml(t, `{apiVersion: sealvol.dev/v1alpha1, kind: SealedVolume, metadata: {name: new-b}, spec: {nodeName: node-b, volumeHandle: h}}`)
}

// populateSnapshots creates VolumeSnapshotContents of nodes a and b, some of them created by hand,
// and one that is being deleted.
func (w *world) populateSnapshots(t *testing.T) {
	t.Helper()
	content := `
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshotContent
metadata:
  name: ${content}
  labels: ${labels}
  annotations: {snapshot.storage.kubernetes.io/volumesnapshot-being-deleted: "yes"}
  finalizers: [snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection, example.com/other]
spec:
  driver: ${driver}
  deletionPolicy: Delete
  source: ${source}
  volumeSnapshotRef: {namespace: shop, name: snapshot, uid: "1"}
`
	by := func(node string) string { return `{snapshot.storage.kubernetes.io/managed-by: ` + node + `}` }
	const of, hand = `{volumeHandle: vol-1}`, `{snapshotHandle: snap-1}`
	for name, c := range map[string][3]string{"content-a": {by("node-a"), "csi.sealvol.dev", of}, "content-b": {by("node-b"), "csi.sealvol.dev", of}, "content-new": {by("node-b"), "csi.sealvol.dev", of},
		"by-hand": {"{}", "csi.sealvol.dev", hand}, "by-hand-b": {by("node-b"), "csi.sealvol.dev", hand}, "unplaced": {"{}", "csi.sealvol.dev", of},
		"content-going": {by("node-b"), "csi.sealvol.dev", of}, "content-other": {by("node-b"), "other.example", of}} {
		w.names["content"], w.names["labels"], w.names["driver"], w.names["source"] = name, c[0], c[1], c[2]
		w.yaml(t, content)
	}
	for _, name := range []string{"content-a", "content-b", "content-going", "content-other"} {
		w.mustPatch(t, "volumesnapshotcontents/status "+name, `{status: {snapshotHandle: snap-1, readyToUse: true, creationTime: 1, restoreSize: 1}}`)
	}
	w.mustPatch(t, "volumesnapshotcontents by-hand-b", `{metadata: {annotations: {sealvol.dev/source-volume: vol-1}}}`)
	w.mustDelete(t, "volumesnapshotcontents content-going")
}

func (w *world) populateRest(t *testing.T) {
	t.Helper()
	w.yaml(t, `
apiVersion: storage.k8s.io/v1
kind: VolumeAttachment
metadata: {name: attached, finalizers: [external-attacher/csi-sealvol-dev, example.com/other]}
spec: {attacher: csi.sealvol.dev, nodeName: node-a, source: {persistentVolumeName: "${volumeA}"}}
---
apiVersion: storage.k8s.io/v1
kind: VolumeAttachment
metadata: {name: attached-other, finalizers: [external-attacher/csi-sealvol-dev]}
spec: {attacher: other.example, nodeName: node-a, source: {persistentVolumeName: pvc-other}}
---
{apiVersion: v1, kind: Event, metadata: {namespace: crm, name: by-scheduler}, involvedObject: {kind: PersistentVolumeClaim, namespace: crm, name: data}, reason: X, message: x, source: {component: default-scheduler}, reportingComponent: default-scheduler}
---
{apiVersion: v1, kind: Event, metadata: {namespace: crm, name: by-sealvol}, involvedObject: {kind: PersistentVolumeClaim, namespace: crm, name: data}, reason: X, message: x, source: {component: sealvol-node}, reportingComponent: sealvol-node}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {namespace: "${release}", name: sealvol-operator}, spec: {holderIdentity: x}}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {namespace: "${release}", name: external-resizer-csi-sealvol-dev}, spec: {holderIdentity: x}}
`)
	for _, n := range []string{"a", "b"} {
		w.names["node"] = "node-" + n
		w.yaml(t, `
apiVersion: storage.k8s.io/v1
kind: CSIStorageCapacity
metadata: {namespace: "${release}", name: room-${node}, labels: {csi.storage.k8s.io/drivername: csi.sealvol.dev}}
storageClassName: sealvol
nodeTopology: {matchLabels: {topology.csi.sealvol.dev/node: "${node}"}}
capacity: 1Gi
`)
	}
	w.populateTemplates(t)
}

// populateTemplates sets the templates for objects that requests create.
func (w *world) populateTemplates(t *testing.T) {
	t.Helper()
	for name, text := range map[string]string{
		"event": `{apiVersion: v1, kind: Event, metadata: {namespace: crm, name: new}, involvedObject: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: crm, name: data}, type: Normal, reason: X, message: x,
			source: {component: csi.sealvol.dev_sealvol-node-x}, reportingComponent: csi.sealvol.dev_sealvol-node-x, reportingInstance: x, action: X, eventTime: null}`,
		"capacity": `{apiVersion: storage.k8s.io/v1, kind: CSIStorageCapacity, metadata: {namespace: "${release}", name: new, labels: {csi.storage.k8s.io/drivername: csi.sealvol.dev}},
			storageClassName: sealvol, nodeTopology: {matchLabels: {topology.csi.sealvol.dev/node: node-b}}, capacity: 1Gi}`,
		"claim": `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: new}, spec: {storageClassName: sealvol, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}`,
		"content": `{apiVersion: snapshot.storage.k8s.io/v1, kind: VolumeSnapshotContent, metadata: {name: new}, spec: {driver: csi.sealvol.dev, deletionPolicy: Retain,
			source: {snapshotHandle: snap-1}, volumeSnapshotRef: {namespace: crm, name: x}}}`,
		"attachment": `{apiVersion: storage.k8s.io/v1, kind: VolumeAttachment, metadata: {name: new}, spec: {attacher: csi.sealvol.dev, nodeName: node-b, source: {persistentVolumeName: "${volumeA}"}}}`,
	} {
		list, err := operatortest.Parse([]byte(w.expand(text)))
		if err != nil {
			t.Fatal(name, err)
		}
		w.objects[name] = list[0].Object
	}
}

// mustPatch changes an object as the administrator. This is not a dry run.
func (w *world) mustPatch(t *testing.T, what, patch string) {
	t.Helper()
	at := parseTarget(w.expand(what))
	api := at.in(w.clients[admin])
	o, err := api.Get(t.Context(), at.name, metav1.GetOptions{})
	if err == nil {
		if o, err = w.merged(o.Object, patch); err == nil {
			_, err = api.Update(t.Context(), o, metav1.UpdateOptions{}, at.subresources()...)
		}
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func (w *world) mustDelete(t *testing.T, what string) {
	t.Helper()
	at := parseTarget(w.expand(what))
	if err := at.in(w.clients[admin]).Delete(t.Context(), at.name, metav1.DeleteOptions{}); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
