package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"hostmanager/internal/steadystream"
)

// watchRate is how many requests a second somebody sends who uses the application while a case is played.
const watchRate = 100

// watch begins to use the application, on one connection that is kept alive, until the function it returns is called. Every answer must be the old
// version's or the new one's, whatever is killed; what was seen goes into the tally under that name.
func (in *instance) watch(ctx context.Context, name, before, after string) (end func(), err error) {
	either := []string{before, after}
	stream, err := steadystream.Start(ctx, steadystream.Options{
		URL: "http://" + in.listen + "/", Concurrency: 1, Rate: watchRate, PostEvery: -1,
		Check: func(a steadystream.Answer) error {
			if got := strings.TrimSpace(string(a.Body)); !slices.Contains(either, got) {
				return fmt.Errorf("%q is neither the old version's answer nor the new one's", got)
			}
			return nil
		},
	})
	if err != nil {
		return nil, err
	}
	return func() {
		seen := stream.Stop()
		in.tally.count(func(t *tally) { t.asked += seen.Requests })
		if seen.Requests == 0 && ctx.Err() == nil {
			in.tally.violate(&in.tally.wrong, "%s %s: nobody asked the application in the middle of it", in.name, name)
		}
		if seen.Failed > 0 {
			in.tally.violate(&in.tally.wrong, "%s %s: in the middle of it not every request was answered by the old version or the new one: %v", in.name, name, seen)
		}
	}, nil
}
