package commandproc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"hostmanager/protocol"
)

// maxOutput is how many characters of a failed program's last output the result repeats; the rest stands in the activity log.
const maxOutput = 256

const moreDetail = " For more detail, check /var/log/eb-activity.log using console or EB CLI"

// Failed is an error that knows the exit code of what failed. Package hooks' errors do.
type Failed interface {
	error
	ExitCode() int
}

// WithOutput is an error that knows the last output of what failed.
type WithOutput interface {
	error
	Output() string
}

// WithCause is an error that knows which of protocol's causes it is. Package platform/docker's failures do.
type WithCause interface {
	error
	FailureCause() string
}

// lastOutput keeps the end of a text: the original's cut.
func lastOutput(text string) string {
	text = strings.TrimSpace(strings.ToValidUTF8(text, "\uFFFD"))
	n := utf8.RuneCountInString(text)
	if n <= maxOutput {
		return text
	}
	skip := n - maxOutput
	for i := range text {
		if skip == 0 {
			return "(TRUNCATED)..." + text[i:]
		}
		skip--
	}
	return text
}

// failureEntry says what the result says of a failure: the output of the failing program, the reason, where to look.
func failureEntry(ctx context.Context, err error, timeout time.Duration) protocol.ResponseEntry {
	e := protocol.ResponseEntry{Status: protocol.Failure, ReturnCode: 1}
	var failed Failed
	if errors.As(err, &failed) && failed.ExitCode() > 0 {
		e.ReturnCode = failed.ExitCode()
	}
	var known WithCause
	if errors.As(err, &known) {
		e.Cause = known.FailureCause()
	}
	reason := strings.TrimRight(err.Error(), ". \n") + "."
	var interrupted *interruptedError
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrDeadline):
		e.Cause = protocol.CauseTimeout
		reason = fmt.Sprintf("Command timed out after %d seconds: %s", int(timeout.Seconds()), reason)
	case errors.As(cause, &interrupted):
		e.Cause = protocol.CauseInterrupted
	case cause != nil:
		e.Cause = protocol.CauseAborted
		if !strings.Contains(reason, cause.Error()) { // who asked for it
			reason = fmt.Sprintf("%s (%s).", strings.TrimSuffix(reason, "."), cause)
		}
		reason = fmt.Sprintf("Command was aborted: %s", reason)
	}
	var spoke WithOutput
	if errors.As(err, &spoke) {
		if output := lastOutput(spoke.Output()); output != "" {
			e.Msg = output + " \n"
		}
	}
	e.Msg += reason + moreDetail
	return e
}

// Superseded answers a command that was never begun because a newer one waited behind it.
func (p *Processor) Superseded(j, newer Job) *protocol.Response {
	return p.newRun(j).respond(protocol.ResponseEntry{
		Status: protocol.Failure, ReturnCode: 1, Cause: protocol.CauseSuperseded,
		Msg: fmt.Sprintf("superseded: %s of request %s (%s) was waiting behind this one, so this one was never begun.",
			newer.Request.CommandName, newer.Request.RequestID, newer.Request.Data),
	})
}

// Withdrawn answers a command that was taken back before anything of it was begun; why wraps ErrAborted.
func (p *Processor) Withdrawn(j Job, why error) *protocol.Response {
	return p.newRun(j).respond(protocol.ResponseEntry{
		Status: protocol.Failure, ReturnCode: 1, Cause: protocol.CauseAborted,
		Msg: fmt.Sprintf("Command was aborted before it began: %s.", strings.TrimRight(why.Error(), ". \n")),
	})
}
