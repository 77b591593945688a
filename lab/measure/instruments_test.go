package measure_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/measure/backend"
)

// deadline bounds every wait of a test.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// serveIn runs a backend in a host, as pod "web" of a node called like it.
func serveIn(t *testing.T, h host, node string) *measure.Backend {
	t.Helper()
	opts := backend.Defaults()
	opts.Identity = backend.Identity{Pod: "web", Node: node}
	b, err := measure.StartBackend(t.Context(), h, self(t), opts)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestProbeMeasuresACutLink(t *testing.T) {
	for name, addrs := range map[string]struct{ client, server, vip string }{
		"v4": {"192.0.2.1/24", "192.0.2.2/24", "192.0.2.250"},
		"v6": {"2001:db8::1/64", "2001:db8::2/64", "2001:db8::fa"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			vip := netip.MustParseAddr(addrs.vip)
			client := l.add("c", addrs.client)
			server := l.add("s", addrs.server, netip.PrefixFrom(vip, vip.BitLen()).String())
			serveIn(t, server, "node1")
			ctx := deadline(t)
			p, err := measure.StartProbe(ctx, client, self(t), measure.ProbeOpts{Target: netip.AddrPortFrom(vip, 8080)})
			must(t, err)
			must(t, p.AwaitAnswers(ctx, 50))

			must(t, p.Mark("cut"))
			goingDown := time.Now()
			l.sw.ip("link set dev s down")
			isDown := time.Now()
			must(t, p.AwaitOutage(ctx, 60))
			upSoon := time.Now()
			l.sw.ip("link set dev s up")
			must(t, p.AwaitAnswers(ctx, 50))
			recovered := time.Now()
			must(t, p.Mark("after"))
			must(t, p.AwaitAnswers(ctx, 50))

			r, err := p.Stop()
			must(t, err)
			cut, err := r.After("cut")
			must(t, err)
			atLeast, atMost := measure.ToMillis(upSoon.Sub(isDown)), measure.ToMillis(recovered.Sub(goingDown))+r.MaxGap
			t.Logf("link down for %v ms at least, outage %v ms, lost %d of %d, prober's largest gap %v ms, rtt %+v",
				atLeast, cut.Longest, r.Lost, r.Sent, r.MaxGap, r.RTT)
			if cut.Longest < atLeast || cut.Longest > atMost || cut.OpenEnd {
				t.Errorf("outage of %v ms (open %v), want %v to %v", cut.Longest, cut.OpenEnd, atLeast, atMost)
			}
			after, err := r.After("after")
			must(t, err)
			if after.Lost > 0 || after.Answered < 50 {
				t.Errorf("after recovery: %+v", after)
			}
			if r.Sent != r.Answered+r.Lost || len(r.Backends) != 1 || r.Backends[0].Name != "node1/web" {
				t.Errorf("counts do not add up: %+v", r)
			}
		})
	}
}

func TestProbeWithoutAnyAnswerIsOneOpenOutage(t *testing.T) {
	l := newLAN(t)
	client := l.add("c", "192.0.2.1/24")
	ctx := deadline(t)
	p, err := measure.StartProbe(ctx, client, self(t), measure.ProbeOpts{
		Target: netip.MustParseAddrPort("192.0.2.250:8080"), Ports: 4, Timeout: 50 * time.Millisecond,
	})
	must(t, err)
	must(t, p.AwaitOutage(ctx, 20))
	r, err := p.Stop()
	must(t, err)
	if r.Answered != 0 || r.Lost < 20 || len(r.Outages) != 1 || !r.Outages[0].OpenStart || !r.Outages[0].OpenEnd {
		t.Errorf("got %+v", r)
	}
}

// lastCommand is a host that remembers the process it was last asked for.
type lastCommand struct {
	host
	cmd *exec.Cmd
}

func (l *lastCommand) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	l.cmd = l.host.Command(ctx, name, args...)
	return l.cmd
}

// awaitStopped returns when every thread of a process has heeded SIGSTOP.
func awaitStopped(t *testing.T, pid int) {
	t.Helper()
	ctx := deadline(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		must(t, err)
		stopped := len(all) > 0
		for _, file := range all {
			text, err := os.ReadFile(file)
			must(t, err)
			stopped = stopped && bytes.Contains(text, []byte(") T "))
		}
		if stopped {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the process is not stopped")
		}
	}
}

