// Package dev is the whole system on one machine with no AWS account: a local SQS and S3 in this process, and for every instance an agent and a
// proxy as real child processes below a folder of their own. A folder is deployed to them through real commands.
//
// It knows how to start, wait for and stop those parts, and nothing of what they do: it starts the hostmanager binary as systemd would, and
// deploys as hmctl does. What a signal has ended is started again, within a limit; what ends by itself ends the room.
//
// Invariants: what Run started has ended when it returns, but for a daemon that a hook left on purpose, and what the instances made in Docker is
// purged by hostmanager itself, by its label; nothing outside the room's folder is written. A folder goes only when nothing is left to purge.
package dev

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/fleet"
	"hostmanager/fleet/record"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
	"hostmanager/protocol"
)

// Names of what a room makes.
const (
	DefaultEnvironment = "e-dev"
	DefaultBucket      = "hostmanager-dev"
	region             = localaws.DefaultRegion
)

// Times of a room.
const (
	registerTimeout = time.Minute
	registerPoll    = 50 * time.Millisecond
	drainTimeout    = 5 * time.Second // of a command under way, until it is aborted and undone
	stopGrace       = time.Minute     // for that, and the grace of the hook that is under way
	purgeTimeout    = time.Minute
)

// maxInstances is how many instances one machine is asked to carry.
const maxInstances = 50

// ErrOptions marks options that make no room; nothing was started.
var ErrOptions = errors.New("no room can be made of this")

// Options of a room.
type Options struct {
	Dir         string           // folder or archive to deploy
	Instances   int              // how many; 0: one
	Root        string           // empty or new folder of the room, which stays; empty: a temporary one, removed at the end
	Hostmanager string           // the binary; empty: beside this program's own, else from PATH
	Once        bool             // end when the deployment has ended
	Changes     []fleet.Change   // to the option settings
	Printer     fleet.Printer    // shows the deployment
	Ready       func(Room) error // is told when the deployment has ended; nil: nobody
	Log         *slog.Logger     // of the local endpoint; nil: none

	Checks []func(ctx context.Context, archive string) error // of the bundle, before anything is deployed
}

// Room is a running room, as it is told to people and machines.
type Room struct {
	Endpoint    string     `json:"endpoint"`
	Region      string     `json:"region"`
	Environment string     `json:"environment"`
	Bucket      string     `json:"bucket"`
	Root        string     `json:"root"`
	SigningKey  string     `json:"signing_key"` // file of the private key that the instances obey
	Deployed    bool       `json:"deployed"`
	Instances   []Instance `json:"instances"`
}

// Instance is one instance of a room.
type Instance struct {
	ID        string `json:"id"`
	URL       string `json:"url"`
	Root      string `json:"root"`
	Namespace string `json:"docker_namespace"`
}

// Run makes a room, deploys Dir to it and keeps it until ctx ends. The credentials in the process's environment are used, whatever they are. An
// error is the deployment's only with Once; else a room with a failed deployment goes on, so that one can look at it and deploy again.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	r := &room{Options: o}
	defer func() { err = errors.Join(err, r.close(ctx)) }()
	if err := r.open(ctx); err != nil {
		return r.unlessStopped(ctx, err)
	}
	deployed := r.whileAlive(ctx, r.deploy)
	if deployed != nil && (o.Once || ctx.Err() != nil || !errors.Is(deployed, fleet.ErrFailed)) {
		return deployed
	}
	r.about.Deployed = deployed == nil
	if deployed != nil {
		r.say(protocol.Warn, "The room goes on with what it had: look into %s, and deploy again with `hmctl deploy`.", r.Root)
	}
	if o.Ready != nil {
		if err := o.Ready(r.about); err != nil {
			return err
		}
	}
	if o.Once {
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-r.died:
		return err
	}
}

func (o *Options) complete() error {
	if o.Instances == 0 {
		o.Instances = 1
	}
	if o.Instances < 1 || o.Instances > maxInstances {
		return fmt.Errorf("%w: %d instances, want 1 to %d", ErrOptions, o.Instances, maxInstances)
	}
	if o.Printer == nil {
		return fmt.Errorf("%w: no printer", ErrOptions)
	}
	if _, err := os.Stat(o.Dir); err != nil {
		return fmt.Errorf("%w: look at what to deploy: %w", ErrOptions, err)
	}
	if o.Hostmanager == "" {
		o.Hostmanager = beside()
	}
	path, err := exec.LookPath(o.Hostmanager)
	if err != nil {
		return fmt.Errorf("%w: find hostmanager: %w; put it beside hmctl or name it with --hostmanager", ErrOptions, err)
	}
	o.Hostmanager, err = filepath.Abs(path)
	return err
}

// beside returns the hostmanager that lies beside this program, else the name to look up in PATH.
func beside() string {
	const name = "hostmanager"
	self, err := os.Executable()
	if err != nil {
		return name
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return name
	}
	return path
}

// room is a room being made, kept and taken down. It belongs to one goroutine.
type room struct {
	Options
	about     Room
	temporary bool
	opened    bool // the folder is this room's
	server    *localaws.Server
	fleet     *fleet.Fleet
	key       signing.Key
	children  []*child
	died      chan error // what a child that should have gone on ended with
}

