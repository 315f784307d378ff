package steadystream

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets that grow by a sixteenth of each power of two of microseconds.
type histogram struct {
	buckets [48 * 16]int
	n       int
	max     time.Duration
}

func bucketOf(d time.Duration) int {
	us := uint64(max(d.Microseconds(), 0))
	if us < 16 {
		return int(us)
	}
	exp := bits.Len64(us) - 5 // us>>exp is 16..31
	return min(exp*16+int(us>>exp), 48*16-1)
}

func upperOf(bucket int) time.Duration {
	if bucket < 32 {
		return time.Duration(bucket) * time.Microsecond
	}
	exp := bucket/16 - 1
	return time.Duration(uint64(bucket%16+16)<<exp) * time.Microsecond
}

func (h *histogram) add(d time.Duration) {
	h.buckets[bucketOf(d)]++
	h.n++
	h.max = max(h.max, d)
}

func (h *histogram) latency() Latency {
	return Latency{P50: h.percentile(50), P90: h.percentile(90), P99: h.percentile(99), Max: h.max}
}

func (h *histogram) percentile(p int) time.Duration {
	want := (h.n*p + 99) / 100
	for i, n := range h.buckets {
		if want -= n; want <= 0 {
			return min(upperOf(i), h.max)
		}
	}
	return h.max
}
