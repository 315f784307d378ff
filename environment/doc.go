// Package environment is the record of one environment in S3: its manifests, the desired state, the operation lock, the deployments and the
// instances that registered. There is no server behind it; whoever writes does so with a conditional PUT.
//
// It knows keys and JSON, and neither queues, commands nor the AWS SDK: an ObjectStore is handed in (fleet/record gives the one over S3).
//
// Invariants: a deployment id and a serial are given out once; a manifest is never overwritten; versions/current only moves to a higher
// serial; at most one holder of the lock acts, because a holder that cannot renew it loses its context before anyone may take it over; a
// deployment record is only changed by who read its latest state. Objects that cannot be read are reported beside the good ones.
//
// A Record is safe for concurrent use.
package environment
