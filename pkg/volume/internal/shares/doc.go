// Package shares owns the reference-count tree, which counts references to blocks beyond the first.
// A used block without an item has one reference. Runs end at the end of their region, and adjacent
// runs with the same count are joined, so that each state has one representation. Space knows how
// many blocks of each region the tree covers. If there are none, the tree is not read.
//
// Its lock comes after those of the trees that refer to blocks. A reference is added only while
// another one is guaranteed to stay. So a block without further references cannot get one while its
// last one is dropped.
//
// Its user is the engine, from within changes of the tree that refers to the blocks.
package shares
