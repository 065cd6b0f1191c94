// Command release makes a release of images that tools/images has built, and brings it into a
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
// tools/dist and the targets of the Makefile call it in the root of the sources.
//
// A release has one content: times are zero, names are sorted, modes do not depend on the umask.
// What is in it is taken from the images, so that a program and its list of modules are the same
// bytes there and beside them. docs/release.md describes the files, docs/adr/0073 the decisions.
package main
