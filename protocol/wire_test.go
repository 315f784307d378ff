package protocol_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"hostmanager/protocol"
)

func TestSeverity_OrderAndWords(t *testing.T) {
	order := []protocol.Severity{protocol.System, protocol.Trace, protocol.Debug, protocol.Info, protocol.Warn, protocol.Error, protocol.Fatal}
	for i, s := range order {
		if s.Rank() != i {
			t.Errorf("%s has rank %d, want %d", s, s.Rank(), i)
		}
		for _, word := range []string{string(s), strings.ToLower(string(s)), " " + string(s) + "\n"} {
			if got, err := protocol.ParseSeverity(word); got != s || err != nil {
				t.Errorf("%q is %s, %v", word, got, err)
			}
		}
	}
	if got, err := protocol.ParseSeverity(""); got != protocol.Info || err != nil {
		t.Errorf("the empty one is %s, %v", got, err)
	}
	if _, err := protocol.ParseSeverity("LOUD"); err == nil || protocol.Severity("LOUD").Rank() != -1 {
		t.Error("an unknown word passed")
	}
}

func TestEventTime_Units(t *testing.T) {
	tests := []struct {
		in   float64
		want time.Time
	}{
		{1500445448, time.Unix(1500445448, 0)},
		{1500445448.123, time.UnixMilli(1500445448123)},
		{1585323914015, time.UnixMilli(1585323914015)},
		{99999999999, time.Unix(99999999999, 0)},
		{100000000000, time.UnixMilli(100000000000)},
		{1, time.Unix(1, 0)},
		{0, time.Time{}},
		{-5, time.Time{}},
		{1e30, time.Time{}},
		{math.NaN(), time.Time{}},
		{math.Inf(1), time.Time{}},
		{math.Inf(-1), time.Time{}},
	}
	for _, tt := range tests {
		if got := protocol.EventTime(tt.in); !got.Equal(tt.want) {
			t.Errorf("%v is %v, want %v", tt.in, got, tt.want)
		}
	}
}

func TestEvent_EncodedIsDecoded(t *testing.T) {
	severities := []protocol.Severity{protocol.System, protocol.Trace, protocol.Debug, protocol.Info, protocol.Warn, protocol.Error, protocol.Fatal}
	rapid.Check(t, func(t *rapid.T) {
		want := protocol.Event{
			Msg: anyText(t, "msg"), Severity: rapid.SampledFrom(severities).Draw(t, "severity"),
			Time: time.UnixMilli(rapid.Int64Range(1e11, 4e12).Draw(t, "time")),
		}
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got protocol.Event
		if err := json.Unmarshal(b, &got); err != nil || !cmp.Equal(want, got) {
			t.Fatalf("%s: %+v, %v", b, got, err)
		}
	})
	b, err := json.Marshal(protocol.Event{Msg: "m", Severity: protocol.Info})
	var got protocol.Event
	if err != nil || json.Unmarshal(b, &got) != nil || !got.Time.IsZero() {
		t.Errorf("without a time: %s, %v, %+v", b, err, got)
	}
}

func TestDecodeResult_Forms(t *testing.T) {
	const head = `{"DispatcherId":"d","InvocationId":"i","CommandName":"c","ListenerId":"i-1","ResultId":"x",`
	tests := []struct {
		name, body string
		bad        bool
		inner      protocol.Status
	}{
		{"processed", head + `"Status":"SUCCESS","Data":"{\"status\":\"FAILURE\",\"api_version\":\"1.0\",\"results\":[{\"status\":\"FAILURE\",\"msg\":\"m\",\"returncode\":3,\"events\":[{\"msg\":\"e\",\"severity\":\"warn\",\"timestamp\":1500445448}]}]}"}`, false, protocol.Failure},
		{"not processed", head + `"Status":"FAILURE","Message":"why"}`, false, ""},
		{"no status", head + `"Data":"{}"}`, true, ""},
		{"other status", head + `"Status":"DONE"}`, true, ""},
		{"no listener", `{"InvocationId":"i","Status":"SUCCESS"}`, true, ""},
		{"Data is no JSON", head + `"Status":"SUCCESS","Data":"x"}`, true, ""},
		{"no JSON", "x", true, ""},
		{"null", "null", true, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, inner, err := protocol.DecodeResult([]byte(tt.body))
			if tt.bad {
				if !errors.Is(err, protocol.ErrBadResult) {
					t.Errorf("%+v, %v", r, err)
				}
				return
			}
			if err != nil || inner.Entry().Status != tt.inner || r.ListenerID != "i-1" {
				t.Errorf("%+v, %+v, %v", r, inner, err)
			}
		})
	}
	var none *protocol.Response
	if e := none.Entry(); e.Status != "" {
		t.Errorf("the entry of nothing is %+v", e)
	}
}

