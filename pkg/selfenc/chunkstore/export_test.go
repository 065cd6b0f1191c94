package chunkstore

// For the tests outside the package, which the conformance suite needs.
var (
	FakeS3   = fakeS3
	OpenFake = openFake
)
