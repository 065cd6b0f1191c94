// Package backendtest holds the conformance suite that every backend passes.
package backendtest
