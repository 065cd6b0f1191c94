package main

// The root certificates that Mozilla trusts, for images that contain only this program. Those of
// the machine, or AWS_CA_BUNDLE, take precedence.
import _ "golang.org/x/crypto/x509roots/fallback"
