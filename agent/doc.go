// Package agent is the daemon: it takes commands from the instance's queue, judges and journals them, runs them in two lanes, sends their
// results, keeps the instance registered, and answers on its control socket. wire.go builds everything it is made of.
//
// The way of a command has no way back up: queue -> decode, duplicate, target, expiry -> journal accepted -> delete the message -> lane ->
// commandproc -> journal result -> outbox -> journal sent.
//
// Invariants:
//   - A message is deleted only after the journal holds its command, or when it can never become one.
//   - From its accepted record to its result the journal is the truth: what a start of the agent finds there decides what is run, undone, sent.
//   - A result has the same ResultId and the same content however often it is sent. Sending blocks nothing.
//   - Exclusive commands run one at a time; what boot wants runs before what was received.
//   - Everything the agent itself puts out passes the redactor, which knows the properties before anything can tell of them.
package agent
