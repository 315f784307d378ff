package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"

	"hostmanager/journal"
)

// recorded is one record of a journal's file, as it was appended.
type recorded struct {
	Type      journal.Type    `json:"type"`
	Command   string          `json:"command"`
	Step      string          `json:"step"`
	Semantics string          `json:"semantics"`
	Time      time.Time       `json:"time"`
	Payload   json.RawMessage `json:"payload"`
}

func (r recorded) String() string {
	if r.Step == "" {
		return string(r.Type)
	}
	return string(r.Type) + " " + r.Step
}

// The frame of the journal's format 1: length and checksum, 4 bytes each, then the payload; a header of 16 bytes before the first.
const (
	journalHeader = 16
	frameHead     = 8
)

// readRecords reads the records of a journal's file up to its end or to the first that is not whole. package journal folds them; chaos wants to see
// each. No file is no records.
func readRecords(path string) ([]recorded, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []recorded
	for at := journalHeader; at+frameHead <= len(data); {
		size := int(binary.LittleEndian.Uint32(data[at:]))
		from := at + frameHead
		if size < 0 || from+size > len(data) {
			break
		}
		var r recorded
		if json.Unmarshal(data[from:from+size], &r) != nil {
			break
		}
		all = append(all, r)
		at = from + size
	}
	return all, nil
}
