// Package device is what a volume is stored on: an array of bytes that is
// written in whole 4 KiB sectors and made durable by Sync.
//
// What a Device promises, and no more:
//
//   - A write that has returned is seen by later reads of this process.
//   - A write that had returned when Sync was called is durable once Sync has
//     returned nil. Until then it may be lost, kept, or torn at 512 bytes, and
//     in any order relative to other such writes.
//   - After an error of WriteAt or Sync nothing is known about what was
//     written since the last good Sync, and a later Sync does not heal it
//     (Linux reports a lost write once). The owner must stop writing.
//
// File is the real one; Mem models the promise above for the crash tests and
// Fault injects errors into any Device.
package device
