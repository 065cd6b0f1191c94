// Package verify checks a stored snapshot: that its packs are there (Present, without keys), that
// its map and the maps of files are whole and make a volume that can be restored (Metadata), and that the content of files verifies
// (Data), all of it or a sample. Samples of consecutive rounds cover everything.
//
// It goes on after what it finds, and reports each problem with its place. It changes nothing.
package verify
