package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	leastNice     = 19
	ioprioProcess = 1
	// ioprioBE is the lowest priority of class best-effort: class idle would wait as long as anybody
	// else uses the disk.
	ioprioBE = 2<<13 | 7
)

// yieldToOthers gives this process the least share of processors and, if the disk's scheduler knows
// shares, of the disk: a mounted volume has users who wait. Threads that start later inherit it from
// those that start them. A system that refuses gets a process like any other.
func yieldToOthers() {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range threads {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		_ = unix.Setpriority(unix.PRIO_PROCESS, id, leastNice)
		_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioProcess, uintptr(id), ioprioBE)
	}
}
