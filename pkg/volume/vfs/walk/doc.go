// Package walk finds paths in a vfs.FS, walks trees of it and reads its files, without a mount. What
// it reads may come from whoever has written to the volume: names are checked, links are followed
// inside the volume alone, and directories that lie inside themselves are refused.
package walk
