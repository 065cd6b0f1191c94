package main

// The authorities that Mozilla trusts, for images that hold nothing but this program. Those of the
// machine, or AWS_CA_BUNDLE, take precedence.
import _ "golang.org/x/crypto/x509roots/fallback"
