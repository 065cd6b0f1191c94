// Package devicetest is the conformance suite of device.Device. Run tests the promises in the
// package comment of device, except for those that concern a power failure, which device.Mem
// models.
package devicetest
