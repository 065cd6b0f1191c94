// Package device defines the storage of a volume: an array of bytes that is written in whole 4 KiB
// sectors and made durable by Sync.
//
// A Device promises only this:
//
//   - A write that has returned is seen by later reads of this process.
//   - A write that had returned when Sync was called is durable when Sync returns nil. Until then,
//     it may be lost, kept, or torn at 512 bytes, in any order relative to other such writes.
//   - After an error of WriteAt or Sync, the state of all writes since the last successful Sync is
//     unknown. A later Sync does not repair it, because Linux reports a lost write only once. The
//     owner must stop writing.
//
// File is the real implementation. Mem models these promises for crash tests. Fault injects errors
// into any Device.
package device
