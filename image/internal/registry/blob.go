package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"sallyport/image/ref"
)

// stall is how long a download may bring nothing before it is given up, where nothing else is said;
// resumes is how often a broken one is taken up again.
const (
	stall   = 60 * time.Second
	resumes = 3
)

// Blob opens a blob. The stream resumes after a broken connection (Range), ends with ErrUnavailable
// when nothing comes for as long as Options.Stall, and is not hashed: the caller does that.
func (r *Repo) Blob(ctx context.Context, d ref.Digest) (io.ReadCloser, error) {
	b := &blob{repo: r, digest: d, ctx: ctx, left: resumes}
	if err := b.open(); err != nil {
		return nil, fmt.Errorf("fetch blob %s: %w", d, err)
	}
	return b, nil
}

// blob is one download. It is owned by one reader.
type blob struct {
	repo   *Repo
	digest ref.Digest
	ctx    context.Context
	at     int64 // bytes read so far
	left   int   // resumes left
	body   io.ReadCloser
	cancel context.CancelFunc
	timer  *time.Timer
}

func (b *blob) open() error {
	ctx, cancel := context.WithCancel(b.ctx)
	header := http.Header{}
	want := http.StatusOK
	if b.at > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", b.at))
		want = http.StatusPartialContent
	}
	res, err := b.repo.get(ctx, http.MethodGet, "blobs/"+b.digest.String(), header)
	if err != nil {
		cancel()
		return err
	}
	if res.StatusCode != want {
		defer cancel()
		defer res.Body.Close()
		return answered(b.repo.host, res)
	}
	b.body, b.cancel, b.timer = res.Body, cancel, time.AfterFunc(b.repo.stall, cancel)
	return nil
}

func (b *blob) Read(p []byte) (int, error) {
	for {
		b.timer.Reset(b.repo.stall)
		n, err := b.body.Read(p)
		b.at += int64(n)
		if n > 0 || err == nil {
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if b.ctx.Err() != nil {
			return 0, b.ctx.Err()
		}
		if b.left == 0 {
			return 0, fmt.Errorf("%w: %s: %s", ErrUnavailable, b.repo.host, oneLine(err.Error()))
		}
		b.left--
		b.Close()
		if err := b.open(); err != nil {
			return 0, err
		}
	}
}

// Close ends the download.
func (b *blob) Close() error {
	b.timer.Stop()
	b.cancel()
	return b.body.Close()
}

// mediaType drops parameters; "" if the header is unreadable.
func mediaType(s string) string {
	m, _, err := mime.ParseMediaType(s)
	if err != nil {
		return ""
	}
	return m
}
