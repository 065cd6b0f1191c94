// Package mounts finds, checks and ends the mounts of volumes on this machine, for commands that
// take a directory where a volume is mounted. It reads the mount table and asks mount servers
// through their control sockets. It never looks into a mount, because that may hang.
package mounts
