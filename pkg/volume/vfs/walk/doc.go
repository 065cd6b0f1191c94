// Package walk finds paths in a vfs.FS, walks its trees and reads its files, without a mount. It
// does not trust the volume, because an attacker may have written to it: names are checked, links
// are followed only inside the volume, and directories that contain themselves are refused.
package walk
