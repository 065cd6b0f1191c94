// Package convert copies a volume of format v1 (package doublecrypt) into a new volume of format
// v2, and compares both byte by byte.
//
// While the copy is unfinished, the root directory of the new volume has the attribute Mark, which
// identifies the source volume and its state. If a run is interrupted, the next run continues. The
// modification time of a file is set when the file is complete, and files with the right size and
// time are not copied again. The attribute is removed after the comparison, which reads both
// volumes from their devices.
package convert
