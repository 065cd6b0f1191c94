package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/sealvol/sealvol/pkg/volume/fusefs"
)

// minMemory is the minimum that pkg/volume accepts.
const minMemory = 32 << 20

type mountOptions struct {
	key        keyFlags
	readOnly   bool
	snapshot   string // its name; "" mounts the volume
	foreground bool
	memory     byteSize
	anchorFile string
	options    []string // the values of -o
	readyFD    int      // of the pipe to the process that started this one; 0 if there is none

	mount   fusefs.MountOptions // from options
	discard bool
}

// check reads the options. Its errors are usage errors.
func (o *mountOptions) check() error {
	if o.memory < minMemory {
		return usageError(fmt.Errorf("--memory %s: a mount needs at least 32MiB", o.memory.String()))
	}
	o.readOnly = o.readOnly || o.snapshot != ""
	o.mount.Private = os.Geteuid() != 0 // the default of fusermount3
	for _, list := range o.options {
		for _, opt := range splitOptions(list) {
			switch opt {
			case "allow_other":
				o.mount.Private = false
				continue
			case "", "default_permissions", "defaults":
				continue
			case "discard", "nodiscard":
				o.discard = opt == "discard"
				continue
			case "ro":
				o.readOnly = true
			case "rw":
				if o.snapshot != "" {
					return usageError(errors.New("-o rw: a snapshot is always mounted read-only"))
				}
				o.readOnly = false
			}
			o.mount.Options = append(o.mount.Options, opt)
		}
	}
	if err := checkOptions(o.mount.Options); err != nil {
		return usageError(err)
	}
	if o.readOnly {
		o.mount.Options = append(o.mount.Options, "ro")
	}
	return nil
}

// knownOptions are the options of fusefs.MountOptions.
const knownOptions = " ro rw suid nosuid dev nodev exec noexec atime noatime relatime diratime nodiratime sync async dirsync "

func checkOptions(opts []string) error {
	for _, opt := range opts {
		name, _, hasValue := strings.Cut(opt, "=")
		switch name {
		case "context", "fscontext", "defcontext", "rootcontext":
			if hasValue {
				continue
			}
		}
		if hasValue || !strings.Contains(knownOptions, " "+opt+" ") {
			return fmt.Errorf("-o %s: unknown mount option", opt)
		}
	}
	return nil
}

// splitOptions splits at commas outside quotes. Quoted SELinux contexts may contain commas.
func splitOptions(list string) []string {
	quoted := false
	return strings.FieldsFunc(list, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ',' && !quoted
	})
}
