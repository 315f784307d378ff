package settings

import "hostmanager/internal/proc"

// HookLimits are those that a deployment sets for its hooks, each together with all it starts. Nil: the instance's own limit counts; 0: none.
type HookLimits struct {
	Memory *int64   // bytes
	CPU    *float64 // processors
	PIDs   *int64   // processes and threads
}

// Over returns the instance's limits with the deployment's over them.
func (l HookLimits) Over(own proc.Limits) proc.Limits {
	over(&own.Memory, l.Memory)
	over(&own.CPU, l.CPU)
	over(&own.PIDs, l.PIDs)
	return own
}

func over[T any](own, set *T) {
	if set != nil {
		*own = *set
	}
}

func (r *reader) hookLimits() HookLimits {
	return HookLimits{
		Memory: limit(r, "HookMemoryMax", proc.ParseMemory, "bytes such as 512M or 2G, a share of the machine's memory such as 50%, or none"),
		CPU:    limit(r, "HookCPUQuota", proc.ParseCPU, "processors such as 1.5, percent of one such as 150%, or none"),
		PIDs:   limit(r, "HookPidsMax", proc.ParsePIDs, "a number of processes and threads, or none"),
	}
}

func limit[T any](r *reader, option string, parse func(string) (T, error), want string) *T {
	text := r.text(NSHostmanager, option)
	if text == "" {
		return nil
	}
	v, err := parse(text)
	if err != nil {
		r.fail(NSHostmanager, option, want)
		return nil
	}
	return &v
}
