package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hostmanager/internal/dockertest"
)

// binaries are built once for all tests; TestMain removes them.
type binaries struct {
	once sync.Once
	built
	err error
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hostmanager-chaos-test-")
	if err == nil {
		err = errors.Join(useLocalCredentials(), os.Setenv("CHAOS_TEST_BINARIES", dir))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

var shared binaries

// testSite is a site with the binaries of the working tree.
func testSite(t *testing.T) *site {
	t.Helper()
	dockertest.Require(t)
	shared.once.Do(func() { shared.built, shared.err = buildAll(t.Context(), os.Getenv("CHAOS_TEST_BINARIES")) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	seed := uint64(1) // the same plan each time: looking for new ones is what make chaos is for
	if s, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d (SEED=%d repeats the plan)", seed, seed)
	at := &site{settings: settings{seed: seed, workers: 2, verbose: testing.Verbose(), out: t.Output()}, built: shared.built, dir: t.TempDir(), tally: newTally()}
	t.Cleanup(func() { at.tally.print(t.Output()) })
	return at
}

// holds fails the test where anything was broken.
func (at *site) holds(t *testing.T) {
	t.Helper()
	if !t.Failed() { // else it is no wonder
		at.tally.judge()
	}
	if at.tally.broken() {
		t.Error("an invariant was broken")
	}
}

// TestShort_AFewBoundaries is, with the tests below, the short form of make chaos: a few boundaries, a few random moments.
func TestShort_AFewBoundaries(t *testing.T) {
	at := testSite(t)
	all, err := openAll(t.Context(), at, at.built.striking, nil)
	defer func() {
		if err := closeAll(context.WithoutCancel(t.Context()), all); err != nil {
			t.Error(err)
		}
		at.holds(t)
	}()
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(at.seed, 5))
	var trials []trial
	for _, kind := range kinds() {
		records, _, err := all[0].clean(t.Context(), kind)
		if err != nil {
			t.Fatal(err)
		}
		cases := boundaries(kind, records)
		r.Shuffle(len(cases), func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
		trials = append(trials, cases[:3]...)
	}
	if err := crew(t.Context(), at, all, trials); err != nil {
		t.Error(err)
	}
}

func TestShort_AFewRandomMoments(t *testing.T) {
	at := testSite(t)
	at.kills = 10
	if err := playRandom(t.Context(), at); err != nil {
		t.Error(err)
	}
	at.holds(t)
}

func TestShort_AFirstStartUp(t *testing.T) {
	at := testSite(t)
	at.kills = 1
	if err := playFresh(t.Context(), at); err != nil {
		t.Error(err)
	}
	at.holds(t)
}

func TestShort_AKilledOperator(t *testing.T) {
	at := testSite(t)
	at.kills = 40
	if err := playOperator(t.Context(), at); err != nil {
		t.Error(err)
	}
	at.holds(t)
}

// TestPlanted holds that chaos finds the bugs it is there for.
func TestPlanted(t *testing.T) {
	for _, bug := range plantedBugs() {
		t.Run(strings.ReplaceAll(bug.name, " ", "-"), func(t *testing.T) {
			at := testSite(t)
			if err := bug.play(t.Context(), at); err != nil {
				t.Fatal(err)
			}
			at.found(t, bug.shows)
		})
	}
}

// TestPlanted_FailedResume holds that an hmctl which takes a deployment over and does not finish it is found.
func TestPlanted_FailedResume(t *testing.T) {
	at := testSite(t)
	at.built.hmctl = filepath.Join(at.dir, "planted", "hmctl")
	if err := plant(t.Context(), at.built.module, at.built.hmctl, operatorPackage, failedResume()); err != nil {
		t.Fatal(err)
	}
	in, err := open(t.Context(), at, at.built.hostmanager, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := in.close(); err != nil {
			t.Error(err)
		}
	}()
	if !in.registered(t.Context()) {
		t.Fatal("the instance did not register")
	}
	clean := &operation{instance: in, label: "o-0"}
	if err := clean.deploy(t.Context(), time.Hour, 0); err != nil {
		t.Fatal(err)
	}
	if at.tally.broken() {
		t.Fatal("with nobody killed an invariant was broken")
	}
	for n := 1; n <= 5 && !at.tally.broken(); n++ { // a kill may fall before there is a record, or behind its end
		o := &operation{instance: in, label: fmt.Sprintf("o-%d", n), bare: true}
		if err := o.deploy(t.Context(), clean.took/2, 0); err != nil {
			t.Fatal(err)
		}
	}
	at.found(t, "although no hook that may run once was under way")
}

// found fails the test where no violation says what the bug must show.
func (at *site) found(t *testing.T, what string) {
	t.Helper()
	if !slices.ContainsFunc(at.tally.violations, func(v string) bool { return strings.Contains(v, what) }) {
		t.Errorf("the planted bug was not found: no violation says %q", what)
		return
	}
	if len(at.tally.missed) > 0 {
		t.Errorf("the planted bug was found, but not by its strike: %v", at.tally.missed)
	}
	t.Logf("found, as it must be: %d violations", len(at.tally.violations))
	at.tally.violations = nil
}

// play builds the bug in and plays its case.
func (b plantedBug) play(ctx context.Context, at *site) (err error) {
	binary := filepath.Join(at.dir, "planted", "hostmanager")
	if err := plant(ctx, at.built.module, binary, agentPackage, append(strikes(), b.changes...)); err != nil {
		return err
	}
	in, err := open(ctx, at, binary, nil)
	if err != nil {
		return err
	}
	defer func() { in.judgeAll(ctx); err = errors.Join(err, in.close()) }()
	t := trial{name: b.name, kind: b.kind, twice: b.twice}
	if b.place != "" {
		records, _, err := in.clean(ctx, b.kind)
		if err != nil {
			return err
		}
		n := slices.IndexFunc(records, func(r recorded) bool { return r.String() == b.record })
		if n < 0 {
			return fmt.Errorf("a clean %s writes no record %q", b.kind, b.record)
		}
		t.kills = []kill{{strike: &strike{Nth: n + 1, Place: b.place}}}
	}
	return in.play(ctx, t)
}

// TestPlant_SaysWhenTheSourceHasMovedOn holds that a plant never goes missing silently.
func TestPlant_SaysWhenTheSourceHasMovedOn(t *testing.T) {
	module, err := moduleFolder()
	if err != nil {
		t.Fatal(err)
	}
	for _, old := range []string{"this text stands nowhere in it", "return err"} {
		err := plant(t.Context(), module, filepath.Join(t.TempDir(), "x"), agentPackage, []change{{File: "journal/journal.go", Old: old, New: "x"}})
		if !errors.Is(err, errNotOnce) {
			t.Errorf("replace %q: %v, want %v", old, err, errNotOnce)
		}
	}
}

// TestMoments_FollowTheSeed holds that a seed repeats the plan.
func TestMoments_FollowTheSeed(t *testing.T) {
	plan := func(seed uint64) string { return fmt.Sprint(moments(seed, 50, nil)) }
	if one, again := plan(3), plan(3); one != again {
		t.Error("one seed made two plans")
	}
	if plan(3) == plan(4) {
		t.Error("two seeds made one plan")
	}
	if n := len(moments(3, 50, nil)); n > 50 || n < 20 {
		t.Errorf("50 kills in %d trials", n)
	}
}

// TestTally_WhatWasNotKilledShowsNothing holds that a part does not pass which did not do what was planned.
func TestTally_WhatWasNotKilledShowsNothing(t *testing.T) {
	for what, s := range map[string]*tally{
		"nothing was killed":                 {},
		"a restart: the strike did not fall": {kills: 4, missed: []string{"a restart"}},
	} {
		if s.judge(); !slices.Contains(s.violations, what) {
			t.Errorf("violations %q, want %q", s.violations, what)
		}
	}
	killed := &tally{others: 1}
	if killed.judge(); killed.broken() {
		t.Errorf("violations %q", killed.violations)
	}
}

func TestTally_ShowsTheWorst(t *testing.T) {
	var out strings.Builder
	s := newTally()
	s.violate(&s.lost, "a command is lost")
	s.print(&out)
	if !s.broken() || !strings.Contains(out.String(), "lost 1") || !strings.Contains(out.String(), "BROKEN: a command is lost") {
		t.Errorf("%s", out.String())
	}
}
