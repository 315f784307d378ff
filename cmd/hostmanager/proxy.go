package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"hostmanager/agent/config"
	"hostmanager/internal/cli"
	"hostmanager/internal/layout"
	"hostmanager/platform/proxy"
)

// proxyFlags are what the verb takes from the command line; what is left out comes from the configuration.
type proxyFlags struct {
	root            string
	config          string
	listen          string
	responseTimeout time.Duration
	shutdownTimeout time.Duration
}

func newProxyCommand() *cobra.Command {
	var f proxyFlags
	c := &cobra.Command{
		Use:   "proxy",
		Short: "Serve clients and pass their requests to the application",
		Long: "Serve clients and pass their requests to the application's current version.\n\n" +
			"It serves the target of its last run at once, with no agent. The agent moves it over the control socket. SIGTERM ends it when the requests\n" +
			"in flight have ended; a second one cuts them.",
		Example: "  hostmanager proxy --listen :80\n  hostmanager proxy --root /srv/one --listen 127.0.0.1:8080",
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return runProxy(c, f) },
	}
	addRoot(c, &f.root)
	c.Flags().StringVar(&f.config, "config", "", "configuration file (default ROOT/etc/hostmanager/hostmanager.yaml)")
	c.Flags().StringVar(&f.listen, "listen", "", "address for clients (default from the configuration: "+proxy.DefaultListen+"); a socket from systemd goes before it")
	c.Flags().DurationVar(&f.responseTimeout, "response-timeout", proxy.DefaultResponseTimeout, "how long the application may take to begin its answer")
	c.Flags().DurationVar(&f.shutdownTimeout, "shutdown-timeout", proxy.DefaultShutdownTimeout, "how long requests in flight may take to end after SIGTERM")
	return c
}

func runProxy(c *cobra.Command, f proxyFlags) error {
	root := layout.Root(f.root)
	conf, err := proxyConfig(c, root, f)
	if err != nil {
		return cli.Usage(err)
	}
	listeners, err := proxy.Activated()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	p := proxy.New(proxy.Options{
		Root: root, Listen: conf.Listen, Listeners: listeners, Log: log,
		ResponseTimeout: f.responseTimeout, ShutdownTimeout: f.shutdownTimeout,
	})
	return serveProxy(c.Context(), p, log)
}

func proxyConfig(c *cobra.Command, root layout.Root, f proxyFlags) (config.Config, error) {
	file := f.config
	if file == "" {
		file = root.ConfigFile()
	}
	flags := map[string]string{}
	if c.Flags().Changed("listen") {
		flags["listen"] = f.listen
	}
	conf, err := config.Load(file, f.config != "", os.LookupEnv, flags)
	if err != nil {
		return conf, fmt.Errorf("read configuration: %w", err)
	}
	return conf, nil
}

// serveProxy runs p: the first signal drains, the second cuts, the third ends the process.
func serveProxy(ctx context.Context, p *proxy.Proxy, log *slog.Logger) error {
	ctx, drain := context.WithCancel(ctx)
	defer drain()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	ready := p.Ready()
	for n := 1; ; {
		select {
		case err := <-done:
			return err
		case <-ready:
			ready = nil
			notify(log, daemon.SdNotifyReady)
		case s := <-signals:
			log.Info("signal", "signal", s.String(), "count", n)
			if n == 1 {
				notify(log, daemon.SdNotifyStopping)
				drain()
			} else {
				p.Abort()
				signal.Stop(signals) // the next one has its usual effect
			}
			n++
		}
	}
}

// notify tells systemd, where it started us.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("notify systemd", "state", state, "error", err)
	}
}
