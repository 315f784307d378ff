package protocol_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
	"hostmanager/protocol"
)

func operator() signing.Key { return signing.FromSeed([32]byte{'o', 'p', 's'}) }

func signed(t interface{ Fatal(...any) }, c protocol.Command) protocol.Command {
	value, err := operator().Sign(context.Background(), c.SigningBytes())
	if err != nil {
		t.Fatal(err)
	}
	c.Signature = protocol.Signature{KeyID: operator().KeyID(), Value: value}
	return c
}

func verify(c protocol.Command) error {
	return signature.NewKeys(operator().Public("")).Verify(c.Signature.KeyID, c.SigningBytes(), c.Signature.Value)
}

func sample() protocol.Command {
	return protocol.Command{
		DispatcherID: "e-1", CommandName: "C", InvocationID: "i-é", Expiration: time.UnixMilli(1500445448123),
		ResultQueue: "https://sqs/1/q", Data: `{"a":"b"}`,
	}
}

// The example that other implementations are held to is held to ours.
func TestSigningBytes_TheDocumentsExampleIsGood(t *testing.T) {
	manual, err := os.ReadFile("../docs/signed-orders.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(manual), "```json\n")
	body, rest, _ := strings.Cut(rest, "\n```")
	public := regexp.MustCompile("`(example:[^`]+)`").FindStringSubmatch(rest)
	if public == nil {
		t.Fatal("the document gives no key")
	}
	key, err := signature.ParseKey(public[1])
	if err != nil {
		t.Fatal(err)
	}
	c, err := protocol.DecodeCommand([]byte(body))
	if err != nil || signature.NewKeys(key).Verify(c.Signature.KeyID, c.SigningBytes(), c.Signature.Value) != nil {
		t.Errorf("%s: %v, %v", body, err, signature.NewKeys(key).Verify(c.Signature.KeyID, c.SigningBytes(), c.Signature.Value))
	}
}

// The bytes as docs/signed-orders.md gives them, so that nobody changes them by chance.
func TestSigningBytes_AreThoseOfTheDocument(t *testing.T) {
	want := "686f73746d616e6167657220636f6d6d616e6420763100" + // hostmanager command v1, NUL
		"0000000000000003" + hex.EncodeToString([]byte("e-1")) +
		"0000000000000001" + hex.EncodeToString([]byte("C")) +
		"0000000000000004" + hex.EncodeToString([]byte("i-é")) +
		"000000000000000d" + hex.EncodeToString([]byte("1500445448123")) +
		"000000000000000f" + hex.EncodeToString([]byte("https://sqs/1/q")) +
		"0000000000000000" +
		"0000000000000009" + hex.EncodeToString([]byte(`{"a":"b"}`))
	if got := hex.EncodeToString(sample().SigningBytes()); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	digest := protocol.Digest([]byte("{}"))
	manifest := "hostmanager manifest v1\x00\x00\x00\x00\x00\x00\x00\x00\x03e-1\x00\x00\x00\x00\x00\x00\x00\x0amanifest_1\x00\x00\x00\x00\x00\x00\x00\x40" + digest
	if got := string(protocol.ManifestSigningBytes("e-1", "manifest_1", []byte("{}"))); got != manifest {
		t.Errorf("manifest: %q", got)
	}
	current := "hostmanager current v1\x00\x00\x00\x00\x00\x00\x00\x00\x03e-1\x00\x00\x00\x00\x00\x00\x00\x07current\x00\x00\x00\x00\x00\x00\x00\x40" + digest
	if got := string(protocol.CurrentSigningBytes("e-1", []byte("{}"))); got != current {
		t.Errorf("current: %q", got)
	}
	keys := signature.NewKeys(operator().Public(""))
	value, err := operator().Sign(t.Context(), sample().SigningBytes())
	if err != nil || keys.Verify(operator().KeyID(), []byte(manifest), value) == nil {
		t.Errorf("a command's signature is good for a manifest: %v", err)
	}
}

func TestSigningBytes_DifferWhereAnythingDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawCommand(t), drawCommand(t)
		if kind := rapid.IntRange(0, 8).Draw(t, "near"); kind > 0 { // in one field alone, or with a field's end moved into the next one
			b = a
			switch fields := []*string{&b.DispatcherID, &b.CommandName, &b.InvocationID, &b.ResultQueue, &b.EventHandle, &b.Data}; {
			case kind <= len(fields):
				*fields[kind-1] += "x"
			case kind == 7:
				b.Expiration, b.ExpirationText = a.Expiration.Add(time.Millisecond), ""
			default:
				b.DispatcherID, b.CommandName = a.DispatcherID+a.CommandName, ""
			}
		}
		if same := cmp.Equal(a, b); same != (string(a.SigningBytes()) == string(b.SigningBytes())) {
			t.Fatalf("%+v\n%+v: same %v", a, b, same)
		}
	})
}

