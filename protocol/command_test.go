package protocol_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"hostmanager/protocol"
)

// full is a message with every field, Expiration as given.
func full(expiration string) string {
	return `{"DispatcherId":"arn:d","CommandName":"ElasticBeanstalkCommand-AWSEBAutoScalingGroup","InvocationId":"inv-1","Expiration":` + expiration +
		`,"ResultQueue":"https://sqs/1/q","EventHandle":"h","Data":"{\"a\":1}","Unknown":[1]}`
}

// enveloped puts a message into an SNS notification.
func enveloped(body string) string {
	inner, _ := json.Marshal(body)
	return `{"Type":"Notification","TopicArn":"arn:t","Message":` + string(inner) + `}`
}

func TestDecodeCommand_BareAndEnveloped(t *testing.T) {
	at := time.UnixMilli(1500445448123)
	for expiration, text := range map[string]string{
		"1500445448123": "", `"1500445448123"`: "", `" 1500445448123 "`: " 1500445448123 ", "1500445448123.0": "1500445448123.0",
		"1.500445448123e12": "1.500445448123e12", `"1500445448123.4"`: "1500445448123.4",
	} {
		for name, body := range map[string]string{"bare": full(expiration), "SNS": enveloped(full(expiration))} {
			got, err := protocol.DecodeCommand([]byte(body))
			want := protocol.Command{
				DispatcherID: "arn:d", CommandName: "ElasticBeanstalkCommand-AWSEBAutoScalingGroup", InvocationID: "inv-1",
				Expiration: at, ResultQueue: "https://sqs/1/q", EventHandle: "h", Data: `{"a":1}`, ExpirationText: text,
			}
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%s, Expiration %s: %v\n%s", name, expiration, err, diff)
			}
		}
	}
}

func TestDecodeCommand_Malformed(t *testing.T) {
	without := func(field string) string {
		var m map[string]any
		if err := json.Unmarshal([]byte(full("5")), &m); err != nil {
			t.Fatal(err)
		}
		delete(m, field)
		b, _ := json.Marshal(m)
		return string(b)
	}
	bodies := map[string]string{
		"empty": "", "null": "null", "no JSON": "hello", "list": "[1]", "string": `"x"`, "number": "5", "cut off": full("5")[:40],
		"trailing rubbish":     full("5") + "x",
		"envelope, no object":  enveloped("hello"),
		"envelope, empty":      enveloped(""),
		"envelope in envelope": enveloped(enveloped(full("5"))),
		"Message is an object": `{"Message":{"DispatcherId":"x"}}`,
		"Data is an object":    strings.Replace(full("5"), `"Data":"{\"a\":1}"`, `"Data":{"a":1}`, 1),
		"no DispatcherId":      without("DispatcherId"), "no CommandName": without("CommandName"), "no InvocationId": without("InvocationId"),
		"no Expiration": without("Expiration"), "no ResultQueue": without("ResultQueue"),
		"empty DispatcherId": strings.Replace(full("5"), "arn:d", "", 1),
	}
	for _, bad := range []string{"null", `""`, `"soon"`, "-1", "1e30", `"NaN"`, `"Inf"`, "true", "[]", "{}", "9223372036854775808"} {
		bodies["Expiration "+bad] = full(bad)
	}
	for name, body := range bodies {
		for form, text := range map[string]string{"bare": body, "SNS": enveloped(body)} {
			if name == "envelope in envelope" && form == "SNS" {
				continue
			}
			if c, err := protocol.DecodeCommand([]byte(text)); !errors.Is(err, protocol.ErrMalformed) {
				t.Errorf("%s, %s: %+v, %v", name, form, c, err)
			}
		}
	}
}

func TestCommand_Identity(t *testing.T) {
	c := protocol.Command{DispatcherID: "d", CommandName: "c", InvocationID: "i"}
	tests := map[string]string{
		"": "d|c|i", "no JSON": "d|c|i", `{"api_version":"1.0","command_name":"CMD-X","request_id":"r"}`: "d|c|i",
		`{"api_version":"1.0","command_name":"CMD-X","request_id":"r","stage_num":0}`:     "d|c|i|stage0",
		`{"api_version":"1.0","command_name":"CMD-X","request_id":"r","stage_num":"1"}`:   "d|c|i|stage1",
		`{"api_version":"1.0","command_name":"CMD-X","request_id":"r","stage_num":null}`:  "d|c|i",
		`{"api_version":"1.0","command_name":"CMD-X","request_id":"r","stage_num":"one"}`: "d|c|i",
	}
	for data, want := range tests {
		c.Data = data
		if got := c.Identity(); got != want {
			t.Errorf("%s: %s, want %s", data, got, want)
		}
	}
}

func TestCommand_Expired(t *testing.T) {
	at := time.UnixMilli(1000)
	c := protocol.Command{Expiration: at}
	if c.Expired(at) || c.Expired(at.Add(-time.Second)) || !c.Expired(at.Add(time.Millisecond)) {
		t.Error("a command expires after its time, not before or at it")
	}
}

// anyText is text as JSON can carry it.
func anyText(t *rapid.T, name string) string { return rapid.String().Draw(t, name) }

func someText(t *rapid.T, name string) string { return rapid.StringN(1, 20, -1).Draw(t, name) }

func drawCommand(t *rapid.T) protocol.Command {
	return protocol.Command{
		DispatcherID: someText(t, "dispatcher"), CommandName: someText(t, "command"), InvocationID: someText(t, "invocation"),
		Expiration: time.UnixMilli(rapid.Int64Range(0, 9223372036854).Draw(t, "expiration")), ResultQueue: someText(t, "queue"),
		EventHandle: anyText(t, "handle"), Data: anyText(t, "data"),
	}
}

func TestCommand_EncodedIsDecoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawCommand(t)
		bare, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		sns, err := want.EncodeSNS()
		if err != nil {
			t.Fatal(err)
		}
		for _, body := range [][]byte{bare, sns} {
			got, err := protocol.DecodeCommand(body)
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Fatalf("%s: %v\n%s", body, err, diff)
			}
		}
	})
}

func FuzzDecodeCommand(f *testing.F) {
	f.Add([]byte(full("5")))
	f.Add([]byte(enveloped(full(`"5"`))))
	f.Add([]byte(`{"Message":null,"message":"{}"}`))
	f.Add([]byte(full(`"0x1p-2"`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := protocol.DecodeCommand(body)
		if err != nil {
			if !errors.Is(err, protocol.ErrMalformed) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		_, _ = c.Identity(), c.Expired(time.Now())
		again, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		d, err := protocol.DecodeCommand(again)
		if err != nil || !cmp.Equal(c, d) {
			t.Fatalf("%s\nbecame %+v, then %+v, %v", body, c, d, err)
		}
	})
}
