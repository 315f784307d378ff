package wire_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hostmanager/aws/objects"
	"hostmanager/aws/objects/upload"
)

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

func TestObject_IsReadAsItWasWritten(t *testing.T) {
	c, bucket := newBucket(t)
	ctx := t.Context()
	must(t, c.CreateBucket(ctx, bucket))
	key := "resources/environments/e-1/_runtime/versions/manifest_1 +ü"
	body := noise(300_000)
	etag, err := c.Put(ctx, bucket, key, body, objects.Condition{})
	must(t, err)
	got, info, err := c.Get(ctx, bucket, key, 1<<20)
	must(t, err)
	if !bytes.Equal(got, body) || info.ETag != etag || info.Size != int64(len(body)) || time.Since(info.LastModified).Abs() > time.Hour {
		t.Errorf("%d bytes, %+v, ETag was %s", len(got), info, etag)
	}
	head, err := c.Head(ctx, bucket, key)
	must(t, err)
	if head.ETag != etag || head.Size != info.Size || head.LastModified.Unix() != info.LastModified.Unix() {
		t.Errorf("head %+v, get %+v", head, info)
	}
	if _, _, err := c.Get(ctx, bucket, key, info.Size-1); !errors.Is(err, objects.ErrTooLarge) || !objects.Permanent(err) {
		t.Errorf("limit: %v", err)
	}
	if _, _, err := c.Get(ctx, bucket, key, info.Size); err != nil {
		t.Errorf("exactly the limit: %v", err)
	}
	must(t, c.Delete(ctx, bucket, key))
	must(t, c.Delete(ctx, bucket, key))
	if _, err := c.Head(ctx, bucket, key); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("head after delete: %v", err)
	}
}

func TestObject_EmptyIsAnObject(t *testing.T) {
	c, bucket := newBucket(t)
	_, err := c.Put(t.Context(), bucket, "empty", nil, objects.Condition{IfNoneMatch: true})
	must(t, err)
	got, info, err := c.Get(t.Context(), bucket, "empty", 0)
	if err != nil || len(got) != 0 || info.Size != 0 {
		t.Errorf("%q, %+v, %v", got, info, err)
	}
}

