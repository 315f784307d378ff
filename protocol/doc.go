// Package protocol is the wire of the host manager: the command message, its request, the result, events, the manifest, and the names of keys
// and queues. It is pure: no input or output, no clock, standard library only. What it decodes it checks; what it encodes it can decode.
//
// The message and result shapes are those of the CloudFormation command service as cfn-hup speaks it (aws-cfn-bootstrap, Apache-2.0) and of
// the request that Elastic Beanstalk puts into them; the differences are listed in docs/architecture.md.
package protocol
