package shed

import (
	"strings"
	"testing"
)

func TestIdle_ProgramRunsOn(t *testing.T) {
	spans, err := code()
	if err != nil || len(spans) == 0 {
		t.Fatalf("own code: %v, %v", spans, err)
	}
	for range 3 {
		if err := Idle(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Repeat("ab", 1000); len(got) != 2000 {
			t.Error("code went missing")
		}
	}
}

func TestParse_TakesOwnCodeOnly(t *testing.T) {
	for line, want := range map[string]bool{
		"00400000-00a2e000 r-xp 00000000 fe:00 10011705                           /usr/bin/x":   true,
		"00a2e000-010ca000 r--p 0062e000 fe:00 10011705                           /usr/bin/x":   false,
		"00a2e000-010ca000 rwxp 0062e000 fe:00 10011705                           /usr/bin/x":   false,
		"7f0000000000-7f0000010000 r-xp 00000000 fe:00 1                          /lib/libc.so": false,
		"7ffd9b5f0000-7ffd9b5f2000 r-xp 00000000 00:00 0                          [vdso]":       false,
		"zz-00a2e000 r-xp 00000000 fe:00 10011705                                 /usr/bin/x":   false,
		"": false,
	} {
		if _, got := parse(line, "/usr/bin/x"); got != want {
			t.Errorf("%q: %t", line, got)
		}
	}
	if _, ok := parse("00400000-00a2e000 r-xp 00000000 fe:00 1 /a b/x y", "/a b/x y"); !ok {
		t.Error("a path with blanks is not recognised")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("00400000-00a2e000 r-xp 00000000 fe:00 10011705                           /usr/bin/x")
	f.Add("1-0 r-xp 0 0 0 /usr/bin/x")
	f.Fuzz(func(t *testing.T, line string) {
		if s, ok := parse(line, "/usr/bin/x"); ok && s.to <= s.from {
			t.Errorf("%q: %v", line, s)
		}
	})
}
