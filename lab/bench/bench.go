// Package bench prints how fast and how large the load balancer is. Its numbers
// are for comparing; nothing passes or fails by them.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/barelb/barelb/lab/box"
	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/demo"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

// pools are ranges that no host of the lab is in.
const pools = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: bench, namespace: metallb-system}
spec:
  addresses: [198.18.0.0/16]
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: bench, namespace: metallb-system}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: bench, namespace: metallb-system}
`

const (
	namespace = metav1.NamespaceDefault
	patient   = 30 * time.Second
	settle    = 5 * time.Second // of memory, after the last change
)

type bench struct {
	c    *cluster.Cluster
	sys  *system.System
	self string
	out  io.Writer
	say  func(string, ...any)
}

// Command returns `lab bench`.
func Command() *cobra.Command {
	stage := demo.Stage{Fast: true, Audit: true}
	var one, many, writers, held int
	cmd := &cobra.Command{
		Use: "bench", Short: "Print distributions: allocation, announcement, memory", Args: cobra.NoArgs,
		Long: `Start a cluster without kubelets and measure, one Service at a time and many at
once, how long it takes from the creation of a Service until it has an address and
until its route is in the router's kernel; what is written to the API server for
that; the memory of both processes; and how soon a controller gives addresses that
is started when many are held.`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) { //nolint:nonamedreturns // Close adds to it
			if !stage.Fast {
				return errors.New("bench needs --fast: it reads the memory of processes that it started")
			}
			say := demo.Say()
			c, sys, err := stage.Start(cmd, say)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			self, err := os.Executable()
			if err != nil {
				return err
			}
			b := &bench{c: c, sys: sys, self: self, out: cmd.OutOrStdout(), say: say}
			b.sizeOf(stage.Speaker)
			return b.run(cmd.Context(), one, many, writers, held)
		},
	}
	stage.Flags(cmd)
	cmd.Flags().IntVar(&one, "one-by-one", 100, "Services to create one after the other")
	cmd.Flags().IntVar(&many, "many", 2000, "Services to have in the end")
	cmd.Flags().IntVar(&writers, "writers", 8, "clients that create the rest at once")
	cmd.Flags().IntVar(&held, "restart-with", 10_000, "Services to hold addresses when the controller is killed and started; 0 leaves that out")
	return cmd
}

func (b *bench) run(ctx context.Context, one, many, writers, held int) error {
	if err := b.prepare(ctx, many); err != nil {
		return err
	}
	b.memory("no Services")
	if err := b.oneByOne(ctx, one); err != nil {
		return err
	}
	status, err := b.statusIdle(ctx)
	if err != nil {
		return err
	}
	if err := b.load(ctx, status, one, many, writers); err != nil {
		return err
	}
	b.memory(fmt.Sprintf("%d Services", many))
	if held > many {
		return b.restart(ctx, many, held, writers)
	}
	return nil
}

// load creates many Services at once, and prints what that costs the API server.
func (b *bench) load(ctx context.Context, status *own, one, many, writers int) error {
	if _, err := b.rest(ctx, 0); err != nil {
		return err
	}
	_, offset, err := b.writes(0)
	if err != nil {
		return err
	}
	begin := time.Now()
	took, err := status.during(ctx, func() error { return b.atOnce(ctx, one, many, writers) })
	if err != nil {
		return err
	}
	b.print("the API server's own: update a Service's status, then", took)
	all, err := b.rest(ctx, offset)
	if err != nil {
		return err
	}
	b.printWrites(all, many-one, time.Since(begin))
	return nil
}

func (b *bench) prepare(ctx context.Context, many int) error {
	cfg := b.c.Config().BGP
	for _, m := range []string{pools, demo.Peer("router1", "192.168.1.1", cfg.NodeAS, cfg.RouterAS, cfg.HoldTime.String())} {
		if err := b.c.ApplyYAML(ctx, m); err != nil {
			return err
		}
	}
	if err := b.sys.PlaceBackends(ctx, b.c.Nodes()...); err != nil {
		return err
	}
	b.say("writing the endpoints of %d Services", many)
	return b.each(ctx, 0, many, 8, func(ctx context.Context, i int) error {
		return b.sys.WriteEndpoints(ctx, namespace, name(i))
	})
}

func name(i int) string { return fmt.Sprintf("bench-%d", i) }

// oneByOne creates n Services, each when the one before is announced.
func (b *bench) oneByOne(ctx context.Context, n int) error {
	b.say("creating %d Services one by one", n)
	seen, stop, err := b.watch(ctx)
	if err != nil {
		return err
	}
	defer stop()
	routes, err := measure.StartWatchRoute(ctx, b.c.Box(cluster.Router1), b.self, measure.RouteWatchOpts{
		Prefix: netip.MustParsePrefix("198.18.0.0/16"), MoreSpecific: true,
	})
	if err != nil {
		return err
	}
	var address, first, all []time.Duration
	nodes := len(b.c.Nodes())
	for i := range n {
		start := time.Now()
		if err := b.create(ctx, i); err != nil {
			return err
		}
		got, err := seen.await(ctx, name(i))
		if err != nil {
			return err
		}
		address = append(address, got.at.Sub(start))
		pfx := netip.PrefixFrom(got.addr, got.addr.BitLen())
		if err := b.routed(ctx, routes, pfx, func(hops int, at time.Time) {
			if hops >= 1 && len(first) == i {
				first = append(first, at.Sub(start))
			}
			if hops >= nodes && len(all) == i {
				all = append(all, at.Sub(start))
			}
		}); err != nil {
			return err
		}
	}
	if _, err := routes.Stop(); err != nil {
		return err
	}
	b.print("Service created → address in status", address)
	b.print("Service created → route in the router's kernel", first)
	b.print(fmt.Sprintf("Service created → all %d next hops there", nodes), all)
	return nil
}

// routed waits until the router has every node as a next hop for pfx, and tells
// note of each change on the way.
func (b *bench) routed(ctx context.Context, routes *measure.Watch[measure.RouteChange], pfx netip.Prefix, note func(int, time.Time)) error {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	_, err := routes.Await(ctx, func(c measure.RouteChange) bool {
		if c.Prefix != pfx {
			return false
		}
		note(c.Usable(), c.At)
		return c.Usable() >= len(b.c.Nodes())
	})
	if err != nil {
		return fmt.Errorf("wait for the next hops of %s: %w", pfx, err)
	}
	return nil
}

// atOnce creates the Services from to until, by several writers.
func (b *bench) atOnce(ctx context.Context, from, until, writers int) error {
	b.say("creating %d Services by %d writers", until-from, writers)
	seen, stop, err := b.watch(ctx)
	if err != nil {
		return err
	}
	defer stop()
	started := make([]time.Time, until)
	write := make([]time.Duration, until)
	begin := time.Now()
	if err := b.each(ctx, from, until, writers, func(ctx context.Context, i int) error {
		started[i] = time.Now()
		err := b.create(ctx, i)
		write[i] = time.Since(started[i])
		return err
	}); err != nil {
		return err
	}
	var took []time.Duration
	last := begin
	for i := from; i < until; i++ {
		got, err := seen.await(ctx, name(i))
		if err != nil {
			return err
		}
		took = append(took, got.at.Sub(started[i]))
		if got.at.After(last) {
			last = got.at
		}
	}
	b.print("the API server's own: create a Service, at once", write[from:])
	b.print("Service created → address in status, at once", took)
	_, _ = fmt.Fprintf(b.out, "%-52s %8.1f s, %.0f a second\n", "all of them", last.Sub(begin).Seconds(), float64(until-from)/last.Sub(begin).Seconds())
	return nil
}

func (b *bench) create(ctx context.Context, i int) error {
	return b.createFor(ctx, i, func(*corev1.Service) {})
}

func (b *bench) createFor(ctx context.Context, i int, edit func(*corev1.Service)) error {
	o := system.Service{Namespace: namespace, Name: name(i)}.Object()
	edit(o)
	if _, err := b.c.Client().CoreV1().Services(namespace).Create(ctx, o, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create service %s: %w", name(i), err)
	}
	return nil
}

// each calls fn for from to until-1, by several workers.
func (b *bench) each(ctx context.Context, from, until, workers int, fn func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range jobs {
				if err := fn(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := from; i < until && ctx.Err() == nil; i++ {
		jobs <- i
	}
	close(jobs)
	wg.Wait()
	return context.Cause(ctx)
}

func (b *bench) print(what string, samples []time.Duration) {
	q := measure.QuantilesOf(samples)
	_, _ = fmt.Fprintf(b.out, "%-52s p50 %7.1f ms   p99 %7.1f ms   max %7.1f ms   (%d)\n", what, float64(q.P50), float64(q.P99), float64(q.Max), len(samples))
}

// memory prints the resident memory of the controller and of the largest speaker.
func (b *bench) memory(when string) {
	largest := 0.0
	for _, node := range b.c.Nodes() {
		largest = max(largest, rss(b.sys.Speaker(node)))
	}
	_, _ = fmt.Fprintf(b.out, "%-52s controller %.0f MB, speaker %.0f MB\n", "resident memory with "+when, rss(b.sys.Controller()), largest)
}

// rss returns the resident memory of a process in MB, 0 if it cannot be read.
func rss(p *box.Process) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		return 0
	}
	var kb float64
	for line := range strings.Lines(string(b)) {
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
			break
		}
	}
	const mb = 1024
	return kb / mb
}

func (b *bench) sizeOf(command string) {
	file := strings.Fields(command)[0]
	info, err := os.Stat(file)
	if err != nil {
		return
	}
	const mb = 1e6
	_, _ = fmt.Fprintf(b.out, "%-52s %.1f MB\n", "size of "+file, float64(info.Size())/mb)
}