func TestProbeAdmitsThatItStalled(t *testing.T) {
	const stall = 200 * time.Millisecond
	l := newLAN(t)
	client, server := &lastCommand{host: l.add("c", "192.0.2.1/24")}, l.add("s", "192.0.2.2/24")
	serveIn(t, server, "node1")
	ctx := deadline(t)
	p, err := measure.StartProbe(ctx, client, self(t), measure.ProbeOpts{Target: netip.MustParseAddrPort("192.0.2.2:8080")})
	must(t, err)
	must(t, p.AwaitAnswers(ctx, 20))
	must(t, p.Mark("stall"))
	must(t, client.cmd.Process.Signal(syscall.SIGSTOP))
	awaitStopped(t, client.cmd.Process.Pid) // which it is when it has a core
	<-time.After(stall)                     // how long it is stopped is what is measured
	must(t, client.cmd.Process.Signal(syscall.SIGCONT))
	must(t, p.AwaitAnswers(ctx, 20))
	r, err := p.Stop()
	must(t, err)
	m, err := r.After("stall")
	must(t, err)
	if m.MaxGap < measure.ToMillis(stall) || r.Skipped < 35 || m.Outages != 0 {
		t.Errorf("gap %v, %d slots skipped, %d outages; want a gap of %v and no outage", m.MaxGap, r.Skipped, m.Outages, stall)
	}
}

func TestFlowsAndEntryAgree(t *testing.T) {
	for name, addrs := range map[string][3]string{
		"v4": {"192.0.2.1/24", "192.0.2.2/24", "192.0.2.2"},
		"v6": {"2001:db8::1/64", "2001:db8::2/64", "2001:db8::2"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			client, server := l.add("c", addrs[0]), l.add("s", addrs[1])
			serveIn(t, server, "node1")
			ctx := deadline(t)
			addr := netip.MustParseAddr(addrs[2])
			entry, err := measure.StartEntry(ctx, server, self(t), measure.EntryOpts{Target: netip.AddrPortFrom(addr, 8080)})
			must(t, err)
			for _, proto := range []string{"tcp", "udp"} {
				r, err := measure.RunFlows(ctx, client, self(t), measure.FlowsOpts{
					Target: netip.AddrPortFrom(addr, 8080), Proto: proto, Count: 60,
				})
				must(t, err)
				if diff := cmp.Diff([]measure.Share{{Name: "node1", Count: 60, Percent: 100}}, r.Nodes); diff != "" || r.Failed > 0 {
					t.Errorf("%s flows (-want +got):\n%s%+v", proto, diff, r.Failures)
				}
			}
			// To a port where nobody listens, which entry must not count.
			r, err := measure.RunFlows(ctx, client, self(t), measure.FlowsOpts{Target: netip.AddrPortFrom(addr, 9), Count: 5})
			must(t, err)
			if diff := cmp.Diff([]measure.Share{{Name: "refused", Count: 5, Percent: 100}}, r.Failures); diff != "" {
				t.Errorf("failures (-want +got):\n%s", diff)
			}
			got, err := entry.Stop()
			must(t, err)
			if got.TCP != 60 || got.UDP != 60 || got.Flows != 120 || got.Packets < 120 || got.Dropped != 0 {
				t.Errorf("entry counts %+v, want 60 and 60", got)
			}
		})
	}
}

func TestWhoHasFindsEverybody(t *testing.T) {
	for name, addrs := range map[string][3]string{
		"v4": {"192.0.2.1/24", "192.0.2.250/24", "192.0.2.250"},
		"v6": {"2001:db8::1/64", "2001:db8::fa/64", "2001:db8::fa"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			client := l.add("c", addrs[0])
			l.add("a", addrs[1])
			l.add("b", addrs[1])
			ctx := deadline(t)
			opts := measure.WhoHasOpts{Addr: netip.MustParseAddr(addrs[2]), Interval: 50 * time.Millisecond}
			// The first time they may only just be learning that their links are up.
			_, err := measure.WhoHas(ctx, client, self(t), opts)
			must(t, err)
			r, err := measure.WhoHas(ctx, client, self(t), opts)
			must(t, err)
			t.Logf("%+v", r)
			if diff := cmp.Diff([]string{"02:00:00:00:00:02", "02:00:00:00:00:03"}, r.MACs()); diff != "" {
				t.Errorf("MACs (-want +got):\n%s", diff)
			}
			for _, a := range r.Answers {
				if a.Count != r.Requests || a.MAC != a.From || a.First <= 0 {
					t.Errorf("answers of %s: %+v to %d requests", a.MAC, a, r.Requests)
				}
			}
			opts.Addr = opts.Addr.Next()
			if r, err = measure.WhoHas(ctx, client, self(t), opts); err != nil || len(r.Answers) > 0 {
				t.Errorf("for an address that nobody has: %+v, %v", r, err)
			}
		})
	}
}

