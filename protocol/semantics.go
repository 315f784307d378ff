package protocol

// Semantics says what a crash or a failure means for a step that was started.
type Semantics string

const (
	// Repeatable steps can run again from the start, any number of times.
	Repeatable Semantics = "repeatable"
	// Once steps are never run a second time: a started one that is not done fails its command.
	Once Semantics = "once"
	// Compensated steps are undone before anything else is decided.
	Compensated Semantics = "compensated"
)
