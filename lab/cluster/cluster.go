package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/barelb/barelb/lab/box"
)

// Cluster is a running lab. It belongs to the process that started it. It is safe for concurrent use.
type Cluster struct {
	cfg     Config
	set     *box.Set
	forward *forwarder   // nil in mode Network
	ports   portForwards // in mode Fast
	pki     *pki
	rest    *rest.Config
	client  kubernetes.Interface
	mirror  *mirror
	daemon  daemon
	end     context.CancelFunc // of the tasks in this process
	started time.Time

	saying sync.Mutex // one line of progress at a time

	mu      sync.Mutex
	pods    map[string]int          // how many were made, by node
	proxies map[string]*box.Process // kube-proxies, by node
}

// Start brings up a lab and returns when it can be used: in mode Real all nodes are Ready, and all manifests are applied.
// If the context ends before that, or anything fails, nothing is left behind.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	set, err := box.Open(cfg.Name)
	if err != nil {
		return nil, err
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c := &Cluster{cfg: cfg, set: set, end: cancel, started: time.Now(), pods: map[string]int{}, proxies: map[string]*box.Process{}}
	if err := c.start(ctx, background); err != nil {
		return nil, errors.Join(fmt.Errorf("start lab %s: %w", cfg.Name, err), c.Close())
	}
	return c, nil
}

// start does the stages of the bring-up. Tasks that outlive it run under background.
func (c *Cluster) start(ctx, background context.Context) error {
	c.say("starting %d nodes, a router, a switch and two clients", c.cfg.Nodes)
	if err := c.startBoxes(ctx); err != nil {
		return err
	}
	var err error
	if c.mirror, err = newMirror(c.Box(Router1), c.Box(Client)); err != nil {
		return err
	}
	go c.mirror.run(background)

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.startRouter(gctx) })
	if c.cfg.Mode != Network {
		if c.forward, err = newForwarder(ctx, c.Box(Control)); err != nil {
			return errors.Join(err, g.Wait())
		}
		if err := c.makeKeys(); err != nil {
			return errors.Join(err, g.Wait())
		}
		c.saveState()
		g.Go(func() error { return c.startKubernetes(gctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	c.saveState()
	if len(c.cfg.Manifests) > 0 {
		c.say("applying manifests")
		if err := c.Apply(ctx, c.cfg.Manifests...); err != nil {
			return err
		}
	}
	c.say("up")
	return nil
}

// startKubernetes starts the control plane, and beside it what does not need one.
func (c *Cluster) startKubernetes(ctx context.Context) error {
	c.say("starting etcd and the API server")
	g, gctx := errgroup.WithContext(ctx)
	if c.cfg.Mode == Real {
		if err := c.writePause(); err != nil {
			return err
		}
		for i := range c.cfg.Nodes {
			g.Go(func() error { return c.startContainerd(gctx, i+1) })
		}
	}
	g.Go(func() error {
		if err := c.startAPI(gctx); err != nil {
			return err
		}
		c.say("API server is ready; starting nodes")
		if err := c.createNodes(gctx); err != nil {
			return err
		}
		return c.startManagers()
	})
	if err := g.Wait(); err != nil {
		return err
	}
	for i := range c.cfg.Nodes {
		if c.cfg.Mode == Real {
			if err := c.startKubelet(i + 1); err != nil {
				return err
			}
		}
		if err := c.startProxy(i + 1); err != nil {
			return err
		}
	}
	if c.cfg.Mode == Fast {
		if err := c.startPortForwards(ctx); err != nil {
			return err
		}
	}
	return errors.Join(c.waitNodes(ctx), c.waitAccount(ctx), c.waitProxies(ctx))
}

// Close ends everything and waits until nothing is left. Further calls do nothing.
func (c *Cluster) Close() error {
	c.end()
	if c.mirror != nil {
		<-c.mirror.done
	}
	err := c.set.Close()
	err = errors.Join(err, c.ports.close())
	if c.forward != nil {
		c.forward.close()
	}
	if err != nil {
		return fmt.Errorf("end lab %s: %w", c.cfg.Name, err)
	}
	return nil
}

// Config is what the cluster was started with, defaults filled in.
func (c *Cluster) Config() Config { return c.cfg }

// Dir is the lab's state directory: logs are in box/HOST/*.log.
func (c *Cluster) Dir() string { return c.set.Dir() }

// Box returns a host by name: a node (NodeName), Lan, Router1, Control, Client, Remote, or a pod. Nil if there is none.
func (c *Cluster) Box(name string) *box.Box { return c.set.Box(name) }

// Nodes are the names of the nodes, in order.
func (c *Cluster) Nodes() []string {
	var out []string
	for i := range c.cfg.Nodes {
		out = append(out, NodeName(i+1))
	}
	return slices.Clip(out)
}

// say reports progress with the time since the start.
func (c *Cluster) say(format string, args ...any) {
	c.saying.Lock()
	defer c.saying.Unlock()
	c.cfg.Progress(fmt.Sprintf("%5.1fs  ", time.Since(c.started).Seconds()) + fmt.Sprintf(format, args...))
}
