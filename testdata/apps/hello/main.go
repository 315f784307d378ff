// Command hello is the application that the demo, the tests and the benchmarks deploy: one static binary in an image from scratch.
//
// It listens on $PORT (default 8080) and answers
//
//	/          "<GREETING> from <version>", GREETING defaulting to "Hello"
//	/health    $HEALTH (default 200) as status
//	/slow?ms=  after that many milliseconds, at most a minute
//	/echo      the request body, streamed back as it arrives
//	/env       its environment as a JSON array of base64 strings, so that every byte can be compared
//	/say       prints the request body (at most 64 KiB) as a line on stdout
//	/exit?code= ends the process with that code, after answering
//
// $EXIT=<code> makes it print a sentence on stderr and end at once. SIGTERM lets requests under way finish.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// drain bounds how long requests under way may take after SIGTERM.
const drain = 30 * time.Second

func main() {
	if code, err := strconv.Atoi(os.Getenv("EXIT")); err == nil {
		fmt.Fprintln(os.Stderr, "hello: told to exit by EXIT="+os.Getenv("EXIT"))
		os.Exit(code)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	server := &http.Server{Addr: ":" + setting("PORT", "8080"), Handler: routes(version())}
	done := make(chan error, 1)
	go func() {
		<-ctx.Done()
		limit, cancel := context.WithTimeout(context.Background(), drain)
		defer cancel()
		done <- server.Shutdown(limit)
	}()
	fmt.Println("hello", version(), "listens on", server.Addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	fmt.Println("hello", version(), "is draining")
	return <-done
}

func routes(version string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s from %s\n", setting("GREETING", "Hello"), version)
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		code, err := strconv.Atoi(setting("HEALTH", "200"))
		if err != nil || code < 100 || code > 599 {
			code = http.StatusInternalServerError
		}
		w.WriteHeader(code)
		fmt.Fprintln(w, "health", code)
	})
	mux.HandleFunc("/slow", slow)
	mux.HandleFunc("/echo", echo)
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, r *http.Request) {
		list := []string{}
		for _, kv := range os.Environ() {
			list = append(list, base64.StdEncoding.EncodeToString([]byte(kv)))
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	mux.HandleFunc("POST /say", func(w http.ResponseWriter, r *http.Request) {
		line, _ := io.ReadAll(io.LimitReader(r.Body, 64<<10))
		fmt.Printf("%s\n", line)
	})
	mux.HandleFunc("/exit", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		fmt.Fprintln(os.Stderr, "hello: asked to exit with", code)
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		os.Exit(code)
	})
	return mux
}

func slow(w http.ResponseWriter, r *http.Request) {
	ms, err := strconv.Atoi(r.FormValue("ms"))
	if err != nil || ms < 0 || ms > 60_000 {
		http.Error(w, "ms must be a number from 0 to 60000", http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		fmt.Fprintln(w, "slept", ms, "ms")
	case <-r.Context().Done():
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	if r.ContentLength >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(r.ContentLength, 10))
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = io.Copy(w, r.Body)
}

// version is what the file beside the binary says: a new version of the application needs no new build of it.
func version() string {
	data, err := os.ReadFile("/version")
	if err != nil {
		return "unversioned"
	}
	return strings.TrimSpace(string(data))
}

func setting(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}
