package crypto_test

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
)

// The key of a key file opens a key slot, which holds the volume's master key. The keys that seal
// the data on the device are derived from the master key.
func Example() {
	fileKey, err := crypto.GenerateKey() // what a key file holds
	if err != nil {
		panic(err)
	}
	owner := crypto.SecretCredential(fileKey)
	defer owner.Erase()
	master, err := crypto.GenerateKey()
	if err != nil {
		panic(err)
	}
	defer master.Erase()

	const suite = crypto.SuiteXChaCha20Poly1305
	volume := crypto.NewUUID()
	slot, err := crypto.NewSlot(suite, volume, 0, owner, []crypto.EpochKey{{Epoch: 1, VMK: master}})
	if err != nil {
		panic(err)
	}

	epochs, err := crypto.OpenSlot(suite, volume, 0, &slot, owner)
	if err != nil {
		panic(err)
	}
	defer crypto.EraseEpochs(epochs)
	keys, err := crypto.DeriveEpochKeys(suite, volume, epochs[0].Epoch, epochs[0].VMK)
	if err != nil {
		panic(err)
	}
	defer keys.Erase()

	sector, root := make([]byte, crypto.SectorBytes), make([]byte, crypto.RootBytes)
	if err := keys.SealRoot(3, []byte("a root"), sector); err != nil {
		panic(err)
	}
	fmt.Println("plaintext on the device:", bytes.Contains(sector, []byte("a root")))
	if err := keys.OpenRoot(3, sector, root); err != nil {
		panic(err)
	}
	fmt.Println("opened:", string(bytes.TrimRight(root, "\x00")))
	fmt.Println("moved to another slot:", keys.OpenRoot(4, sector, root))

	strangersKey, err := crypto.GenerateKey()
	if err != nil {
		panic(err)
	}
	stranger := crypto.SecretCredential(strangersKey)
	defer stranger.Erase()
	_, err = crypto.OpenSlot(suite, volume, 0, &slot, stranger)
	fmt.Println("a stranger's key is wrong:", errors.Is(err, crypto.ErrWrongKey))
	// Output:
	// plaintext on the device: false
	// opened: a root
	// moved to another slot: authentication failed
	// a stranger's key is wrong: true
}
