package failover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/barelb/barelb/lab/cluster"
	"github.com/barelb/barelb/lab/measure"
	"github.com/barelb/barelb/lab/system"
)

const (
	namespace = metav1.NamespaceDefault
	patience  = 3 * time.Minute
	poll      = 20 * time.Millisecond
	// quiet is a host of the LAN that has nothing to do with the addresses: who asks from
	// there refreshes nobody's neighbour entry.
	quiet = cluster.Control
	// ports is how many source ports a probe uses in turn.
	ports = 200
	conns = 50
)

// pools has an address of each family, and sixteen in a row.
const pools = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: web, namespace: metallb-system}
spec: {addresses: [192.168.1.250/32, "fd00:1::250/128"]}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: row, namespace: metallb-system}
spec: {addresses: [192.168.1.192/28]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: row, namespace: metallb-system}
spec: {ipAddressPools: [row]}
`

// advertisement announces the pool web from the nodes that are named, all if none is.
func advertisement(nodes ...string) string {
	spec := "{ipAddressPools: [web]}"
	if len(nodes) > 0 {
		spec = "{ipAddressPools: [web], nodeSelectors: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [" + strings.Join(nodes, ", ") + "]}]}]}"
	}
	return "apiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata: {name: web, namespace: metallb-system}\nspec: " + spec + "\n"
}

// addresses are those of one Service, or some in a row, and who owns the first.
type addresses struct {
	list  []netip.Addr
	first string
}

// prepare makes the Services, and places their endpoints.
func (b *bench) prepare(ctx context.Context) error {
	b.macs = map[string]string{}
	for _, node := range b.c.Nodes() {
		if err := b.c.Box(node).InNetns(func() error {
			link, err := net.InterfaceByName("eth0")
			if err == nil {
				b.macs[link.HardwareAddr.String()] = node
			}
			return err
		}); err != nil {
			return fmt.Errorf("find link of %s: %w", node, err)
		}
	}
	announce := advertisement()
	if b.way != layer2 {
		announce = bgpManifest
	}
	for _, m := range []string{pools, announce} {
		if err := b.c.ApplyYAML(ctx, m); err != nil {
			return err
		}
	}
	if err := b.sys.PlaceBackends(ctx, b.c.Nodes()...); err != nil {
		return err
	}
	from := func(pool string) map[string]string { return map[string]string{"metallb.io/address-pool": pool} }
	if err := b.sys.CreateService(ctx, system.Service{
		Name: "web", Annotations: from("web"), Policy: corev1.IPFamilyPolicyRequireDualStack,
		Families: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
	}); err != nil {
		return err
	}
	var err error
	if b.web.list, err = b.sys.AwaitAddresses(ctx, namespace, "web", 2); err != nil {
		return err
	}
	if b.way != layer2 {
		b.web.first = b.c.Nodes()[0] // any will do
	} else if b.web.first, err = b.owner(ctx, b.web.list[0], ""); err != nil {
		return err
	}
	if len(b.c.Nodes()) < many {
		// The outage of a pod is not that of the address: the owner has none.
		return b.sys.PlaceBackends(ctx, b.without(b.web.first)...)
	}
	const inRow = 16
	for i := range inRow {
		name := fmt.Sprintf("row-%d", i)
		if err := b.sys.CreateService(ctx, system.Service{Name: name, Annotations: from("row")}); err != nil {
			return err
		}
		if _, err := b.sys.AwaitAddresses(ctx, namespace, name, 1); err != nil {
			return err
		}
		b.row.list = append(b.row.list, netip.AddrFrom4([4]byte{192, 168, 1, byte(192 + i)}))
	}
	return nil
}

// many nodes have addresses in a row.
const many = 9

func (b *bench) without(node string) []string {
	return slices.DeleteFunc(b.c.Nodes(), func(n string) bool { return n == node })
}

// owner waits until one node alone answers for an address, with its own MAC and from it,
// twice in a row; if want is not empty, until it is one of these nodes, with commas between.
func (b *bench) owner(ctx context.Context, addr netip.Addr, want string) (string, error) {
	owner, last := "", ""
	err := b.await(ctx, "owner of "+addr.String()+" "+want, func(ctx context.Context) error {
		r, err := measure.WhoHas(ctx, b.c.Box(quiet), b.self, measure.WhoHasOpts{Addr: addr, Tries: 2, Interval: 50 * time.Millisecond})
		if err != nil {
			return err
		}
		owner = ""
		if len(r.Answers) == 1 && r.Answers[0].MAC == r.Answers[0].From {
			owner = b.macs[r.Answers[0].MAC]
		}
		was := last
		last = owner
		if owner == "" || was != owner || want != "" && !slices.Contains(strings.Split(want, ","), owner) {
			return fmt.Errorf("answers from %+v", r.Answers)
		}
		return nil
	})
	return owner, err
}

// used waits until both clients use a node for the addresses of web, by their or their
// router's neighbour entries.
func (b *bench) used(ctx context.Context, node string) error {
	return b.await(ctx, "clients to use "+node, func(ctx context.Context) error {
		for _, host := range []string{cluster.Client, cluster.Router1} {
			for _, addr := range b.web.list {
				out, err := b.c.Box(host).Command(ctx, "ip", "neigh", "show", addr.String(), "dev", "eth0").Output()
				if err != nil {
					return fmt.Errorf("list neighbours of %s: %w", host, err)
				}
				fields := strings.Fields(string(out))
				i := slices.Index(fields, "lladdr")
				if i < 0 || i+1 == len(fields) || b.macs[fields[i+1]] != node {
					return fmt.Errorf("%s has %q", host, out)
				}
			}
		}
		return nil
	})
}

// settled waits until traffic goes the way that it went in the beginning.
func (b *bench) settled(ctx context.Context) error {
	if b.way != layer2 {
		return b.spoken(ctx)
	}
	if _, err := b.owner(ctx, b.web.list[0], b.web.first); err != nil {
		return err
	}
	return b.used(ctx, b.web.first)
}

// await polls until ok returns nil.
func (b *bench) await(ctx context.Context, what string, ok func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var last error
	for {
		err := ok(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last: %w", what, ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// patch changes a node by a merge patch.
func (b *bench) patch(ctx context.Context, node, patch string) error {
	_, err := b.c.Client().CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("patch %s: %w", node, err)
	}
	return nil
}

// probes are a probe from each client to each address of web.
type probes struct {
	of  []*measure.Probe
	who []string
}

// clients are the hosts that use the addresses: with BGP those behind the router.
func (b *bench) clients() []string {
	if b.way != layer2 {
		return []string{cluster.Remote}
	}
	return []string{cluster.Client, cluster.Remote}
}

func (b *bench) probes(ctx context.Context) (*probes, error) {
	p := &probes{}
	for _, from := range b.clients() {
		for _, addr := range b.web.list {
			one, err := measure.StartProbe(ctx, b.c.Box(from), b.self, measure.ProbeOpts{Target: netip.AddrPortFrom(addr, system.Port), Ports: ports})
			if err != nil {
				p.drop()
				return nil, err
			}
			p.of, p.who = append(p.of, one), append(p.who, from+", "+family(addr))
		}
	}
	return p, p.steady(ctx)
}

func family(addr netip.Addr) string {
	if addr.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// steady waits until every flow of every probe was answered since the last mark.
func (p *probes) steady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, one := range p.of {
		if err := one.AwaitAnswers(ctx, ports+1); err != nil {
			return err
		}
	}
	return nil
}

func (p *probes) mark(name string) error {
	var errs []error
	for _, one := range p.of {
		errs = append(errs, one.Mark(name))
	}
	return errors.Join(errs...)
}

// drop ends the probes; what they saw is of no use.
func (p *probes) drop() {
	for _, one := range p.of {
		_, _ = one.Stop()
	}
}

// report ends the probes and adds a row for each client to the table, for each kind of marks.
func (p *probes) report(t *tables, kinds ...kind) error {
	_ = p.mark("end")
	for i, one := range p.of {
		r, err := one.Stop()
		if err != nil {
			return err
		}
		for _, k := range kinds {
			if err := t.outage(k.title, p.who[i], r, k.marks); err != nil {
				return err
			}
		}
	}
	return nil
}

// lost ends the probes and returns how many datagrams were lost since their last mark.
func (p *probes) lost(mark string) (int, error) {
	n := 0
	for _, one := range p.of {
		r, err := one.Stop()
		if err != nil {
			return 0, err
		}
		m, err := r.After(mark)
		if err != nil {
			return 0, err
		}
		n += m.Lost
	}
	return n, nil
}

// kind is a row of the outages: its title, and the marks of its trials.
type kind struct {
	title string
	marks []string
}

// next returns the mark of the next trial.
func (k *kind) next() string {
	k.marks = append(k.marks, fmt.Sprintf("%s %d", k.title, len(k.marks)))
	return k.marks[len(k.marks)-1]
}

// asks asks for each address of web, where somebody answers.
func (b *bench) asks(ctx context.Context) ([]*measure.Ask, error) {
	if b.way != layer2 {
		return nil, nil
	}
	var all []*measure.Ask
	for _, addr := range b.web.list {
		a, err := measure.StartAsk(ctx, b.c.Box(quiet), b.self, measure.AskOpts{First: addr})
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}
