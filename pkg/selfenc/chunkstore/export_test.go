package chunkstore

// These are for tests outside of the package, which use the conformance suite.
var (
	FakeS3   = fakeS3
	OpenFake = openFake
)
