package main

import (
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/sealvol/sealvol/pkg/mounter/mountertest"
)

// hasRoots fails if this process trusts no certificate authority, as in an empty image.
func hasRoots() error {
	pool, err := x509.SystemCertPool()
	if err == nil && pool.Equal(x509.NewCertPool()) {
		err = errors.New("no certificate authority is known")
	}
	return err
}

// TestRoots: even if the machine has no root certificates, EC2's certificate is trusted.
func TestRoots(t *testing.T) {
	base := mountertest.Command("roots")
	cmd := exec.Command(base[0], base[1:]...)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE=/nonexistent", "SSL_CERT_DIR=/nonexistent")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
