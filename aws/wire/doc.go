// Package wire holds the suite that any SQS and S3 must pass for hostmanager
// to run on it. It speaks through packages queue and objects to the endpoint
// that AWS_ENDPOINT_URL names, or else to a localaws of its own:
//
//	go test -count=1 ./aws/wire/...
//	AWS_ENDPOINT_URL=http://127.0.0.1:4566 go test -count=1 ./aws/wire/...
//
// What needs localaws' clock or faults is tested beside the packages.
package wire
