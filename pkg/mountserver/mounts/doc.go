// Package mounts finds, checks and ends the mounts of volumes on this machine, for commands that
// take a directory where a volume is mounted. It looks into the mount table and asks mount servers
// by their control sockets; it never looks into a mount, which may hang.
package mounts
