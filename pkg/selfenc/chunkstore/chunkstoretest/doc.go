// Package chunkstoretest is the conformance suite of chunk stores. It also provides faulty stores
// for tests of their users.
package chunkstoretest
