package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrURL means that a string is not the URL of a store.
var ErrURL = errors.New("not a store's URL")

// Open opens the store of a URL:
//
//	file:///DIRECTORY
//	s3://BUCKET/PREFIX?region=REGION&endpoint=URL&path-style=true|false
//
// There are further parameters for S3, which S3RequestOptions describes:
// sse=AES256|aws:kms|aws:kms:dsse, sse-kms-key-id=KEY, request-payer=requester,
// storage-class=CLASS, tags=KEY=VALUE,..., object-lock=GOVERNANCE|COMPLIANCE, retain-days=N.
//
// With an endpoint, path-style defaults to true. With create, the last component of a directory is
// created if it does not exist. Buckets are never created.
func Open(ctx context.Context, rawURL string, create bool) (Store, error) {
	return OpenWith(ctx, rawURL, OpenOptions{Create: create})
}

// OpenOptions are the options of OpenWith.
type OpenOptions struct {
	// Create creates a directory, as in Open.
	Create bool
	// UploadRate and DownloadRate limit the bytes per second. 0 means no limit, MinRate is the least.
	UploadRate, DownloadRate int64
	// Transient, if set, names objects that are never locked, because they are soon deleted.
	Transient func(key string) bool
	// Retrying, if set, is called once, with the reason, when a request has failed twice and is tried
	// again.
	Retrying func(err error)
}

// OpenWith is Open with further options.
func OpenWith(ctx context.Context, rawURL string, opts OpenOptions) (Store, error) {
	up, down := NewPacer(opts.UploadRate), NewPacer(opts.DownloadRate)
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("%w: invalid syntax", ErrURL) // err contains the URL, which may contain a password
	}
	switch {
	case u.User != nil:
		return nil, fmt.Errorf("%w: it must not contain credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead", ErrURL)
	case u.Opaque != "":
		return nil, fmt.Errorf("%w: write %s:// with two slashes", ErrURL, u.Scheme)
	case u.Fragment != "":
		return nil, fmt.Errorf("%w: it must not contain #", ErrURL)
	case u.Scheme == "file":
		s, err := openFile(u, opts.Create)
		if err == nil && (up != nil || down != nil) {
			s = &paced{s, up, down}
		}
		return s, err
	case u.Scheme == "s3":
		o, err := s3URL(u)
		if err != nil {
			return nil, err
		}
		o.Upload, o.Download, o.Transient, o.Retrying = up, down, opts.Transient, opts.Retrying
		return OpenS3(ctx, o)
	}
	return nil, fmt.Errorf("%w: it must begin with file:// or s3://", ErrURL)
}

func openFile(u *url.URL, create bool) (Store, error) {
	if u.Host != "" && u.Host != "localhost" || !filepath.IsAbs(u.Path) || u.RawQuery != "" {
		return nil, fmt.Errorf("%w: the form for a directory is file:///ABSOLUTE/PATH", ErrURL)
	}
	if create {
		if err := os.Mkdir(u.Path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := syncParent(u.Path); err != nil {
			return nil, err
		}
	}
	return OpenDir(u.Path)
}

func syncParent(dir string) error {
	f, err := os.Open(filepath.Dir(filepath.Clean(dir)))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func s3URL(u *url.URL) (S3Options, error) {
	o := S3Options{Bucket: u.Host, Prefix: strings.Trim(u.Path, "/")}
	if o.Bucket == "" {
		return o, fmt.Errorf("%w: the bucket is missing", ErrURL) // without the parameters, which may contain a secret by mistake
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return o, fmt.Errorf("%w: %w", ErrURL, err)
	}
	style := ""
	for name, values := range query {
		if len(values) != 1 {
			return o, fmt.Errorf("%w: the parameter %s occurs several times", ErrURL, name)
		}
		switch name {
		case "region":
			o.Region = values[0]
		case "endpoint":
			o.Endpoint = values[0]
		case "path-style":
			style = values[0]
		default:
			known, err := o.set(name, values[0])
			if err != nil {
				return o, fmt.Errorf("%w: %w", ErrURL, err)
			}
			if !known {
				return o, fmt.Errorf("%w: unknown parameter %q", ErrURL, name)
			}
		}
	}
	if o.Endpoint != "" {
		e, err := url.Parse(o.Endpoint)
		if err != nil || e.Scheme != "http" && e.Scheme != "https" || e.Host == "" || e.User != nil {
			return o, fmt.Errorf("%w: the endpoint must be http://HOST or https://HOST", ErrURL)
		}
	}
	if err := o.check(); err != nil {
		return o, fmt.Errorf("%w: %w", ErrURL, err)
	}
	o.PathStyle = o.Endpoint != ""
	if style != "" {
		if o.PathStyle, err = strconv.ParseBool(style); err != nil {
			return o, fmt.Errorf("%w: path-style must be true or false", ErrURL)
		}
	}
	return o, nil
}