func TestSigned_SurvivesBothFormsAndTheJournal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCommand(t)
		c.ExpirationText = rapid.SampledFrom([]string{"", "1500445448123.0", "1.500445448123e12", " 1500445448123", "+1500445448123"}).Draw(t, "expiration as written")
		if c.ExpirationText != "" {
			c.Expiration = time.UnixMilli(1500445448123)
		}
		c = signed(t, c)
		for _, encode := range []func(protocol.Command) ([]byte, error){protocol.Command.Encode, protocol.Command.EncodeSNS} {
			body, err := encode(c)
			if err != nil {
				t.Fatal(err)
			}
			got, err := protocol.DecodeCommand(body)
			if err != nil || verify(got) != nil {
				t.Fatalf("%s: %v, %v", body, err, verify(got))
			}
			journalled, err := got.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if again, err := protocol.DecodeCommand(journalled); err != nil || verify(again) != nil || !cmp.Equal(again, got) {
				t.Fatalf("%s: %v, %v", journalled, err, verify(again))
			}
		}
	})
}

// Whatever single bit of a signed body is changed: it is malformed, or its signature is not good, or it says the same as before.
func TestSigned_EveryBitOfABody(t *testing.T) {
	c := sample()
	c.EventHandle = "h"
	c = signed(t, c)
	for name, encode := range map[string]func(protocol.Command) ([]byte, error){"bare": protocol.Command.Encode, "SNS": protocol.Command.EncodeSNS} {
		body, err := encode(c)
		if err != nil {
			t.Fatal(err)
		}
		refused := 0
		for bit := range len(body) * 8 {
			body[bit/8] ^= 1 << (bit % 8)
			if got, err := protocol.DecodeCommand(body); err != nil || verify(got) != nil {
				refused++
			} else if string(got.SigningBytes()) != string(c.SigningBytes()) || !got.Expiration.Equal(c.Expiration) || got.Identity() != c.Identity() {
				t.Errorf("%s, bit %d: %s is taken for %+v", name, bit, body, got)
			}
			body[bit/8] ^= 1 << (bit % 8)
		}
		if refused < len(body)*8/2 {
			t.Errorf("%s: only %d of %d are refused", name, refused, len(body)*8)
		}
	}
}

