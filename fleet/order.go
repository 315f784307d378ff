package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hostmanager/environment"
	"hostmanager/protocol"
)

// errNoKey: an order would go out unsigned and nobody asked for that.
var errNoKey = fmt.Errorf("%w: orders are signed, and there is no key to sign with", ErrRefused)

// maxNamed is how many instances one order names: with more of them what is signed could outgrow the 4,096 bytes that a key service takes.
const maxNamed = 50

// order is one message and the instances it is for.
type order struct {
	body    string
	targets []environment.Target
}

// orders makes the messages that tell the targets to run the stage. Every order of an environment goes out through here: it names the environment
// and the instances it is for, and is signed with the record's key.
func (o *operation) orders(ctx context.Context, stage int, to []environment.Target) ([]order, error) {
	var all []order
	for len(to) > 0 {
		n := min(len(to), maxNamed)
		body, err := o.message(ctx, stage, to[:n])
		if err != nil {
			return nil, err
		}
		all = append(all, order{body, to[:n]})
		to = to[n:]
	}
	return all, nil
}

// message returns the body that tells the instances to run the stage.
func (o *operation) message(ctx context.Context, stage int, to []environment.Target) (string, error) {
	r := protocol.Request{
		CommandName: o.d.Command, RequestID: o.d.RequestID, ResourceName: resourceName, EnvironmentID: o.Record.EnvironmentID(),
		Data: o.d.Manifest, DataSHA256: o.d.SHA256,
		Timeout: o.timeout(), IsLastStage: stage == allStages || stage == o.d.Stages[len(o.d.Stages)-1].Num,
	}
	if stage != allStages {
		r.StageNum = &stage
	}
	if o.raw != nil {
		r.Data, r.DataSHA256, r.ExecutionData = o.raw.Data, o.raw.DataSHA256, o.raw.ExecutionData
	}
	var err error
	if r.InstanceIDs, err = o.named(to); err != nil {
		return "", err
	}
	data, err := r.Encode()
	if err != nil {
		return "", fmt.Errorf("encode the request: %w", err)
	}
	return o.signed(ctx, protocol.Command{
		DispatcherID: o.Record.EnvironmentID(), CommandName: outerCommand, InvocationID: o.d.RequestID,
		Expiration: time.Now().Add(max(o.validity, o.pickup())), ResultQueue: o.results, Data: data,
	})
}

// named returns the ids that an order names. Without them it could be given to another instance, so a signed one has them.
func (o *operation) named(to []environment.Target) (ids []string, err error) {
	for _, t := range to {
		if t.InstanceID != "" {
			ids = append(ids, t.InstanceID)
			continue
		}
		if o.Record.Signs() {
			return nil, fmt.Errorf("%w: a signed order must name who it is for, and of the queue %s nobody knows whose it is", ErrRefused, t.Queue)
		}
		return nil, nil // who is behind that queue must not take the order for one to others
	}
	return ids, nil
}

// signed encodes a command with its signature.
func (o *operation) signed(ctx context.Context, c protocol.Command) (string, error) {
	switch {
	case o.Record.Signs():
		s, err := o.Record.Sign(ctx, c.SigningBytes())
		if err != nil {
			return "", err
		}
		c.Signature = s
	case !o.Unsigned:
		return "", errNoKey
	}
	encode := c.Encode
	if o.raw != nil && o.raw.SNS {
		encode = c.EncodeSNS
	}
	body, err := encode()
	return string(body), err
}

// checkManifest holds that the manifest a deployment record names is the one that was made for it: nobody signed the record. The manifest binds the
// id and the serial, so nothing is signed of a record that was read back before this holds.
func (o *operation) checkManifest(ctx context.Context) error {
	if !o.Record.Signs() {
		return nil
	}
	if o.d.SHA256 == "" { // any manifest would do then
		return fmt.Errorf("%w: the record of deployment %d has no digest of its manifest; somebody changed it: deploy anew", environment.ErrCorrupt, o.d.ID)
	}
	m, _, err := o.Record.GetManifest(ctx, o.d.Manifest, o.d.SHA256)
	if err != nil {
		return fmt.Errorf("check the record of deployment %d: %w", o.d.ID, err)
	}
	if m.DeploymentID != o.d.ID || m.Serial != o.d.Serial {
		return fmt.Errorf("%w: the record of deployment %d says serial %d and names the manifest of deployment %d, serial %d; somebody changed it: deploy anew",
			environment.ErrCorrupt, o.d.ID, o.d.Serial, m.DeploymentID, m.Serial)
	}
	return nil
}

// judged tells the instances, by the desired state, that the deployment came to its end without becoming it. What cannot be told now is told by
// the next deployment. The serial may come from a record that was read back, so the signed manifest must have it too.
func (o *operation) judged(ctx context.Context) {
	if !o.kind.versions || !o.Record.Signs() {
		return
	}
	err := o.checkManifest(ctx)
	if err == nil {
		err = o.Record.JudgeCurrent(ctx, o.d.Serial)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		o.line(protocol.Warn, KindNotice, "", "The end of deployment %d could not be noted in the desired state: %v. Instances that had it already keep it when they start anew.", o.d.ID, err)
	}
}
