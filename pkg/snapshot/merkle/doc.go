// Package merkle is the map of a stored snapshot: a Merkle tree that holds values by logical.Key.
// docs/snapshot-format.md, "Map", is normative.
//
// A node of the tree is a chunk. Where a node ends follows from the keys and the content of the
// items in it alone, by the cut rule (rule.go). References hold places (packs and slots), which
// depend on history. So every node also has a content hash, in which nothing has a place. From this
// follows the main property:
//
//	two maps have equal content hashes if and only if they hold the same content, however they
//	were made: built from nothing, or by any chain of updates
//
// Update makes a map from another one and sorted changes. It copies from left to right, with one
// open node a level; it begins at the node that a change falls into, and stops where a new node ends
// where an old one ended. What lies between is neither read nor written. Update of the empty map
// builds one.
//
// A Map reads. Whatever Nodes returns is checked: the content hash against the parent's, keys
// against the parent's range, the end of each node against the cut rule. So a map that a hostile
// holder of the key has made gives an error, or is a valid map.
//
// Files: rule (where nodes end), node (encoding, checks), builder (the open node), cache, map (nodes
// are read and checked), walk, diff (readers), cursor (the old nodes of a level), level, update,
// input (the writer).
package merkle
