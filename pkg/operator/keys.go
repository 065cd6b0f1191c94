package operator

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/crypto"
)

// Types of our Secrets. They only help people who list Secrets.
const (
	typeKey      = corev1.SecretType("sealvol.dev/key")
	typeDelivery = corev1.SecretType("sealvol.dev/delivery")
)

// keySecretName returns the name of the Secret of a version. With the UID, it never names the
// Secret of another key.
func keySecretName(uid types.UID, version int32) string {
	return fmt.Sprintf("volumekey-%s-v%d", uid, version)
}

// keySecret returns the Secret of a version. It is written only once.
func keySecret(namespace string, vk *v1alpha1.VolumeKey, version int32, k *crypto.Key) *corev1.Secret {
	immutable := true
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: keySecretName(vk.UID, version), Finalizers: []string{v1alpha1.KeyFinalizer},
			Labels: map[string]string{v1alpha1.RoleLabel: v1alpha1.RoleKey, v1alpha1.KeyUIDLabel: string(vk.UID)},
			Annotations: map[string]string{v1alpha1.OwnerAnnotation: vk.Namespace + "/" + vk.Name,
				v1alpha1.PolicyAnnotation: string(vk.Spec.DeletionPolicy)}},
		Type: typeKey, Immutable: &immutable, Data: map[string][]byte{v1alpha1.SecretKEK: encode(k)},
	}
}

// deliverySecret returns the Secret that the kubelet passes to the node plugin.
func deliverySecret(namespace, volume string, k *crypto.Key) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: volume, Labels: map[string]string{v1alpha1.RoleLabel: v1alpha1.RoleDelivery}},
		Type:       typeDelivery, Data: map[string][]byte{v1alpha1.SecretKEK: encode(k)},
	}
}

func encode(k *crypto.Key) []byte { return hex.AppendEncode(nil, k.Bytes()) }

// wipe erases the data of a Secret.
func wipe(s *corev1.Secret) {
	for _, b := range s.Data {
		clear(b)
	}
}

// keyOf reads the key from an entry of a Secret. Errors reveal nothing about the entry's content.
func keyOf(s *corev1.Secret, entry string) (*crypto.Key, error) {
	b, ok := s.Data[entry]
	if !ok {
		return nil, fmt.Errorf("it has no entry %q", entry)
	}
	k, err := crypto.ParseKeyFile(append([]byte(nil), b...)) // clears its argument
	if err != nil {
		return nil, fmt.Errorf("its entry %q is not a key: a key is 64 hexadecimal digits or 32 bytes", entry)
	}
	return k, nil
}

// fingerprints caches the fingerprints of Secrets by resource version, so that a Secret is read
// again only after it has changed.
type fingerprints struct {
	mu    sync.Mutex
	known map[string]known // guarded by mu; by name
}

type known struct{ version, fingerprint string }

func (f *fingerprints) get(s metav1.Object) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k, ok := f.known[s.GetName()]
	return k.fingerprint, ok && k.version == s.GetResourceVersion()
}

func (f *fingerprints) put(s metav1.Object, fingerprint string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		f.known = map[string]known{}
	}
	f.known[s.GetName()] = known{s.GetResourceVersion(), fingerprint}
}

func (f *fingerprints) forget(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.known, name)
}

// secretState is the state of a Secret.
type secretState struct {
	meta        metav1.Object // nil: the Secret does not exist
	fingerprint string        // of its key; "": it holds no key
}

// inspect returns the state of a Secret in the operator's namespace. If the cache does not have the
// Secret, it asks the API server.
func (o *operator) inspect(ctx context.Context, name string) (secretState, error) {
	var m metav1.PartialObjectMetadata
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	err := o.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: name}, &m)
	if client.IgnoreNotFound(err) != nil {
		return secretState{}, err
	}
	if err == nil {
		if fp, ok := o.seen.get(&m); ok {
			return secretState{&m, fp}, nil
		}
	}
	s, k, err := o.read(ctx, name)
	defer k.Erase()
	if s == nil || err != nil {
		return secretState{}, err
	}
	st := secretState{meta: s}
	if k != nil {
		st.fingerprint = k.Fingerprint()
	}
	o.seen.put(s, st.fingerprint)
	return st, nil
}

// read reads a Secret and its key from the API server. The Secret is nil if it does not exist, and
// the key is nil if the Secret holds none. The data of the returned Secret is erased.
func (o *operator) read(ctx context.Context, name string) (*corev1.Secret, *crypto.Key, error) {
	var s corev1.Secret
	if err := o.live.Get(ctx, client.ObjectKey{Namespace: o.Namespace, Name: name}, &s); err != nil {
		return nil, nil, client.IgnoreNotFound(err)
	}
	defer wipe(&s)
	k, err := keyOf(&s, v1alpha1.SecretKEK)
	if err != nil {
		return &s, nil, nil // callers handle a Secret without a key
	}
	return &s, k, nil
}
