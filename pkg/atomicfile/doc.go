// Package atomicfile writes files that are never seen half written: after a crash at any moment,
// the name holds the old content (or no file, if there was none) or the new content, whole.
//
// # How
//
//  1. create  a temporary file in the same directory, or where Options.Temp says (on the same file
//     system), with Options.Mode less the umask.
//  2. write   the content to it.
//  3. fsync   it, so that a name never stands for content that a crash could take back.
//  4. rename  it to the name, or link it where nothing may be replaced (Options.New).
//  5. fsync dir  of the name, so that the new name survives a crash. Only then Commit returns nil.
//
// With Options.Volatile steps 3 and 5 are left out: the name is still switched at once for every
// process, but after a crash of the machine the file may be empty.
//
// # What is left behind
//
// On every error before step 4 the temporary file is removed. If step 5 fails, the new content has
// the name, but it is not known to survive a crash. A process that dies before step 4 leaves its
// temporary file. A fixed Options.Temp is overwritten by the next writer of the name, so there must
// be one writer at a time; random ones (the default) begin with a dot and are unique, so that any
// number of writers may replace one name at once: the last one wins.
//
// # What is replaced
//
// Under plain names (Options.FS nil) nothing but a regular file is replaced: a rename would put a
// file in the place of a device, too. A symbolic link is replaced itself, not followed.
package atomicfile
