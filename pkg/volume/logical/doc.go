// Package logical describes what a volume contains, apart from where it lies on a device: inodes,
// names, extended attributes and content. It is the common language of pkg/volume/pinned, which
// reads the state of a local snapshot, of the loader in pkg/volume, which builds a volume from such
// facts, and of pkg/snapshot, which keeps them in chunk stores.
//
// Every fact has a Key. Facts in the order of their keys describe one inode after the other. An
// inode without a name (nlink 0) and its facts do not exist.
package logical
