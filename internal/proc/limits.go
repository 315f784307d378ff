package proc

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hostmanager/internal/proc/cgroup"
)

// Limits of what a process and all it starts may use together. 0 is none.
type Limits = cgroup.Limits

// ErrLimit marks a limit that cannot be read. The text says what is allowed.
var ErrLimit = errors.New("invalid limit")

// leastMemory is the smallest limit that makes sense: below it not even a shell starts. Bytes.
const leastMemory = 4 << 20

// ParseMemory reads bytes ("536870912"), with a unit of 1024 ("512M", "2G", "1.5G", "512MiB"), or a share of the machine's memory ("50%").
// Empty, "0" and "none" are no limit.
func ParseMemory(text string) (int64, error) {
	bad := fmt.Errorf("%w: memory %q, want bytes such as 512M or 2G, a share of the machine's memory such as 50%%, or none", ErrLimit, text)
	t := strings.TrimSpace(text)
	if unlimited(t) {
		return 0, nil
	}
	unit := 1.0
	if share, ok := strings.CutSuffix(t, "%"); ok {
		var info unix.Sysinfo_t
		if err := unix.Sysinfo(&info); err != nil {
			return 0, fmt.Errorf("ask for the machine's memory: %w", err)
		}
		t, unit = share, float64(info.Totalram)*float64(info.Unit)/100
	} else if n := strings.TrimRight(strings.ToUpper(t), "IB"); n != "" {
		if i := strings.IndexByte("KMGT", n[len(n)-1]); i >= 0 {
			t, unit = n[:len(n)-1], math.Pow(1024, float64(i+1))
		}
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(t), 64)
	bytes := n * unit
	if err != nil || !(bytes >= leastMemory && bytes < 1<<60) {
		return 0, bad
	}
	return int64(bytes), nil
}

// ParseCPU reads processors ("1.5") or percent of one ("150%"). Empty, "0" and "none" are no limit.
func ParseCPU(text string) (float64, error) {
	t := strings.TrimSpace(text)
	if unlimited(t) {
		return 0, nil
	}
	unit := 1.0
	if percent, ok := strings.CutSuffix(t, "%"); ok {
		t, unit = percent, 100
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(t), 64)
	if n /= unit; err != nil || !(n >= 0.01 && n <= 4096) {
		return 0, fmt.Errorf("%w: CPU %q, want processors such as 1.5, percent of one such as 150%%, or none", ErrLimit, text)
	}
	return n, nil
}

// ParsePIDs reads a number of processes and threads. "0" and "none" are no limit.
func ParsePIDs(text string) (int64, error) {
	t := strings.TrimSpace(text)
	if unlimited(t) {
		return 0, nil
	}
	n, err := strconv.ParseInt(t, 10, 64)
	if err != nil || n < 2 || n > 1<<22 {
		return 0, fmt.Errorf("%w: processes %q, want a number from 2 to 4194304, or none", ErrLimit, text)
	}
	return n, nil
}

func unlimited(t string) bool { return t == "" || t == "0" || strings.EqualFold(t, "none") }

// bytesText writes a size for people.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return strconv.FormatFloat(float64(n)/(1<<30), 'g', 3, 64) + " GiB"
	case n >= 1<<20:
		return strconv.FormatFloat(float64(n)/(1<<20), 'g', 4, 64) + " MiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}
