package agent

import (
	"testing"
	"time"
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