func TestHoldReportsBrokenConnections(t *testing.T) {
	l := newLAN(t)
	client, server := l.add("c", "192.0.2.1/24"), l.add("s", "192.0.2.2/24")
	b := serveIn(t, server, "node1")
	ctx := deadline(t)
	hold, err := measure.StartHold(ctx, client, self(t), measure.HoldOpts{
		Target: netip.MustParseAddrPort("192.0.2.2:8081"), Conns: 10, Timeout: 5 * time.Second,
	})
	must(t, err)
	until := func(what string, condition func(measure.HoldStatus) bool) {
		t.Helper()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			s, err := hold.Status()
			must(t, err)
			if condition(s) {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("await %s: %+v", what, s)
			}
		}
	}
	// A short cut delays requests, and breaks none.
	must(t, hold.Mark("cut"))
	l.sw.ip("link set dev s down")
	until("all waiting", func(s measure.HoldStatus) bool { return s.Waiting == 10 })
	l.sw.ip("link set dev s up")
	until("none waiting", func(s measure.HoldStatus) bool { return s.Waiting == 0 })
	must(t, hold.Mark("stop"))
	must(t, b.Stop())
	until("all broken", func(s measure.HoldStatus) bool { return s.Broken == 10 })
	r, err := hold.Stop()
	must(t, err)
	t.Logf("%+v %+v", r.Waits, r.Marks)
	if r.Opened != 10 || r.Broken != 10 || len(r.Marks) != 2 {
		t.Fatalf("got %+v", r)
	}
	cut, stop := r.Marks[0], r.Marks[1]
	if cut.Broken != 0 || cut.SlowestWait < 100 {
		t.Errorf("cut: %+v, want no break and a wait of more than 100 ms", cut)
	}
	if stop.Broken != 10 || stop.First <= 0 || stop.Last < stop.First || r.Breaks[0].Mark != "stop" || r.Breaks[0].Node != "node1" {
		t.Errorf("stop: %+v, %+v, want 10 broken", stop, r.Breaks[0])
	}
}

func TestHoldSaysWhatDidNotOpen(t *testing.T) {
	l := newLAN(t)
	client := l.add("c", "192.0.2.1/24")
	hold, err := measure.StartHold(deadline(t), client, self(t), measure.HoldOpts{
		Target: netip.MustParseAddrPort("192.0.2.1:8081"), Conns: 3,
	})
	must(t, err)
	r, err := hold.Stop()
	must(t, err)
	if diff := cmp.Diff([]measure.Share{{Name: "refused", Count: 3, Percent: 100}}, r.NotOpened); diff != "" || r.Opened != 0 {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWatchRouteFollowsTheKernel(t *testing.T) {
	for name, c := range map[string]struct{ addr, prefix, via1, via2, within string }{
		"v4": {"192.0.2.1/24", "198.51.100.250/32", "192.0.2.11", "192.0.2.12", "198.51.100.0/24"},
		"v6": {"2001:db8::1/64", "2001:db8:1::fa/128", "2001:db8::11", "2001:db8::12", "2001:db8:1::/48"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t)
			r := l.add("r", c.addr)
			ctx := deadline(t)
			pfx := netip.MustParsePrefix(c.prefix)
			one, err := measure.StartWatchRoute(ctx, r, self(t), measure.RouteWatchOpts{Prefix: pfx})
			must(t, err)
			all, err := measure.StartWatchRoute(ctx, r, self(t), measure.RouteWatchOpts{
				Prefix: netip.MustParsePrefix(c.within), MoreSpecific: true,
			})
			must(t, err)
			hops := func(n int) func(measure.RouteChange) bool {
				return func(c measure.RouteChange) bool { return c.Present == (n > 0) && c.Usable() == n }
			}
			do := func(command string, n int) measure.RouteChange {
				t.Helper()
				before := time.Now()
				r.ip(command)
				var change measure.RouteChange
				for _, w := range []*measure.Watch[measure.RouteChange]{one, all} {
					change, err = w.Await(ctx, hops(n))
					must(t, err)
					if took := change.At.Sub(before); took < 0 || took > 5*time.Second {
						t.Errorf("ip %s: seen after %v", command, took)
					}
				}
				return change
			}
			if _, err := one.Await(ctx, func(c measure.RouteChange) bool { return c.Initial && !c.Present }); err != nil {
				t.Fatal(err)
			}
			do("route add "+c.prefix+" via "+c.via1, 1)
			got := do("route replace "+c.prefix+" nexthop via "+c.via1+" nexthop via "+c.via2, 2)
			want := []measure.Hop{
				{Via: netip.MustParseAddr(c.via1), Link: "eth0", Weight: 1},
				{Via: netip.MustParseAddr(c.via2), Link: "eth0", Weight: 1},
			}
			if !slices.Equal(got.Hops, want) || got.Prefix != pfx {
				t.Errorf("got %+v, want %+v", got, want)
			}
			do("route del "+c.prefix, 0)
			// As FRR installs routes: by next hop objects.
			r.ip("nexthop add id 1 via " + c.via1 + " dev eth0")
			r.ip("nexthop add id 2 via " + c.via2 + " dev eth0")
			r.ip("nexthop add id 3 group 1/2")
			do("route add "+c.prefix+" nhid 3 proto bgp", 2)
			do("nexthop del id 2", 1)
			do("nexthop del id 1", 0)

			changes, err := all.Stop()
			must(t, err)
			if len(changes) < 6 {
				t.Errorf("%d changes, want 6 or more: %+v", len(changes), changes)
			}
			_, err = one.Stop()
			must(t, err)
		})
	}
}