// Readers of JSON do not agree on what these mean, so none of them does.
func TestDecodeCommand_AmbiguousKeysAreMalformed(t *testing.T) {
	body, err := signed(t, sample()).Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(body)
	add := func(member string) string { return strings.TrimSuffix(good, "}") + "," + member + "}" }
	for name, bad := range map[string]string{
		"Data twice":                 add(`"Data":"{}"`),
		"Data before":                `{"Data":"{}",` + good[1:],
		"data":                       add(`"data":"{}"`),
		"DATA before":                `{"DATA":"{}",` + good[1:],
		"only data":                  strings.Replace(good, `"Data"`, `"data"`, 1),
		"resultqueue":                add(`"resultqueue":"https://evil"`),
		"long s":                     add(`"Re\u017fultQueue":"https://evil"`),
		"escaped key":                add(`"\u0044ata":"{}"`),
		"unknown key twice":          add(`"X":1,"X":2`),
		"Signature twice":            add(`"Signature":null`),
		"signature":                  add(`"signature":{"KeyId":"x","Value":""}`),
		"keyid":                      strings.Replace(good, `"KeyId"`, `"keyid"`, 1),
		"KeyId twice":                strings.Replace(good, `"KeyId"`, `"KeyId":"x","KeyId"`, 1),
		"Value twice":                strings.Replace(good, `"Value"`, `"Value":"","Value"`, 1),
		"Signature is a text":        strings.Replace(full("5"), `"Unknown":[1]`, `"Signature":"x"`, 1),
		"Signature has a bad value":  strings.Replace(full("5"), `"Unknown":[1]`, `"Signature":{"KeyId":"a","Value":"?"}`, 1),
		"Signature has another type": strings.Replace(full("5"), `"Unknown":[1]`, `"Signature":{"KeyId":5}`, 1),
	} {
		if bad == good {
			t.Fatalf("%s: nothing was changed", name)
		}
		for form, text := range map[string]string{"bare": bad, "SNS": enveloped(bad)} {
			if c, err := protocol.DecodeCommand([]byte(text)); !errors.Is(err, protocol.ErrMalformed) {
				t.Errorf("%s, %s: %+v, %v", name, form, c, err)
			}
		}
	}
	inner, _ := json.Marshal(good)
	for name, bad := range map[string]string{
		"Message twice":  `{"Message":` + string(inner) + `,"Message":"{}"}`,
		"message":        `{"Message":` + string(inner) + `,"message":"{}"}`,
		"only message":   `{"message":` + string(inner) + `}`,
		"message, bare":  add(`"message":"{}"`),
		"envelope twice": `{"Type":"a","Type":"b","Message":` + string(inner) + `}`,
	} {
		if c, err := protocol.DecodeCommand([]byte(bad)); !errors.Is(err, protocol.ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	// An SNS envelope has a Signature of its own, by SNS; it is none of ours.
	sns := `{"Type":"Notification","MessageId":"1","Signature":"SNS's","SignatureVersion":"1","SigningCertURL":"u","Message":` + string(inner) + `}`
	if c, err := protocol.DecodeCommand([]byte(sns)); err != nil || verify(c) != nil {
		t.Errorf("SNS: %+v, %v", c, err)
	}
}

func TestDecodeRequest_AmbiguousKeysAreBad(t *testing.T) {
	for _, bad := range []string{
		`{"command_name":"A","command_name":"B","request_id":"r"}`,
		`{"command_name":"A","Command_Name":"B","request_id":"r"}`,
		`{"COMMAND_NAME":"A","request_id":"r"}`,
		`{"command_name":"A","request_id":"r","instance_ids":["i-1"],"Instance_IDs":[]}`,
		`{"command_name":"A","request_id":"r","manifest_sha256":"aa","data_sha256":"bb"}`,
	} {
		if r, err := protocol.DecodeRequest(bad); !errors.Is(err, protocol.ErrBadRequest) {
			t.Errorf("%s: %+v, %v", bad, r, err)
		}
	}
	for _, good := range []string{
		`{"command_name":"A","request_id":"r","data_sha256":"AA"}`, // as journals of older agents have it
		`{"command_name":"A","request_id":"r","manifest_sha256":"aa"}`,
		`{"command_name":"A","request_id":"r","manifest_sha256":"aa","data_sha256":"AA"}`,
	} {
		if r, err := protocol.DecodeRequest(good); err != nil || r.DataSHA256 != "aa" {
			t.Errorf("%s: %+v, %v", good, r, err)
		}
	}
}

func TestSignatures_EncodedAreDecoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) protocol.Signature {
			return protocol.Signature{KeyID: anyText(t, "id"), Value: rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "value")}
		}), 1, protocol.MaxSignatures).Draw(t, "list")
		object, err := protocol.EncodeSignatures(list)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := protocol.DecodeSignatures(object); err != nil || !cmp.Equal(got, list) {
			t.Fatalf("%s: %+v, %v", object, got, err)
		}
	})
}

// FuzzDecodeSigned reads the field Signature and the object beside a manifest out of anything.
func FuzzDecodeSigned(f *testing.F) {
	c, err := signed(f, sample()).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c)
	f.Add([]byte(`{"Signatures":[{"KeyId":"a","Value":"AAAA"},{}]}`))
	f.Add([]byte(strings.Replace(full("5"), `"Unknown":[1]`, `"Signature":{"KeyId":"a","Value":"AA=="}`, 1)))
	f.Fuzz(func(t *testing.T, body []byte) {
		if list, err := protocol.DecodeSignatures(body); err == nil && len(list) > protocol.MaxSignatures {
			t.Fatalf("%d signatures", len(list))
		} else if err != nil && !errors.Is(err, protocol.ErrBadSignatures) {
			t.Fatalf("untyped error %v", err)
		}
		got, err := protocol.DecodeCommand(body)
		if err != nil {
			return
		}
		if verify(got) == nil && string(got.SigningBytes()) != string(sample().SigningBytes()) {
			t.Fatalf("%s passes for signed", body)
		}
		again, err := got.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if d, err := protocol.DecodeCommand(again); err != nil || !cmp.Equal(got, d) || string(got.SigningBytes()) != string(d.SigningBytes()) {
			t.Fatalf("%s\nbecame %+v, then %+v, %v", body, got, d, err)
		}
	})
}
