// Package atomicfile writes files that are never visible half-written: after a crash at any moment,
// the name refers to the old content (or no file, if there was none) or to the complete new
// content.
//
// # How
//
//  1. create  a temporary file in the same directory, or where Options.Temp says (on the same file
//     system), with Options.Mode less the umask.
//  2. write   the content to it.
//  3. fsync   it, so that the name never refers to content that a crash could undo.
//  4. rename  it to the name, or link it if nothing may be replaced (Options.New).
//  5. fsync dir  of the name, so that the new name survives a crash. Only then does Commit return nil.
//
// Options.Volatile omits steps 3 and 5. Every process still sees the name change at once, but after
// a crash of the machine the file may be empty.
//
// # What is left behind
//
// After an error before step 4, the temporary file is removed. If step 5 fails, the name refers to
// the new content, but it may not survive a crash. A process that dies before step 4 leaves its
// temporary file. The next writer of the name overwrites a fixed Options.Temp, so there must be
// only one writer at a time. Random names (the default) begin with .tmp- and are unique, so any
// number of writers may replace one name at the same time; the last one wins.
//
// # What is replaced
//
// With Options.FS nil, Commit replaces only regular files: otherwise the rename would also replace
// a device by a file. A symbolic link is replaced itself, not followed.
package atomicfile
