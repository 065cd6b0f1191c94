package operator_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealvol/sealvol/pkg/api/v1alpha1"
)

// told collects the keys that tests have seen. They may appear only in Secrets.
var told keyset

type keyset struct {
	mu   sync.Mutex
	keys map[string]bool
}

func (k *keyset) add(kek string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.keys == nil {
		k.keys = map[string]bool{}
	}
	k.keys[strings.TrimSpace(kek)] = true
}

// search looks for every key in logs, events and API objects, in all forms in which it might be
// printed.
func (k *keyset) search(ctx context.Context) error {
	text := logged.String()
	for _, l := range []client.ObjectList{&eventsv1.EventList{}, &v1alpha1.VolumeKeyList{}, &v1alpha1.SealedVolumeList{}, &corev1.PersistentVolumeClaimList{}} {
		if err := env.Client.List(ctx, l); err != nil {
			return err
		}
		b, err := json.Marshal(l)
		if err != nil {
			return err
		}
		text += string(b)
	}
	if len(k.keys) < 10 || len(text) < 10000 {
		return fmt.Errorf("only %d keys and %d bytes to search", len(k.keys), len(text))
	}
	for kek := range k.keys {
		raw, err := hex.DecodeString(kek)
		if err != nil {
			return err
		}
		decimal := strings.Trim(fmt.Sprint(raw), "[]")
		for _, form := range []string{kek, strings.ToUpper(kek), string(raw), base64.StdEncoding.EncodeToString(raw), base64.StdEncoding.EncodeToString([]byte(kek)), decimal, strings.ReplaceAll(decimal, " ", ",")} {
			if strings.Contains(text, form) {
				return errors.New("a key is in a log, an event or an object")
			}
		}
	}
	return nil
}
