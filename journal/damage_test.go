package journal_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"hostmanager/journal"
	"hostmanager/protocol"
)

// TestMain lets the test binary be the process that is killed in the middle of writing.
func TestMain(m *testing.M) {
	if path := os.Getenv("JOURNAL_WRITER"); path != "" {
		writeForever(path)
	}
	os.Exit(m.Run())
}

// fast is a folder in memory where there is one: tests that open a journal thousands of times would else wait for the disk most of the time.
func fast(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "journal-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// write makes a journal of whole lives and returns its bytes and the offset behind each record.
func write(t testing.TB, path string, records ...journal.Record) (data []byte, ends []int64) {
	t.Helper()
	j := open(t, path, nil)
	size := func() int64 {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	ends = append(ends, size())
	for _, r := range records {
		add(t, j, r)
		ends = append(ends, size())
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data, ends
}

// folds returns what the commands are after each number of records.
func folds(t testing.TB, records []journal.Record) [][]journal.Command {
	t.Helper()
	path := filepath.Join(fast(t), "journal")
	j := open(t, path, nil)
	all := [][]journal.Command{j.Commands()}
	for _, r := range records {
		add(t, j, r)
		all = append(all, j.Commands())
	}
	_ = j.Close()
	return all
}

func put(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpen_CutAtEveryByte(t *testing.T) {
	dir := fast(t)
	records := append(life("one"), life("two")[:4]...)
	data, ends := write(t, filepath.Join(dir, "journal"), records...)
	want := folds(t, records)
	path := filepath.Join(dir, "cut")
	for n := range len(data) + 1 {
		put(t, path, data[:n])
		whole, clean := 0, n == 0
		for i, end := range ends {
			if int64(n) >= end {
				whole = i
			}
			clean = clean || int64(n) == end
		}
		var e events
		j, err := journal.Open(path, options(&e))
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if diff := cmp.Diff(want[whole], j.Commands()); diff != "" {
			t.Fatalf("cut at %d: %s", n, diff)
		}
		if clean != (len(e) == 0) {
			t.Fatalf("cut at %d: events %q", n, e.String())
		}
		add(t, j, journal.Record{Type: journal.Accepted, Command: "after"})
		_ = j.Close()
		if s, err := journal.Read(path); err != nil || s.Damaged || s.Torn != 0 || len(s.Commands) != len(want[whole])+1 {
			t.Fatalf("cut at %d: afterwards %+v, %v", n, s, err)
		}
	}
	if left, _ := filepath.Glob(path + ".quarantine*"); len(left) != 0 {
		t.Errorf("a torn tail was taken for damage: %v", left)
	}
}

func TestOpen_FlipOfEveryByte(t *testing.T) {
	records := append(life("one"), life("two")[:4]...)
	records = append(records, life("three")...)
	source := fast(t)
	data, ends := write(t, filepath.Join(source, "journal"), records...)
	want := folds(t, records)
	last := ends[len(ends)-2]
	dir := fast(t)
	path := filepath.Join(dir, "journal")
	for n := range data {
		bad := bytes.Clone(data)
		bad[n] ^= 1 << (n % 8)
		put(t, path, bad)
		before, err := journal.Read(path)
		if err != nil {
			t.Fatalf("flip at %d: read: %v", n, err)
		}
		var e events
		j, err := journal.Open(path, options(&e))
		if err != nil {
			t.Fatalf("flip at %d: %v", n, err)
		}
		got := j.Commands()
		_ = j.Close()
		aside, _ := filepath.Glob(path + ".quarantine-*")
		switch {
		case int64(n) >= last: // as a torn write
			if diff := cmp.Diff(want[len(want)-2], got); diff != "" || len(aside) != 0 || len(e) != 1 {
				t.Fatalf("flip at %d: aside %v, events %s, %s", n, aside, e.String(), diff)
			}
		case len(aside) == 1:
			checkQuarantine(t, n, aside[0], bad, before, e, got)
		default: // a digit of the version
			if diff := cmp.Diff(want[len(want)-1], got); diff != "" || before.Format < journal.Format || n > 16 {
				t.Fatalf("flip at %d went unseen: format %d %s", n, before.Format, diff)
			}
		}
		for _, p := range aside {
			_ = os.Remove(p)
		}
	}
}

func checkQuarantine(t *testing.T, n int, aside string, bad []byte, before journal.Snapshot, e events, got []journal.Command) {
	t.Helper()
	kept, err := os.ReadFile(aside)
	if err != nil || !bytes.Equal(kept, bad) {
		t.Fatalf("flip at %d: the damaged file was not kept as it was: %v", n, err)
	}
	if len(e) != 1 || e[0].Severity != protocol.Error || !before.Damaged {
		t.Fatalf("flip at %d: events %q, damaged %v", n, e.String(), before.Damaged)
	}
	for _, c := range got {
		if !c.Finished() && (!c.Lost || len(c.Steps) != 0) {
			t.Fatalf("flip at %d: %+v could be undone on half its records", n, c)
		}
	}
	if len(got) < 2 {
		t.Fatalf("flip at %d: only %d commands survived", n, len(got))
	}
}

// frameOf builds a frame by the description in the package comment, apart from the code.
func frameOf(payload string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(payload)))
	sum := crc32.Checksum(append(bytes.Clone(b), payload...), crc32.MakeTable(crc32.Castagnoli))
	return append(binary.LittleEndian.AppendUint32(b, sum), payload...)
}

func TestOpen_DamagedCommandsAreLostUntilAnswered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	data, ends := write(t, path, append(life("one"), life("two")[:3]...)...)
	data[ends[2]+20] ^= 0x10 // "done" of one
	put(t, path, data)
	j := open(t, path, nil)
	one, _ := j.Command("one")
	two, ok := j.Command("two")
	if !ok || !two.Lost || two.Steps != nil || two.Message == nil || one.Lost || !one.Finished() {
		t.Fatalf("one %+v, two %+v", one, two)
	}
	_ = j.Close()
	var e events
	j = open(t, path, &e)
	if c, _ := j.Command("two"); !c.Lost || len(e) != 0 {
		t.Fatalf("opened again: %+v, events %s", c, e.String())
	}
	add(t, j, journal.Record{Type: journal.Result, Command: "two", Payload: raw(`{}`)})
	if c, _ := j.Command("two"); c.Lost || !c.Finished() {
		t.Errorf("answered: %+v", c)
	}
}

func TestOpen_RubbishIsQuarantined(t *testing.T) {
	huge := append([]byte("HMJOURNAL 00001\n"), frameOf(`{"type":"journal","instance":"`+instance+`"}`)...)
	tests := []struct {
		name   string
		data   []byte
		aside  int
		events int
	}{
		{"text", []byte("this was never a journal, whatever its name says"), 1, 1},
		{"zeros", make([]byte, 4096), 1, 1},
		{"more rubbish at the end than one record holds", append(bytes.Clone(huge), make([]byte, journal.MaxRecord+100)...), 1, 1},
		{"zeros at the end", append(bytes.Clone(huge), make([]byte, 4096)...), 0, 1},
		{"frame that is no JSON", append(bytes.Clone(huge), frameOf("hello")...), 1, 1},
		{"frame without a type", append(bytes.Clone(huge), frameOf(`{"command":"x"}`)...), 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			put(t, path, tt.data)
			var e events
			j := open(t, path, &e)
			aside, _ := filepath.Glob(path + ".quarantine-*")
			if len(aside) != tt.aside || len(e) != tt.events {
				t.Errorf("aside %v, events %s", aside, e.String())
			}
			add(t, j, life("one")...)
		})
	}
}

