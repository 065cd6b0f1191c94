package mounter

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sealvol/sealvol/pkg/atomicfile"
)

// record is the state.json of a volume. It is written before the change that it announces.
type record struct {
	places
	Version  int    `json:"version"`
	Volume   string `json:"volume"`
	Source   string `json:"source"`
	Target   string `json:"target"`
	Device   Device `json:"device"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	Running  bool   `json:"running,omitempty"` // everything that was requested is there
	// For a raw block volume: the size of its device, and all loop devices that were bound to its
	// file. Devices of servers that died stay until the volume is unmounted: if their numbers were
	// reused, a program that still has an old node would get another volume's data.
	BlockBytes int64     `json:"blockBytes,omitempty"`
	Loops      []loopDev `json:"loops,omitempty"`
	// PID and Start (clock ticks since boot, field 22 of /proc/PID/stat) identify the server; they
	// are 0 before it exists.
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"`
	Boot  string `json:"boot"` // boot id: pids of another boot mean nothing
}

const (
	stateVersion  = 1
	maxStateBytes = 64 << 10
)

// places are the paths that a mounter uses for a volume.
type places struct {
	dir     string // holds its record
	control string // the control socket of its server
	hidden  string // where the volume of a raw block device is mounted: hidden from pods, and never inside of what forget removes
	group   string // the cgroup of its server, or ""
	// workerGroup is the cgroup of its snapshot worker, or "".
	workerGroup string
}

// places returns the paths of a volume. The id is hashed, because it may not be a valid file name.
func (o *Options) places(volume string) places {
	h := sha256.Sum256([]byte(volume))
	name := hex.EncodeToString(h[:16])
	p := places{dir: filepath.Join(o.StateDir, "volumes", name), hidden: filepath.Join(o.StateDir, "hidden", name)}
	p.control = filepath.Join(p.dir, "control")
	if o.Cgroup != "" {
		p.group = filepath.Join(o.Cgroup, "sealvol-"+name)
		p.workerGroup = p.group + "-snapshot"
	}
	return p
}

func (r *record) save() error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.Mkdir(r.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	name := filepath.Join(r.dir, "state.json")
	// Volatile: after a reboot there are no processes and mounts, so records are not needed.
	return atomicfile.Write(name, b, atomicfile.Options{Temp: name + ".tmp", Volatile: true})
}

// readBounded reads a file of the state directory.
func readBounded(name string, most int64) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s is too long", name)
	}
	return b, err
}

func loadRecord(dir string) (record, error) {
	b, err := readBounded(filepath.Join(dir, "state.json"), maxStateBytes)
	if err != nil {
		return record{}, err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return record{}, fmt.Errorf("%s: decode state.json: %w", dir, err)
	}
	if r.Version != stateVersion || checkTarget(r.Volume, r.Source, r.Target) != nil {
		return record{}, fmt.Errorf("%s: state.json is not of version %d; it was written by another version of Sealvol", dir, stateVersion)
	}
	return r, nil
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// startTime returns field 22 of /proc/PID/stat (proc(5)). Together with the pid it identifies a
// process until the next boot.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command (field 2) may contain spaces and parentheses; the last parenthesis ends it.
	i := strings.LastIndexByte(string(b), ')')
	if i < 0 {
		return 0, fmt.Errorf("/proc/%d/stat: malformed", pid)
	}
	fields := strings.Fields(string(b[i+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: malformed", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
