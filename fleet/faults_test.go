package fleet_test

import (
	"slices"
	"strings"
	"testing"

	"hostmanager/aws/localaws"
	"hostmanager/environment"
	"hostmanager/fleet"
)

// TestDeploy_SurvivesFaultsOfAWS lets every operation fail once in each way: refused, and carried out with the answer cut off. Results come twice.
func TestDeploy_SurvivesFaultsOfAWS(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault localaws.Fault
	}{
		{"5xx", localaws.Fault{Status: 503}},
		{"cut off before", localaws.Fault{HangUp: localaws.HangUpRequest}},
		{"cut off after", localaws.Fault{HangUp: localaws.HangUpResponse}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			instances := []*instance{w.instance("i-a", dockerLike("aaaaaaaaaaaa")), w.instance("i-b", dockerLike("bbbbbbbbbbbb"))}
			inject(t, w, localaws.Fault{Op: "SQS.ReceiveMessage", Duplicate: true})
			for _, op := range []string{
				"SQS.CreateQueue", "SQS.SendMessage", "SQS.DeleteMessage", "SQS.GetQueueUrl", "SQS.DeleteQueue", "SQS.ListQueues",
				"S3.PutObject", "S3.GetObject", "S3.HeadObject", "S3.ListObjectsV2",
			} {
				f := c.fault
				f.Op, f.Times = op, 1
				inject(t, w, f)
			}
			f, out := w.fleet()
			if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); err != nil {
				t.Fatalf("%v\n%s", err, strings.Join(out.texts(), "\n"))
			}
			completed := slices.DeleteFunc(out.texts(), func(s string) bool { return !strings.Contains(s, "Command execution completed") })
			if len(completed) != 2 {
				t.Errorf("completed lines: %v", completed)
			}
			out.mustNotHave(t, "ERROR")
			for _, i := range instances {
				if got := i.ran(); !slices.Equal(got, []int{0, 1}) {
					t.Errorf("%s ran %v", i.ID, got)
				}
			}
			checkEnd(t, w, environment.Succeeded)
		})
	}
}

func inject(t *testing.T, w *world, f localaws.Fault) {
	t.Helper()
	if _, err := w.aws.Inject(f); err != nil {
		t.Fatal(err)
	}
}
