package main

// plants are bugs that somebody could make one day. Each is built into an agent of its own, and the case that goes with it must show it: so it is
// proven that chaos would. A text that is not in the source exactly once any more fails the build of the plant, not silently.
type plantedBug struct {
	name    string
	changes []change
	kind    string
	place   string // where the agent is killed; "": it is not
	record  string // at which record of a clean run
	twice   bool   // the message comes twice
	shows   string // what the violation says
}

func plantedBugs() []plantedBug {
	return []plantedBug{
		{
			name: "send before record",
			changes: []change{{
				File: "agent/outbox.go",
				Old:  "if err := a.appendRecord(journal.Record{Type: journal.Result,",
				New: "if body, err := json.Marshal(o.Result); err == nil {\n_ = a.Queue.Send(context.Background(), o.Queue, string(body))\n}\n" +
					"if err := a.appendRecord(journal.Record{Type: journal.Result,",
			}},
			kind: restart, place: before, record: "result", shows: "before the journal held it",
		},
		{
			name: "forget the duplicate check",
			changes: []change{
				{File: "agent/accept.go", Old: "if known, ok := a.Journal.Command(identity); ok {", New: "if known, ok := a.Journal.Command(identity); ok && false {"},
				{File: "journal/journal.go", Old: "case r.Type == Accepted && known:", New: "case r.Type == Accepted && known && false:"},
			},
			kind: restart, twice: true, shows: "ran 2 times",
		},
		{
			name: "delete before accept",
			changes: []change{{
				File: "agent/intake.go", Old: "taken, err := a.takeAll(messages)\n",
				New: "for _, m := range messages {\n_ = a.Queue.Delete(ctx, url, m.Receipt)\n}\ntaken, err := a.takeAll(messages)\n",
			}},
			kind: restart, place: before, record: "accepted", shows: "the command is lost",
		},
		{
			name: "never delete",
			changes: []change{{
				File: "agent/intake.go", Old: "err := a.Queue.Delete(done, url, m.Receipt)", New: "err := done.Err()",
			}},
			kind: restart, shows: "messages stay in the queue",
		},
		{
			name: "give up a start-up that was begun",
			changes: []change{{
				File: "agent/recover.go", Old: "if c.Lost || len(c.Steps) > 0 {", New: "if c.Lost || len(c.Steps) > 0 && !fromBoot(j.Command) {",
			}},
			kind: startup, place: behind, record: "done InfraWriteConfig", shows: "was not carried on",
		},
		{
			name: "skip a done",
			changes: []change{{
				File: "journal/record.go", Old: "return r.journal.Append(Record{Type: Done,",
				New: "if step == \"restartappserver/enact/01flip\" {\nreturn nil\n}\nreturn r.journal.Append(Record{Type: Done,",
			}},
			kind: restart, shows: "the journal says of its step restartappserver/enact/01flip: started",
		},
		{
			name: "take the target away before the next one is set",
			changes: []change{{
				File: "platform/docker/flip.go", Old: "_, err := p.valve.SetTarget(ctx, t, generation)",
				New: "if g, err := p.valve.SetTarget(ctx, Target{}, generation); err == nil {\ngeneration = g\ntime.Sleep(200 * time.Millisecond)\n}\n" +
					"_, err := p.valve.SetTarget(ctx, t, generation)",
			}},
			kind: restart, shows: "answered by the old version or the new one",
		},
	}
}

// skippedSync is the bug that only a power loss shows.
func skippedSync() []change {
	return []change{{
		File: "journal/journal.go", Old: "if err := unix.Fdatasync(int(j.file.Fd())); err != nil {", New: "if err := error(nil); err != nil {",
	}}
}

// failedResume is a bug of hmctl's: what is taken over with --resume always ends as failed.
func failedResume() []change {
	return []change{{
		File: "fleet/resume.go", Old: "report, err = o.execute(ctx)",
		New: "if report, err = o.execute(ctx); err == nil {\nerr = o.end(ctx, &FailedError{Operation: o.kind.purpose, Reason: \"planted\"})\n}",
	}}
}
