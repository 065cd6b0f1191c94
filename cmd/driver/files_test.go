package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
)

func writeDurably(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func sameFile(path string, want []byte) error {
	got, err := os.ReadFile(path)
	if err == nil && !bytes.Equal(got, want) {
		err = fmt.Errorf("%s: %d bytes, not those that were written", path, len(got))
	}
	return err
}
