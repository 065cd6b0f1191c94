// Package devicetest is the conformance suite of device.Device: Run holds each
// kind of device to what the package comment of device promises, apart from
// what only a power cut can show (device.Mem models that).
package devicetest