func TestResponse_EncodedIsDecoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stage := rapid.IntRange(0, 9).Draw(t, "stage")
		want := protocol.NewResponse(protocol.ResponseEntry{
			Status: protocol.Failure, Msg: anyText(t, "msg"), ReturnCode: rapid.IntRange(0, 255).Draw(t, "code"),
			DeploymentID: rapid.Int64Range(0, 1e12).Draw(t, "id"), VersionLabel: anyText(t, "label"), StageNum: &stage,
			Location: &protocol.Location{Bucket: anyText(t, "bucket"), Key: "k", SHA256: "s", Size: 5},
		})
		data, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(protocol.Result{ListenerID: "i-1", InvocationID: "i", Status: protocol.Success, Data: data, ResultID: "r"})
		if err != nil {
			t.Fatal(err)
		}
		_, got, err := protocol.DecodeResult(body)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("%v\n%s", err, diff)
		}
		if !strings.Contains(data, `"events":[]`) {
			t.Fatalf("no list of events in %s", data)
		}
	})
}

const digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// manifest is a good one with one thing replaced.
func manifest(old, new string) string {
	return strings.Replace(`{"RuntimeSources":{"app":{"v1":{"Bucket":"b","Key":"k","SHA256":"`+digest+`","Size":5}}},"VersionLabel":"v1","DeploymentId":7,"Serial":9}`, old, new, 1)
}

func TestDecodeManifest_Checks(t *testing.T) {
	bad := map[string]string{
		"no JSON": "x", "null": "null", "list": "[]", "empty": "{}",
		"no label":          manifest(`"VersionLabel":"v1"`, `"VersionLabel":""`),
		"label not listed":  manifest(`"VersionLabel":"v1"`, `"VersionLabel":"v2"`),
		"label twice":       manifest(`{"app":`, `{"other":{"v1":{}},"app":`),
		"serial zero":       manifest(`"Serial":9`, `"Serial":0`),
		"serial negative":   manifest(`"Serial":9`, `"Serial":-1`),
		"serial too large":  manifest(`"Serial":9`, `"Serial":99999999999999999999`),
		"no deployment":     manifest(`"DeploymentId":7`, `"DeploymentId":0`),
		"no bucket":         manifest(`"Bucket":"b"`, `"Bucket":""`),
		"no key":            manifest(`"Key":"k"`, `"Key":""`),
		"short digest":      manifest(digest, digest[1:]),
		"digest no hex":     manifest(digest, "g"+digest[1:]),
		"digest and a line": manifest(digest, digest+`\n`),
		"size zero":         manifest(`"Size":5`, `"Size":0`),
		"options no text":   manifest(`"Serial":9`, `"Serial":9,"OptionSettings":{"ns":{"o":5}}`),
	}
	for name, data := range bad {
		if m, err := protocol.DecodeManifest([]byte(data)); !errors.Is(err, protocol.ErrBadManifest) {
			t.Errorf("%s: %+v, %v", name, m, err)
		}
	}
	m, err := protocol.DecodeManifest([]byte(manifest(digest, strings.ToUpper(digest))))
	if err != nil {
		t.Fatal(err)
	}
	app, src, err := m.Source()
	if err != nil || app != "app" || src.SHA256 != digest || src.Size != 5 {
		t.Errorf("%s %+v, %v", app, src, err)
	}
	if protocol.Digest([]byte("test")) != digest {
		t.Error("digest differs from sha256sum's")
	}
}