func TestWatchNeighFollowsTheKernel(t *testing.T) {
	l := newLAN(t)
	h := l.add("h", "192.0.2.1/24")
	ctx := deadline(t)
	addr := netip.MustParseAddr("192.0.2.250")
	h.ip("neigh add 192.0.2.250 dev eth0 lladdr 02:00:00:00:00:aa nud permanent")
	w, err := measure.StartWatchNeigh(ctx, h, self(t), measure.NeighWatchOpts{Addr: addr, Link: "eth0"})
	must(t, err)
	await := func(mac, state string) measure.NeighChange {
		t.Helper()
		c, err := w.Await(ctx, func(c measure.NeighChange) bool { return c.MAC == mac && c.State == state })
		must(t, err)
		return c
	}
	if c := await("02:00:00:00:00:aa", "permanent"); !c.Initial || c.Link != "eth0" || c.Addr != addr {
		t.Errorf("at the start: %+v", c)
	}
	h.ip("neigh replace 192.0.2.250 dev eth0 lladdr 02:00:00:00:00:bb nud reachable")
	await("02:00:00:00:00:bb", "reachable")
	h.ip("neigh replace 192.0.2.251 dev eth0 lladdr 02:00:00:00:00:cc nud reachable") // another
	h.ip("neigh del 192.0.2.250 dev eth0")
	c := await("", "deleted")
	changes, err := w.Stop()
	must(t, err)
	if last := changes[len(changes)-1]; last != c {
		t.Errorf("last change %+v, want %+v", last, c)
	}
	for _, c := range changes {
		if c.Addr != addr {
			t.Errorf("of an address that is not watched: %+v", c)
		}
	}
}

func TestWatchBGPSeesUpdates(t *testing.T) {
	l := newLAN(t)
	r := l.add("r", "192.0.2.1/24", "2001:db8::1/64")
	n := l.add("n", "192.0.2.2/24", "2001:db8::2/64")
	b, err := measure.StartBackend(t.Context(), r, self(t), backend.Options{TCP: ":179"})
	must(t, err)
	ctx := deadline(t)
	w, err := measure.StartWatchBGP(ctx, r, self(t), measure.BGPWatchOpts{})
	must(t, err)
	// A withdrawal of 198.51.100.250/32.
	message := strings.Repeat(`\xff`, 16) + `\x00\x1c\x02\x00\x05\x20\xc6\x33\x64\xfa\x00\x00`
	for _, addrs := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}} {
		before := time.Now()
		if out, err := n.Command(ctx, "bash", "-c", "printf '"+message+"' >/dev/tcp/"+addrs[0]+"/179").CombinedOutput(); err != nil {
			t.Fatalf("send: %v: %s", err, out)
		}
		u, err := w.Await(ctx, func(measure.Update) bool { return true })
		must(t, err)
		want := []netip.Prefix{netip.MustParsePrefix("198.51.100.250/32")}
		if u.From.String() != addrs[1] || !slices.Equal(u.Withdrawn, want) || u.Announced != nil || u.At.Before(before) || u.At.After(time.Now()) {
			t.Errorf("got %+v, sent after %s", u, before)
		}
	}
	all, err := w.Stop()
	must(t, err)
	if len(all) != 2 {
		t.Errorf("got %d updates: %+v", len(all), all)
	}
	must(t, b.Stop())
}

func TestBadArgumentsAreSaid(t *testing.T) {
	l := newLAN(t)
	h := l.add("h", "192.0.2.1/24")
	if _, err := measure.WhoHas(deadline(t), h, self(t), measure.WhoHasOpts{Addr: netip.MustParseAddr("192.0.2.9"), Link: "eth7"}); err == nil {
		t.Error("who-has on a link that does not exist: no error")
	} else {
		t.Log(err)
	}
	if _, err := measure.StartWatchRoute(deadline(t), h, self(t), measure.RouteWatchOpts{}); err == nil {
		t.Error("watch-route without a prefix: no error")
	} else {
		t.Log(err)
	}
}
