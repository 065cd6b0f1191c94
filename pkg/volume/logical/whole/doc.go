// Package whole checks that facts (package logical) make a whole volume: what concerns several
// inodes. It is what a restore refuses, whether the facts are on a device already or still in a
// store.
//
// A Check is told all facts once, in the order of their keys. Its memory does not depend on the
// number of inodes: instead of counting the names of each inode, it compares two sums, in which each
// inode has a weight that nobody could know before (balance). If the sums differ, it reads
// everything again, a few times, and finds an inode. Directories are walked through only if one has
// a lower number than its parent: otherwise there can be no cycle.
//
// It owns no state that lasts, and reads only through Source.
package whole
