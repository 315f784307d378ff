package agent

import (
	"errors"
	"testing"
	"time"

	"hostmanager/agent/config"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
	"hostmanager/protocol"
)

func TestRefusals_TellAFewAMinuteAndThenHowMany(t *testing.T) {
	var r refusals
	at := time.Now()
	count := func(n int, at time.Time) (told int) {
		for range n {
			if ok, _ := r.tell(at); ok {
				told++
			}
		}
		return told
	}
	if told := count(100, at); told != refusalsTold {
		t.Errorf("told %d of 100", told)
	}
	if told := count(5, at.Add(refusalWindow-1)); told != 0 {
		t.Errorf("told %d more in the same minute", told)
	}
	if told, before := r.tell(at.Add(refusalWindow)); !told || before != 75 {
		t.Errorf("in the next minute: %t, %d before", told, before)
	}
	if told, before := r.tell(at); !told || before != 0 { // the clock was set back
		t.Errorf("then: %t, %d before", told, before)
	}
}

func TestAskedBy_SaysNoMoreThanWasProven(t *testing.T) {
	alice, old := signing.FromSeed([32]byte{'a'}), signing.FromSeed([32]byte{'o'})
	trusted := signature.NewKeys(alice.Public("alice"), old.Public(""))
	by := func(id string) protocol.Command { return protocol.Command{Signature: protocol.Signature{KeyID: id}} }
	boot := by(alice.KeyID())
	boot.DispatcherID = bootDispatcher
	for name, tc := range map[string]struct {
		keys signature.Keys
		c    protocol.Command
		want string
	}{
		"a key with a name":         {trusted, by(alice.KeyID()), "alice (" + alice.KeyID() + ")"},
		"a key without":             {trusted, by(old.KeyID()), old.KeyID()},
		"one trusted at acceptance": {trusted, by("0123456789abcdef"), "0123456789abcdef"},
		"the agent itself":          {trusted, boot, "start-up"},
		"nobody known":              {signature.Keys{}, by(alice.KeyID()), "anyone (insecure_unsigned)"},
	} {
		if got := (&infra{trusted: tc.keys}).askedBy(tc.c); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// Without a key that is trusted there is no agent, unless it was told to take anybody's orders: a set that came out empty must not pass for that.
func TestLoadKeys_AnEmptySetIsRefused(t *testing.T) {
	for name, entries := range map[string][]string{"no entry": nil, "a folder without keys": {t.TempDir()}} {
		if keys, err := loadKeys(config.Config{TrustedKeys: entries}); !errors.Is(err, config.ErrInvalid) || !keys.Empty() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if keys, err := loadKeys(config.Config{InsecureUnsigned: true}); err != nil || !keys.Empty() {
		t.Errorf("insecure_unsigned: %v", err)
	}
}
