package check_test

import (
	"bytes"
	"fmt"

	"github.com/sealvol/sealvol/pkg/crypto"
	"github.com/sealvol/sealvol/pkg/volume"
	"github.com/sealvol/sealvol/pkg/volume/check"
	"github.com/sealvol/sealvol/pkg/volume/device"
)

// A volume is checked while nobody has it open.
func Example() {
	dev := device.NewMem(64 << 20) // device.Open has files and block devices
	kek, err := crypto.NewKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		fmt.Println(err)
		return
	}
	key := crypto.SecretCredential(kek)
	defer key.Erase()
	if err := volume.Format(dev, volume.FormatOptions{Recipient: key}); err != nil {
		fmt.Println(err)
		return
	}

	report, err := check.Run(dev, check.Options{Credential: key, Data: true})
	if err != nil {
		fmt.Println(err) // nothing could be checked: a wrong key, or no volume
		return
	}
	for _, p := range report.Problems {
		fmt.Println(p)
	}
	fmt.Println("clean:", report.Clean)
	fmt.Println("inodes:", report.Counts.Inodes)
	// Output:
	// clean: true
	// inodes: 1
}
