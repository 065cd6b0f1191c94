// Package chunkstoretest proves what every chunk store promises, and breaks
// stores for tests of their users.
package chunkstoretest
