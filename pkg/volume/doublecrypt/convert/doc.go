// Package convert copies a volume of format v1 (package doublecrypt) into a new volume of format v2,
// and compares both byte by byte.
//
// An attribute of the new volume's root directory, Mark, says that the copy is unfinished, and which
// state of which volume it is made from. A run that was interrupted anywhere is gone on with by
// another one: a file's modification time is set when it is whole, and files that have the right size
// and time are not copied again. The mark is removed when the comparison, which reads both volumes
// anew, has ended.
package convert
