package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Options configure Start.
type Options struct {
	// Kernel is a directory with boot/vmlinuz-* and lib/modules, like an unpacked Debian kernel
	// package.
	Kernel string
	// Modules are loaded at boot together with their dependencies; those that are built in are
	// skipped.
	Modules []string
	// Init is a static program that becomes the first process. Files are copied into the machine
	// (path inside: path on the host).
	Init  string
	Files map[string]string
	// Args are added to the kernel's command line.
	Args string
	// MemoryMiB is the memory of the machine.
	MemoryMiB int
	// Dir is for sockets, the image and console.log. Its path must be short, because paths of unix
	// sockets are limited.
	Dir string
}

// slots is how many devices fit at the same time.
const slots = 6

// Machine is a running machine.
type Machine struct {
	opt     Options
	cmd     *exec.Cmd
	qmp     *qmp
	agent   *rpc.Client
	used    [slots]string // the device in each slot
	stopped chan struct{}
	kill    context.CancelFunc
}

// Start starts a machine and waits until its agent answers. It is killed when ctx ends, or by
// Close.
func Start(ctx context.Context, o Options) (m *Machine, err error) {
	kernels, err := filepath.Glob(filepath.Join(o.Kernel, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return nil, fmt.Errorf("want exactly one kernel in %s/boot: run `make nvme`", o.Kernel)
	}
	modules, err := findModules(filepath.Join(o.Kernel, "lib/modules"), append([]string{"virtio_pci", "virtio_console"}, o.Modules...)...)
	if err != nil {
		return nil, err
	}
	image := filepath.Join(o.Dir, "initramfs")
	if err := writeInitramfs(image, o.Init, o.Files, modules); err != nil {
		return nil, fmt.Errorf("write the initramfs: %w", err)
	}
	// QEMU connects to this process, so both ends exist from the first byte on.
	monitor, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(o.Dir, "qmp")})
	if err != nil {
		return nil, err
	}
	defer monitor.Close()
	port, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(o.Dir, "agent")})
	if err != nil {
		return nil, err
	}
	defer port.Close()
	args := []string{"-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", fmt.Sprint(o.MemoryMiB, "M"),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", kernels[0], "-initrd", image, "-append", "console=ttyS0 panic=-1 oops=panic rdinit=/init random.trust_cpu=on " + o.Args,
		"-serial", "file:" + filepath.Join(o.Dir, "console.log"),
		"-chardev", "socket,id=qmp,path=" + filepath.Join(o.Dir, "qmp"), "-mon", "chardev=qmp,mode=control",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,path=" + filepath.Join(o.Dir, "agent"),
		"-device", "virtserialport,chardev=agent,name=" + PortName}
	for i := range slots {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=slot%d,chassis=%d", i, i+1))
	}
	ctx, kill := context.WithCancel(ctx)
	m = &Machine{opt: o, kill: kill, stopped: make(chan struct{}), cmd: exec.CommandContext(ctx, "qemu-system-x86_64", args...)}
	var said bytes.Buffer
	m.cmd.Stderr, m.cmd.WaitDelay = &said, 5*time.Second
	if err := m.cmd.Start(); err != nil {
		kill()
		return nil, err
	}
	go func() {
		_ = m.cmd.Wait() // the process is killed
		monitor.Close()
		port.Close()
		close(m.stopped)
	}()
	defer func() {
		if err != nil {
			m.Close()
			err = fmt.Errorf("%w\nQEMU says: %s\nconsole:\n%s", err, said.Bytes(), m.Console())
		}
	}()
	at, err := monitor.Accept()
	if err != nil {
		return nil, err
	}
	if m.qmp, err = newQMP(ctx, at); err != nil {
		return nil, err
	}
	to, err := port.Accept()
	if err != nil {
		return nil, err
	}
	m.agent = rpc.NewClient(to)
	return m, m.Call(ctx, "Ping", None{}, &None{})
}

// Close ends the machine at once.
func (m *Machine) Close() {
	m.kill()
	<-m.stopped
	if m.agent != nil {
		_ = m.agent.Close()
	}
}

// Console returns everything that the machine has printed: the kernel's messages and the output of
// its programs.
func (m *Machine) Console() []byte {
	b, err := os.ReadFile(filepath.Join(m.opt.Dir, "console.log"))
	if err != nil {
		return []byte(err.Error())
	}
	return b
}

// Plug plugs an NVMe device with the content of a raw file into a free slot.
func (m *Machine) Plug(ctx context.Context, id, serial, file string) error {
	for i, used := range m.used {
		if used != "" {
			continue
		}
		err := m.qmp.do(ctx, "blockdev-add", map[string]any{"driver": "raw", "node-name": id, "file": map[string]any{"driver": "file", "filename": file, "locking": "off"}})
		if err != nil {
			return err
		}
		m.used[i] = id
		return m.qmp.do(ctx, "device_add", map[string]any{"driver": "nvme", "id": "nvme-" + id, "serial": serial, "drive": id, "bus": fmt.Sprint("slot", i)})
	}
	return errors.New("no slot is free")
}

// Unplug removes a device, even if it is in use, and returns when the kernel has released it.
func (m *Machine) Unplug(ctx context.Context, id string) error {
	for i, used := range m.used {
		if used != id {
			continue
		}
		from := m.qmp.mark()
		if err := m.qmp.do(ctx, "device_del", map[string]any{"id": "nvme-" + id}); err != nil {
			return err
		}
		if err := m.qmp.await(ctx, from, "DEVICE_DELETED", "nvme-"+id); err != nil {
			return err
		}
		m.used[i] = ""
		return m.qmp.do(ctx, "blockdev-del", map[string]any{"node-name": id})
	}
	return fmt.Errorf("%s is not plugged in", id)
}
