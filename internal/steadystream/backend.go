package steadystream

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
)

// answerSize is the length of Backend's answer to a GET.
const answerSize = 2000

// Backend is a server for the stream, whose answers CheckBackend can judge byte for byte: a GET gets a pattern, a POST its own body back while it is
// still being read. name stands in the X-Backend header, by which Report.By counts.
func Backend(name string) http.Handler {
	page := Pattern(answerSize)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Backend", name)
		w.Header().Set("Content-Type", "application/octet-stream")
		if r.Method != http.MethodPost {
			_, _ = w.Write(page)
			return
		}
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})
}

// CheckBackend is the Check for servers made by Backend.
func CheckBackend(a Answer) error {
	want := a.Sent
	if a.Method == http.MethodGet {
		want = Pattern(answerSize)
	}
	switch {
	case a.Status != http.StatusOK:
		return fmt.Errorf("%s: status %d", a.Method, a.Status)
	case !bytes.Equal(a.Body, want):
		return fmt.Errorf("%s: body of %d bytes differs from the %d expected", a.Method, len(a.Body), len(want))
	}
	return nil
}
