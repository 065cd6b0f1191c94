package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// sign signs data like `cosign sign-blob --key`: ECDSA on P-256 over SHA-256, in base64. The nonce
// is deterministic (RFC 6979), so the same release has the same signature. `openssl dgst -sha256
// -verify` verifies it, too.
func sign(key, data []byte) ([]byte, error) {
	block, _ := pem.Decode(key)
	if block == nil {
		return nil, errors.New("the file contains no PEM block")
	}
	if strings.Contains(block.Type, "ENCRYPTED") {
		return nil, fmt.Errorf("the key is encrypted (%s): decrypt it, or create one without a passphrase: "+
			"openssl ecparam -name prime256v1 -genkey -noout -out KEY", block.Type)
	}
	private, err := parseKey(block)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	signature, err := private.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	return []byte(base64.StdEncoding.EncodeToString(signature) + "\n"), nil
}

func parseKey(block *pem.Block) (*ecdsa.PrivateKey, error) {
	if block.Type == "EC PRIVATE KEY" {
		private, err := x509.ParseECPrivateKey(block.Bytes)
		if err == nil && private.Curve != elliptic.P256() {
			return nil, errors.New("the key is not a P-256 key (prime256v1)")
		}
		return private, err
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	private, ok := any.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, errors.New("the key is not a P-256 key (prime256v1)")
	}
	return private, nil
}