// writeForever appends commands, and says of each record that it is durable.
func writeForever(path string) {
	j, err := journal.Open(path, journal.Options{InstanceID: instance, CompactAt: 6 << 10, OnEvent: func(e protocol.Event) {
		if !strings.Contains(e.Msg, "unfinished record") {
			fmt.Println("event", e.Msg)
		}
	}})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	start := len(j.Commands())
	for n := start; ; n++ {
		for i, r := range life(fmt.Sprintf("c%06d", n)) {
			if err := j.Append(r); err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
			fmt.Println("ack", n, i)
		}
	}
}

func TestAppend_SurvivesKill(t *testing.T) {
	path := filepath.Join(fast(t), "journal")
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for round := range rounds {
		acks, lastN, lastI := 25+round*17, -1, -1
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), "JOURNAL_WRITER="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if _, err := fmt.Sscanf(lines.Text(), "ack %d %d", &lastN, &lastI); err != nil {
				t.Fatalf("writer said %q", lines.Text())
			}
			if acks--; acks == 0 {
				_ = cmd.Process.Kill() // and read on: what it said before it died is durable
			}
		}
		_ = cmd.Wait()
		checkPrefix(t, path, lastN, lastI)
	}
}

// checkPrefix holds that everything acknowledged is there and at most one record more.
func checkPrefix(t *testing.T, path string, lastN, lastI int) {
	t.Helper()
	s, err := journal.Read(path)
	if err != nil || s.Damaged {
		t.Fatalf("after kill: damaged %v, %v", s.Damaged, err)
	}
	j := open(t, path, nil)
	defer j.Close()
	commands := j.Commands()
	whole := lastN
	if lastI == 6 {
		whole++
	}
	if n := len(commands); n < lastN+1 || n > lastN+2 {
		t.Fatalf("%d commands, acknowledged up to %d/%d", n, lastN, lastI)
	}
	for i, c := range commands {
		if c.Identity != fmt.Sprintf("c%06d", i) {
			t.Fatalf("command %d is %s", i, c.Identity)
		}
		if i < whole && c.SentAt.IsZero() {
			t.Fatalf("%s was acknowledged as sent and is not: %+v", c.Identity, c)
		}
	}
	// the next round counts from what is there, so end the one that was cut short
	for i := range commands {
		if c := &commands[i]; c.SentAt.IsZero() {
			add(t, j, journal.Record{Type: journal.Sent, Command: c.Identity})
		}
	}
}

