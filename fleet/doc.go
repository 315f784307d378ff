// Package fleet runs operations over all instances of an environment: deploy a version, change the configuration, restart, send a raw command,
// and resume a deployment that a closed laptop left behind.
//
// An operation is one request id, the same on every instance's queue, in stages with a barrier between them: stage 0 (fetch, build) everywhere,
// then stage 1 (the flip), so that a build that fails somewhere changes nothing anywhere. The desired state moves only when every targeted
// instance answered SUCCESS with the deployment's id.
//
// The package knows nothing of what instances do with a command: everything it prints comes from results and the events in them. What it sets
// out to do is in the deployment record before it is done; what an instance answered is there before its message leaves the result queue. So
// an operation may die at any point and Resume carries on from the record: commands are sent again under the same identity, which an instance
// answers again without running them twice.
//
// Invariants: one operation at a time per environment (the lock, whose loss ends the operation's context); every operation ends in a typed
// state; texts are for people, decisions never read them.
package fleet
