package protocol_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"hostmanager/protocol"
)

func number(n int) *int { return &n }

func TestDecodeRequest_Forms(t *testing.T) {
	base := protocol.Request{APIVersion: "1.0", CommandName: "CMD-AppDeploy", RequestID: "r", Timeout: protocol.DefaultCommandTimeout}
	with := func(change func(*protocol.Request)) protocol.Request {
		r := base
		change(&r)
		return r
	}
	tests := []struct {
		name, extra string
		want        protocol.Request
	}{
		{"the least", "", base},
		{"unknown members", `,"config_set":"x","nested":{"a":[1]}`, base},
		{"nulls", `,"instance_ids":null,"stage_num":null,"is_last_stage":null,"data":null,"command_timeout":null`, base},
		{"stage as number", `,"stage_num":1`, with(func(r *protocol.Request) { r.StageNum = number(1) })},
		{"stage as text", `,"stage_num":"0"`, with(func(r *protocol.Request) { r.StageNum = number(0) })},
		{"stage as empty text", `,"stage_num":""`, base},
		{"last stage", `,"is_last_stage":true`, with(func(r *protocol.Request) { r.IsLastStage = true })},
		{"last stage as text", `,"is_last_stage":"TRUE"`, with(func(r *protocol.Request) { r.IsLastStage = true })},
		{"not the last stage", `,"is_last_stage":"false"`, base},
		{"instances", `,"instance_ids":["i-1","i-2"]`, with(func(r *protocol.Request) { r.InstanceIDs = []string{"i-1", "i-2"} })},
		{"timeout", `,"command_timeout":"30"`, with(func(r *protocol.Request) { r.Timeout = 30 * time.Second })},
		{"a day", `,"command_timeout":86400`, with(func(r *protocol.Request) { r.Timeout = 24 * time.Hour })},
		{"manifest", `,"data":"manifest_1","data_sha256":"ABCD"`, with(func(r *protocol.Request) { r.Data, r.DataSHA256 = "manifest_1", "abcd" })},
		{"the rest", `,"resource_name":"g","stage_name":"s","execution_data":"{}"`, with(func(r *protocol.Request) { r.ResourceName, r.StageName, r.ExecutionData = "g", "s", "{}" })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := protocol.DecodeRequest(`{"api_version":"1.0","command_name":"CMD-AppDeploy","request_id":"r"` + tt.extra + `}`)
			if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
	if got, err := protocol.DecodeRequest(`{"command_name":"CMD-AppDeploy","request_id":"r"}`); err != nil || !cmp.Equal(base, got) {
		t.Errorf("without a version: %+v, %v", got, err)
	}
}

func TestDecodeRequest_Bad(t *testing.T) {
	tests := map[string]string{
		"":     "CMD_DATA not provided",
		"x":    "undecodable",
		"null": "Missing command name",
		`{"api_version":"2.0","command_name":"c","request_id":"r"}`: "Not supported command API version",
		`{"request_id":"r"}`:   "Missing command name",
		`{"command_name":"c"}`: "Missing request ID",
		`{"command_name":"c","request_id":"r","stage_num":-1}`:                                                                   "stage_num",
		`{"command_name":"c","request_id":"r","stage_num":100}`:                                                                  "stage_num",
		`{"command_name":"c","request_id":"r","stage_num":1.5}`:                                                                  "no whole number",
		`{"command_name":"c","request_id":"r","stage_num":true}`:                                                                 "no whole number",
		`{"command_name":"c","request_id":"r","is_last_stage":"maybe"}`:                                                          "neither true nor false",
		`{"command_name":"c","request_id":"r","command_timeout":0}`:                                                              "command_timeout",
		`{"command_name":"c","request_id":"r","command_timeout":-5}`:                                                             "command_timeout",
		`{"command_name":"c","request_id":"r","command_timeout":86401}`:                                                          "command_timeout",
		`{"command_name":"c","request_id":"r","command_timeout":9223372036854775807}`:                                            "command_timeout",
		`{"command_name":"c","request_id":"r","command_timeout":99999999999999999999}`:                                           "no whole number",
		`{"command_name":"c","request_id":"r","instance_ids":"i-1"}`:                                                             "undecodable",
		`{"command_name":"c","request_id":"r"} trailing`:                                                                         "undecodable",
		`{"api_version":"` + strings.Repeat("v", 5000) + `","command_name":"c","request_id":"r"}`:                                "Not supported",
		`{"command_name":"c","request_id":"r","stage_num":{"deep":` + strings.Repeat("[", 1e5) + strings.Repeat("]", 1e5) + `}}`: "undecodable",
	}
	for data, want := range tests {
		_, err := protocol.DecodeRequest(data)
		if !errors.Is(err, protocol.ErrBadRequest) || !strings.Contains(err.Error(), want) || len(err.Error()) > 400 {
			t.Errorf("%.80s: %.400v, want %q", data, err, want)
		}
	}
}

func TestRequest_EncodedIsDecoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := protocol.Request{
			APIVersion: "1.0", CommandName: someText(t, "name"), RequestID: someText(t, "id"),
			InstanceIDs: rapid.SliceOfN(rapid.String(), 0, 3).Draw(t, "instances"), IsLastStage: rapid.Bool().Draw(t, "last"),
			StageName: anyText(t, "stage"), ResourceName: anyText(t, "resource"), Data: anyText(t, "data"),
			DataSHA256: rapid.StringMatching("[0-9a-f]{0,64}").Draw(t, "digest"), ExecutionData: anyText(t, "execution"),
			Timeout: time.Duration(rapid.Int64Range(1, int64(protocol.MaxCommandTimeout)).Draw(t, "timeout")),
		}
		if len(want.InstanceIDs) == 0 {
			want.InstanceIDs = nil
		}
		if n := rapid.IntRange(-1, 99).Draw(t, "stage"); n >= 0 {
			want.StageNum = &n
		}
		data, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		want.Timeout = (want.Timeout + time.Second - 1).Truncate(time.Second)
		got, err := protocol.DecodeRequest(data)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("%s: %v\n%s", data, err, diff)
		}
	})
}

func TestRequest_AppliesTo(t *testing.T) {
	for _, tt := range []struct {
		ids  []string
		want bool
	}{{nil, true}, {[]string{}, true}, {[]string{"i-1"}, true}, {[]string{"i-2", "i-1"}, true}, {[]string{"i-2"}, false}, {[]string{""}, false}} {
		if got := (protocol.Request{InstanceIDs: tt.ids}).AppliesTo("i-1"); got != tt.want {
			t.Errorf("%q: %v", tt.ids, got)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add(`{"api_version":"1.0","command_name":"CMD-AppDeploy","request_id":"r","stage_num":"1","command_timeout":5}`)
	f.Add(`{"command_name":"c","request_id":"r","is_last_stage":"\"true\""}`)
	f.Fuzz(func(t *testing.T, data string) {
		r, err := protocol.DecodeRequest(data)
		if err != nil {
			if !errors.Is(err, protocol.ErrBadRequest) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if r.Timeout < time.Second || r.Timeout > protocol.MaxCommandTimeout {
			t.Fatalf("timeout %v", r.Timeout)
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if d, err := protocol.DecodeRequest(again); err != nil || d.CommandName != r.CommandName || d.Timeout != r.Timeout || !cmp.Equal(d.StageNum, r.StageNum) {
			t.Fatalf("%s became %+v, then %+v, %v", data, r, d, err)
		}
	})
}
