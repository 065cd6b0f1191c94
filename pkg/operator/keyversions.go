package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
	"github.com/sealvol/sealvol/pkg/crypto"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// firstVersion is the version of a new key. This release of the operator does not rotate keys.
const firstVersion = 1

// ensureVersions creates the first version of a key if it has none, and checks all versions.
func (o keys) ensureVersions(ctx context.Context, vk *v1alpha1.VolumeKey) (*problem, error) {
	if len(vk.Status.Versions) == 0 {
		if p, err := o.ensureFirstVersion(ctx, vk); p != nil || err != nil {
			return p, err
		}
	}
	for _, v := range vk.Status.Versions {
		if v.SecretName != keySecretName(vk.UID, v.Version) {
			return altered(o.Namespace, v.SecretName), nil
		}
		if p, err := o.check(ctx, vk, v); p != nil || err != nil {
			return p, err
		}
	}
	return nil, nil
}

// ensureFirstVersion creates the first version of a key, or finds that it exists (K1, K2).
func (o keys) ensureFirstVersion(ctx context.Context, vk *v1alpha1.VolumeKey) (*problem, error) {
	name := keySecretName(vk.UID, firstVersion)
	s, k, err := o.read(ctx, name)
	if err != nil {
		return nil, err
	}
	if s == nil {
		if p, err := o.verifyRecorded(ctx, vk); p != nil || err != nil {
			return p, err
		}
		if p, err := o.reserve(ctx, vk.Namespace, name); p != nil || err != nil {
			return p, err
		}
		var p *problem
		if k, p, err = o.source(ctx, vk); p != nil || err != nil {
			o.pending.forget(name)
			return p, err
		}
		if s, k, err = o.createSecret(ctx, vk, k); err != nil {
			// If the Secret was created nevertheless, the next attempt finds it.
			o.pending.forget(name)
			return nil, err
		}
	}
	defer k.Erase()
	if k == nil {
		return altered(o.Namespace, name), nil
	}
	vk.Status.Version = firstVersion
	vk.Status.Versions = []v1alpha1.KeyVersion{{Version: firstVersion, SecretName: name, Fingerprint: k.Fingerprint(), Created: s.CreationTimestamp}}
	return nil, nil
}

// verifyRecorded returns a problem if a SealedVolume records a version that the VolumeKey does not.
func (o keys) verifyRecorded(ctx context.Context, vk *v1alpha1.VolumeKey) (*problem, error) {
	var list v1alpha1.SealedVolumeList
	if err := o.live.List(ctx, &list, client.MatchingFields{byKeyUID: string(vk.UID)}); err != nil {
		return nil, err
	}
	for _, v := range list.Items {
		if hasKey(&v) {
			return missing(o.Namespace, v.Spec.Key.SecretName), nil
		}
	}
	return nil, nil
}

// source generates or imports the key for the first version.
func (o keys) source(ctx context.Context, vk *v1alpha1.VolumeKey) (*crypto.Key, *problem, error) {
	im := vk.Spec.Imported
	if im == nil {
		k, err := crypto.GenerateKey()
		return k, nil, err
	}
	var s corev1.Secret
	err := o.live.Get(ctx, client.ObjectKey{Namespace: vk.Namespace, Name: im.SecretName}, &s)
	defer wipe(&s)
	switch {
	case apierrors.IsForbidden(err):
		return nil, &problem{v1alpha1.ReasonImportForbidden, fmt.Sprintf("the operator may not read Secrets in namespace %s. Add the namespace to the chart value keyImport.namespaces, or bind the chart's ClusterRole for key import there", vk.Namespace), true}, nil
	case apierrors.IsNotFound(err):
		return nil, &problem{v1alpha1.ReasonImportMissing, fmt.Sprintf("Secret %s/%s, which spec.imported names, does not exist. Create it", vk.Namespace, im.SecretName), true}, nil
	case err != nil:
		return nil, nil, err
	}
	k, err := keyOf(&s, im.Key)
	if err != nil {
		return nil, &problem{v1alpha1.ReasonImportMalformed, fmt.Sprintf("cannot import the key from Secret %s/%s: %v", vk.Namespace, im.SecretName, err), true}, nil
	}
	return k, nil, nil
}

// createSecret creates the Secret of the first version (K1) and takes ownership of k. If the Secret
// already exists, its key counts.
func (o keys) createSecret(ctx context.Context, vk *v1alpha1.VolumeKey, k *crypto.Key) (*corev1.Secret, *crypto.Key, error) {
	s := keySecret(o.Namespace, vk, firstVersion, k)
	err := o.Create(ctx, s)
	wipe(s)
	if err == nil {
		reason, text := v1alpha1.ReasonGenerated, "generated version %d of the key in Secret %s/%s, with fingerprint %s. Back up this Secret"
		if vk.Spec.Imported != nil {
			reason, text = v1alpha1.ReasonImported, "imported version %d of the key into Secret %s/%s, with fingerprint %s. Back up this Secret"
		}
		o.events.Eventf(vk, nil, corev1.EventTypeNormal, reason, "MakeKey", text, firstVersion, s.Namespace, s.Name, k.Fingerprint())
		return s, k, nil
	}
	k.Erase()
	if !apierrors.IsAlreadyExists(err) {
		return nil, nil, fmt.Errorf("create key Secret %s: %w", s.Name, err)
	}
	name := s.Name
	if s, k, err = o.read(ctx, name); s == nil && err == nil {
		err = errors.New("key Secret " + name + " was created and deleted by others")
	}
	return s, k, err
}

// check returns a problem if the Secret of a version is missing or changed.
func (o keys) check(ctx context.Context, vk *v1alpha1.VolumeKey, v v1alpha1.KeyVersion) (*problem, error) {
	st, err := o.inspect(ctx, v.SecretName)
	switch {
	case err != nil:
		return nil, err
	case st.meta == nil:
		return missing(o.Namespace, v.SecretName), nil
	case st.fingerprint != v.Fingerprint:
		return altered(o.Namespace, v.SecretName), nil
	case st.meta.GetDeletionTimestamp() != nil:
		return &problem{v1alpha1.ReasonSecretDeleting, fmt.Sprintf("Secret %s/%s is being deleted. Its finalizer keeps it, because the key is in use. Save the Secret (kubectl -n %[1]s get secret %[2]s -o yaml), remove its finalizer %[3]s, and create it again from the saved copy",
			o.Namespace, v.SecretName, v1alpha1.KeyFinalizer), false}, nil
	}
	return nil, o.restoreMetadata(ctx, st.meta, v1alpha1.VolumeKeyRef{Namespace: vk.Namespace, Name: vk.Name, UID: string(vk.UID)}, vk.Spec.DeletionPolicy)
}
