// Command release creates a release from images that tools/images has built, and pushes it to a
// registry. It needs neither a container engine nor helm.
//
//	release build        -version v1.2.3 -images DIR -out DIR [-key FILE]
//	release pin-sidecars [-from REGISTRY]
//	release sidecars     -dist DIR [-from REGISTRY|DIR]
//	release push         -dist DIR -registry HOST[:PORT][/PATH] [-insecure] [-force]
//	release changelog    -version v1.2.3
//	release chart-readme
//	release registry     [-listen ADDRESS] [-dir DIR]
//
// tools/dist and the targets of the Makefile run it in the root of the sources.
//
// The content of a release is reproducible: times are zero, names are sorted, and modes do not
// depend on the umask. Programs and their lists of modules are taken from the images, so they are
// the same bytes in both places. docs/release.md describes the files, docs/adr/0031 the decisions.
// bytes there and beside them. docs/release.md describes the files, docs/adr/0031 the decisions.
package main
