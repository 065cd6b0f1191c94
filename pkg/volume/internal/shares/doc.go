// Package shares owns the reference-count tree, which counts references to blocks beyond the first: what no
// item covers has one, or is free. Runs end where their region does and join
// neighbours of the same count, so that one state has one form. Space knows how
// many blocks of each region the tree covers; where none are, nobody looks.
//
// Its lock comes after those of the trees whose items refer. A reference is added
// where there is one that stays meanwhile, so what has no further reference cannot
//
//	get one while its last goes.
//
// The engine comes in, from within changes of the tree that refers.
package shares