func TestCompact_WithoutRoomKeepsTheOldFileInUse(t *testing.T) {
	dir := smallDisk(t)
	path := filepath.Join(dir, "journal")
	j := open(t, path, nil)
	big := raw(`"` + strings.Repeat("x", 30<<10) + `"`)
	add(t, j, journal.Record{Type: journal.Accepted, Command: "one", Payload: big})
	if err := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 12<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := j.Compact(day); !errors.Is(err, unix.ENOSPC) || j.Broken() != nil {
		t.Errorf("compaction without room: %v, broken %v", err, j.Broken())
	}
	if err := j.Append(life("two")[0]); err != nil {
		t.Errorf("append after it: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	_ = j.Close()
	if got := open(t, path, nil).Commands(); len(got) != 2 {
		t.Errorf("%d commands, want 2", len(got))
	}
}

func TestCompact_RefusesAFileThatWentBad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	data, ends := write(t, path, append(life("one"), life("two")...)...)
	j := open(t, path, nil)
	data[ends[3]+20] ^= 1
	put(t, path, data)
	if err := j.Compact(day); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, data) {
		t.Errorf("the damaged file was replaced: %v", err)
	}
}

func TestOpen_LeavesOfInterruptedCompactionAreSwept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal")
	write(t, path, life("one")...)
	put(t, filepath.Join(dir, ".journal.hm-tmp-123"), []byte("half"))
	open(t, path, nil)
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestRead_NeedsNoLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path, nil)
	add(t, j, life("one")...)
	s, err := journal.Read(path)
	if err != nil || s.Instance != instance || s.Format != journal.Format || s.Records != 8 || s.ReadAt.Before(day.Add(-100*24*time.Hour)) {
		t.Fatalf("%+v, %v", s, err)
	}
	if diff := cmp.Diff(j.Commands(), s.Commands); diff != "" {
		t.Error(diff)
	}
	if _, err := journal.Read(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing journal: %v", err)
	}
}

// A file that is removed below a working agent is written anew with the record that found it out.
func TestAppend_WritesARemovedFileAnew(t *testing.T) {
	dir := fast(t)
	path := filepath.Join(dir, "state", "journal")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	var e events
	j := open(t, path, &e)
	add(t, j, life("before")[:3]...)
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	add(t, j, life("before")[3], life("after")[0])
	want := j.Commands()
	read, err := journal.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, read.Commands); diff != "" || len(want) != 2 {
		t.Error(diff)
	}
	if text := fmt.Sprint(e); strings.Count(text, "was removed") != 1 {
		t.Errorf("events: %s", text)
	}
}

// A pipe that somebody laid in the journal's place must not hold whoever opens it.
func TestOpen_APipeInItsPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Read(path); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("read: %v", err)
	}
	if _, err := journal.Open(path, options(nil)); err == nil || !strings.Contains(err.Error(), "no regular file") {
		t.Errorf("open: %v", err)
	}
}