func TestManifest_EncodedIsDecoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		label := someText(t, "label")
		want := protocol.Manifest{
			RuntimeSources: map[string]map[string]protocol.RuntimeSource{anyText(t, "app"): {label: {
				Bucket: someText(t, "bucket"), Key: someText(t, "key"), VersionID: anyText(t, "version"), SHA256: digest, Size: rapid.Int64Range(1, math.MaxInt64).Draw(t, "size"),
			}}},
			VersionLabel: label, DeploymentID: rapid.Int64Range(1, math.MaxInt64).Draw(t, "id"), Serial: rapid.Int64Range(1, math.MaxInt64).Draw(t, "serial"),
			OptionSettings: protocol.OptionSettings{"ns": {someText(t, "option"): anyText(t, "value")}},
		}
		data, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := protocol.DecodeManifest(data)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("%v\n%s", err, diff)
		}
	})
}

func FuzzDecodeManifest(f *testing.F) {
	f.Add([]byte(manifest("", "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := protocol.DecodeManifest(data)
		if err != nil {
			if !errors.Is(err, protocol.ErrBadManifest) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if _, src, err := m.Source(); err != nil || src.Size <= 0 || len(src.SHA256) != 64 {
			t.Fatalf("%+v, %v", src, err)
		}
	})
}

func FuzzDecodeResult(f *testing.F) {
	f.Add([]byte(`{"ListenerId":"l","InvocationId":"i","Status":"SUCCESS","Data":"{\"results\":[{\"events\":[{\"timestamp\":1}]}]}"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, inner, err := protocol.DecodeResult(body)
		if err != nil && !errors.Is(err, protocol.ErrBadResult) {
			t.Fatalf("untyped error %v", err)
		}
		_ = inner.Entry()
	})
}

func TestNames_OfKeysAndQueues(t *testing.T) {
	at := time.UnixMilli(1500445448123)
	for got, want := range map[string]string{
		protocol.CommandQueue("e-1", "i-2"):       "hostmanager-e-1-cmd-i-2",
		protocol.ResultQueue("e-1", "r"):          "hostmanager-e-1-res-r",
		protocol.ManifestName(at):                 "manifest_1500445448123",
		protocol.ManifestKey("e-1", "manifest_1"): "resources/environments/e-1/_runtime/versions/manifest_1",
		protocol.CurrentKey("e-1"):                "resources/environments/e-1/_runtime/versions/current",
		protocol.SerialKey("e-1"):                 "resources/environments/e-1/_runtime/versions/serial",
		protocol.LockKey("e-1"):                   "resources/environments/e-1/_runtime/lock",
		protocol.DeploymentKey("e-1", 7):          "resources/environments/e-1/_runtime/deployments/7.json",
		protocol.InstanceKey("e-1", "i-2"):        "resources/environments/e-1/_runtime/instances/i-2.json",
		protocol.SpillKey("e-1", "x"):             "resources/environments/e-1/_runtime/results/x.json",
		protocol.BundleKey("e-1", "app", "v 1"):   "resources/environments/e-1/_runtime/_versions/app/v 1",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for name, want := range map[string]bool{
		"manifest_1500445448123": true, "manifest_a-B_3": true, "manifest_": false, "manifest_1/../../x": false, "manifest_1\n": false, "xmanifest_1": false,
		"manifest_" + strings.Repeat("1", 101): false, "": false, "current": false, "manifest_1.sig": false,
	} {
		if protocol.ValidManifestName(name) != want {
			t.Errorf("manifest name %q: %v", name, !want)
		}
	}
	const request = "0b0d6a4e-7c1f-4e52-9d3a-5f6071829304"
	for name, want := range map[string]bool{
		protocol.ResultQueue("shop", request): true, protocol.ResultQueue("shop", "r"): false, protocol.ResultQueue("shop", request+"x"): false, protocol.ResultQueue("shop", ""): false,
		protocol.ResultQueue("shop-res-eu", request): false, protocol.CommandQueue("shop-res-eu", "i-1"): false, protocol.CommandQueue("shop-res-eu", request): false,
		protocol.CommandQueue("shop", "i-1"): false, request: false,
	} {
		if protocol.IsResultQueue("shop", name) != want {
			t.Errorf("result queue %q: %v", name, !want)
		}
	}
	for id, want := range map[string]bool{
		"e-abcdefghij": true, "i-0a1b2c": true, "A": true, "": false, "-x": false, "_x": false, "a/b": false, "..": false, "a b": false, "a\n": false, "é": false, strings.Repeat("a", 64): true, strings.Repeat("a", 65): false,
	} {
		if protocol.ValidID(id) != want {
			t.Errorf("id %q: %v", id, !want)
		}
	}
}