func (r *room) open(ctx context.Context) error {
	r.sweep(ctx)
	if err := r.folder(ctx); err != nil {
		return err
	}
	r.opened = true
	if err := r.writeMark(); err != nil {
		return err
	}
	if err := r.endpoint(ctx); err != nil {
		return err
	}
	// One slot per child: each of them can end.
	r.died = make(chan error, 2*r.Options.Instances)
	namespace, err := randomWord()
	if err != nil {
		return err
	}
	for n := 1; n <= r.Options.Instances; n++ {
		if err := r.instance(ctx, n, namespace); err != nil {
			return err
		}
	}
	return r.whileAlive(ctx, r.registered)
}

// folder makes the room's folder.
func (r *room) folder(ctx context.Context) (err error) {
	if r.Root == "" {
		r.temporary = true
		r.Root, err = os.MkdirTemp("", tempName)
		return err
	}
	if r.Root, err = filepath.Abs(r.Root); err != nil {
		return err
	}
	if err := os.MkdirAll(r.Root, 0o755); err != nil {
		return fmt.Errorf("make the room's folder: %w", err)
	}
	if err := r.tidyUp(ctx, r.Root); err != nil {
		return err
	}
	left, err := os.ReadDir(r.Root)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%w: %s is not empty; a room wants a folder of its own", ErrOptions, r.Root)
	}
	return err
}

// whileAlive does something that needs all children: when one ends, so does it, with what that one ended with.
func (r *room) whileAlive(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	over, watched := make(chan struct{}), make(chan error, 1)
	go func() {
		select {
		case err := <-r.died:
			cancel(err)
			watched <- err
		case <-over:
			watched <- nil
		}
	}()
	err := do(ctx)
	close(over)
	cancel(nil)
	if died := <-watched; died != nil {
		return died
	}
	return err
}

// endpoint starts SQS and S3 and connects to them.
func (r *room) endpoint(ctx context.Context) error {
	server, err := localaws.New(localaws.Options{Region: region, Log: r.Log})
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	r.server = server
	r.about = Room{Endpoint: server.URL(), Region: region, Environment: DefaultEnvironment, Bucket: DefaultBucket, Root: r.Root}
	store, err := objects.New(ctx, objects.Options{Region: region, Endpoint: server.URL()})
	if err != nil {
		return err
	}
	queues, err := queue.New(ctx, queue.Options{Region: region, Endpoint: server.URL()})
	if err != nil {
		return err
	}
	if err := store.CreateBucket(ctx, DefaultBucket); err != nil {
		return err
	}
	rec, err := record.Open(store, DefaultBucket, DefaultEnvironment)
	if err != nil {
		return err
	}
	if err := r.makeKey(); err != nil {
		return err
	}
	rec = rec.Secured(r.key, signature.NewKeys(r.key.Public(keyName)))
	r.fleet = &fleet.Fleet{Record: rec, Queues: queues, Objects: store, Bucket: DefaultBucket, Holder: "hmctl dev", Printer: r.Printer}
	return nil
}

// A room's key, by name and by file in the room's folder.
const (
	keyName = "dev"
	keyFile = "signing-key.pem"
)

// makeKey makes the key that this room's orders are signed with.
func (r *room) makeKey() (err error) {
	if r.key, err = signing.Generate(); err != nil {
		return err
	}
	r.about.SigningKey = filepath.Join(r.Root, keyFile)
	return r.key.WriteFile(r.about.SigningKey)
}

// registered waits until every instance stands in the environment's record.
func (r *room) registered(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, registerTimeout, fmt.Errorf("not all instances registered in %s; see the logs in %s", registerTimeout, r.Root))
	defer cancel()
	tick := time.NewTicker(registerPoll)
	defer tick.Stop()
	for {
		there, _, err := r.fleet.Record.Instances(ctx)
		if err == nil && len(there) >= r.Options.Instances {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *room) deploy(ctx context.Context) (err error) {
	label := fleet.DefaultLabel(ctx, r.Dir, time.Now())
	r.Printer.Packing(label)
	bundle, err := fleet.OpenBundle(ctx, r.Dir, r.Checks...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bundle.Close()) }()
	_, err = r.fleet.Deploy(ctx, fleet.DeployRequest{Bundle: bundle, Label: label, Changes: r.Changes})
	return err
}

// unlessStopped turns what an interrupted start fails with into no error: stopping was what was asked for.
func (r *room) unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// close ends the instances, has them purge what they made, and removes the rest. It also works when ctx has ended.
func (r *room) close(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	r.stopChildren()
	for _, i := range r.about.Instances {
		if err := r.purge(ctx, i); err != nil {
			errs = append(errs, fmt.Errorf("purge what %s made: %w", i.ID, err))
		}
	}
	if r.server != nil {
		errs = append(errs, r.server.Close())
	}
	if err := errors.Join(errs...); err != nil {
		if r.opened { // with the mark, by which the next room finds it
			again := "the next hmctl dev"
			if !r.temporary {
				again += " with this --root"
			}
			err = fmt.Errorf("%w; what is left stands in %s: %s tries again", err, r.Root, again)
		}
		return err
	}
	if r.temporary && r.Root != "" {
		return os.RemoveAll(r.Root)
	}
	if r.opened {
		return r.removeMark()
	}
	return nil
}

func (r *room) say(severity protocol.Severity, format string, args ...any) {
	r.Printer.Line(fleet.Line{Severity: severity, Kind: fleet.KindNotice, Text: fmt.Sprintf(format, args...), At: time.Now().UTC()})
}

// randomWord makes names nobody else on this machine has.
func randomWord() (string, error) {
	b := make([]byte, 4)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return hex.EncodeToString(b), nil
}