func TestObject_MissingIsNotFound(t *testing.T) {
	c, bucket := newBucket(t)
	ctx := t.Context()
	_, head := c.Head(ctx, bucket, "nothing")
	_, _, get := c.Get(ctx, bucket, "nothing", 1)
	_, ranged := c.GetRange(ctx, bucket, "nothing", "", 0, 1)
	_, _, noBucket := c.Get(ctx, bucket+"-missing", "k", 1)
	list := c.List(ctx, bucket+"-missing", "", func(objects.Info) error { return nil })
	for name, err := range map[string]error{"head": head, "get": get, "range": ranged, "bucket": noBucket, "list": list} {
		if !errors.Is(err, objects.ErrNotFound) || !objects.Permanent(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestObject_Ranges(t *testing.T) {
	c, bucket := newBucket(t)
	ctx := t.Context()
	body := noise(100_000)
	etag, err := c.Put(ctx, bucket, "k", body, objects.Condition{})
	must(t, err)
	for _, r := range []struct{ off, n int64 }{{0, 1}, {10, 1000}, {99_999, 1}, {99_000, 5000}} {
		in, err := c.GetRange(ctx, bucket, "k", etag, r.off, r.n)
		must(t, err)
		got, err := io.ReadAll(in)
		must(t, err)
		must(t, in.Close())
		if want := body[r.off:min(r.off+r.n, int64(len(body)))]; !bytes.Equal(got, want) {
			t.Errorf("range %+v: %d bytes", r, len(got))
		}
	}
	_, beyond := c.GetRange(ctx, bucket, "k", "", 100_000, 1)
	_, none := c.GetRange(ctx, bucket, "k", "", 0, 0)
	for name, err := range map[string]error{"beyond the end": beyond, "of nothing": none} {
		if !errors.Is(err, objects.ErrInvalid) || !objects.Permanent(err) {
			t.Errorf("range %s: %v", name, err)
		}
	}
	_, err = c.Put(ctx, bucket, "k", noise(10), objects.Condition{})
	must(t, err)
	if _, err := c.GetRange(ctx, bucket, "k", etag, 0, 1); !errors.Is(err, objects.ErrPrecondition) || !objects.Permanent(err) {
		t.Errorf("range of another object: %v", err)
	}
}

func TestPut_Conditions(t *testing.T) {
	c, bucket := newBucket(t)
	ctx := t.Context()
	first, err := c.Put(ctx, bucket, "k", []byte("1"), objects.Condition{IfNoneMatch: true})
	must(t, err)
	if _, err := c.Put(ctx, bucket, "k", []byte("2"), objects.Condition{IfNoneMatch: true}); !errors.Is(err, objects.ErrPrecondition) || !objects.Permanent(err) {
		t.Errorf("a second first: %v", err)
	}
	second, err := c.Put(ctx, bucket, "k", []byte("2"), objects.Condition{IfMatch: first})
	must(t, err)
	if _, err := c.Put(ctx, bucket, "k", []byte("3"), objects.Condition{IfMatch: first}); !errors.Is(err, objects.ErrPrecondition) {
		t.Errorf("stale: %v", err)
	}
	got, info, err := c.Get(ctx, bucket, "k", 10)
	if err != nil || string(got) != "2" || info.ETag != second {
		t.Errorf("%q, %+v, %v", got, info, err)
	}
}

func TestPut_IfMatchOfNothingFails(t *testing.T) {
	c, bucket := newBucket(t)
	_, err := c.Put(t.Context(), bucket, "k", nil, objects.Condition{IfMatch: `"d41d8cd98f00b204e9800998ecf8427e"`})
	if !errors.Is(err, objects.ErrNotFound) && !errors.Is(err, objects.ErrPrecondition) {
		t.Errorf("put: %v", err)
	}
}

// TestPut_CompareAndSwapLosesNoUpdate is what the environment's serial, lock
// and registry stand on.
func TestPut_CompareAndSwapLosesNoUpdate(t *testing.T) {
	c, bucket := newBucket(t)
	ctx := t.Context()
	const writers, each = 8, 5
	var wg sync.WaitGroup
	firsts := make(chan int, writers)
	for w := range writers {
		wg.Go(func() {
			if _, err := c.Put(ctx, bucket, "once", []byte{byte(w)}, objects.Condition{IfNoneMatch: true}); err == nil {
				firsts <- w
			} else if !errors.Is(err, objects.ErrPrecondition) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(firsts) != 1 {
		t.Fatalf("%d writers were first", len(firsts))
	}
	_, err := c.Put(ctx, bucket, "counter", []byte("0"), objects.Condition{})
	must(t, err)
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				now, info, err := c.Get(ctx, bucket, "counter", 20)
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(now))
				_, err = c.Put(ctx, bucket, "counter", []byte(strconv.Itoa(n+1)), objects.Condition{IfMatch: info.ETag})
				if err == nil {
					done++
				} else if !errors.Is(err, objects.ErrPrecondition) && !errors.Is(err, objects.ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got, _, err := c.Get(ctx, bucket, "counter", 20); err != nil || string(got) != strconv.Itoa(writers*each) {
		t.Errorf("counter %s, %v; want %d", got, err, writers*each)
	}
}

func TestList_GoesThroughAllPages(t *testing.T) {
	c, bucket := newBucket(t)
	ctx := t.Context()
	const n = 1010 // one page is 1,000
	var wg sync.WaitGroup
	work := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range work {
				if _, err := c.Put(ctx, bucket, fmt.Sprintf("in/%05d", i), []byte("x"), objects.Condition{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	_, err := c.Put(ctx, bucket, "out", nil, objects.Condition{})
	must(t, err)
	var keys []string
	must(t, c.List(ctx, bucket, "in/", func(i objects.Info) error {
		keys = append(keys, i.Key)
		if i.Size != 1 || i.ETag == "" || i.LastModified.IsZero() {
			t.Errorf("listed %+v", i)
		}
		return nil
	}))
	if len(keys) != n || keys[0] != "in/00000" || keys[n-1] != "in/01009" {
		t.Errorf("%d keys, %v", len(keys), keys[:min(len(keys), 2)])
	}
	stop := errors.New("enough")
	calls := 0
	if err := c.List(ctx, bucket, "", func(objects.Info) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("stopped with %v after %d", err, calls)
	}
}

func TestUpload_SendsPartsAndTellsProgress(t *testing.T) {
	for name, size := range map[string]int{"one part": 1 << 20, "several parts": 21<<20 + 17, "nothing": 0} {
		t.Run(name, func(t *testing.T) {
			c, bucket := newBucket(t)
			body := noise(size)
			var told []int64
			must(t, upload.Object(t.Context(), c, bucket, "bundle.zip", bytes.NewReader(body), int64(size), func(n int64) { told = append(told, n) }))
			got, info, err := c.Get(t.Context(), bucket, "bundle.zip", int64(size))
			must(t, err)
			if sha256.Sum256(got) != sha256.Sum256(body) || info.Size != int64(size) {
				t.Errorf("%d bytes came back", len(got))
			}
			for i := 1; i < len(told); i++ {
				if told[i] < told[i-1] {
					t.Errorf("progress went back: %v", told)
				}
			}
			if len(told) == 0 || told[len(told)-1] != int64(size) {
				t.Errorf("progress %v does not end with %d", told, size)
			}
			head, err := c.Head(t.Context(), bucket, "bundle.zip")
			must(t, err)
			in, err := c.GetRange(t.Context(), bucket, "bundle.zip", head.ETag, 0, 10)
			if size > 0 { // the ETag of a multipart object is good for ranges too
				must(t, err)
				must(t, in.Close())
			}
		})
	}
}

func TestUpload_CancelledLeavesNoObject(t *testing.T) {
	c, bucket := newBucket(t)
	ctx, cancel := context.WithCancel(t.Context())
	size := int64(24 << 20)
	err := upload.Object(ctx, c, bucket, "k", bytes.NewReader(noise(int(size))), size, func(int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("upload: %v", err)
	}
	if _, err := c.Head(t.Context(), bucket, "k"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("head: %v", err)
	}
}

func TestPresignGet_NeedsNoCredentials(t *testing.T) {
	c, bucket := newBucket(t)
	_, err := c.Put(t.Context(), bucket, "dir/log file", []byte("hello"), objects.Condition{})
	must(t, err)
	url, err := c.PresignGet(t.Context(), bucket, "dir/log file", time.Minute)
	must(t, err)
	resp, err := http.Get(url)
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || string(body) != "hello" || !strings.Contains(url, "X-Amz-Expires=60") {
		t.Errorf("GET %s: %d %q %v", url, resp.StatusCode, body, err)
	}
}
