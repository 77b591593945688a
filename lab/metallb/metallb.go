// Package metallb is a peer that behaves, for the addresses that it is told of, as
// MetalLB's speaker does in Layer 2 mode: it meets the others by memberlist, with
// MetalLB's parameters and key; the owner of an address is the first by MetalLB's formula
// among the living members that are not excluded by a label; it answers ARP for what it
// owns and announces it for five seconds; and at SIGTERM it says that it leaves. It knows
// nothing that MetalLB's speakers do not tell each other.
//
// It exists to test fleets of both kinds, which migrations have for a while. It shares no
// code with the product, or one mistake could hide another.
package metallb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/barelb/barelb/lab/measure"
)

// Word is the word of a binary under which Run is mounted: `metallb-peer --addrs …`.
const Word = "metallb-peer"

// Options are what the peer is told by flags; the rest it has from MetalLB's environment
// variables, as the lab's speakers do.
type Options struct {
	Addrs []netip.Addr // the addresses of the Services, IPv4
	Peers []string     // where other members may be
	Link  string
}

// Args is the command line that makes a binary this peer.
func Args(self string, o Options) []string {
	addrs := make([]string, len(o.Addrs))
	for i, a := range o.Addrs {
		addrs[i] = a.String()
	}
	return []string{self, Word, "--addrs", strings.Join(addrs, ","), "--peers", strings.Join(o.Peers, ","), "--link", o.Link}
}

// Run is the peer, until ctx ends. args are what follows Word.
func Run(ctx context.Context, args []string, log io.Writer) error {
	fs := flag.NewFlagSet(Word, flag.ContinueOnError)
	fs.SetOutput(log)
	addrs := fs.String("addrs", "", "addresses of Services, with commas between")
	peers := fs.String("peers", "", "addresses of other members, with commas between")
	link := fs.String("link", "eth0", "link to answer on")
	if err := fs.Parse(args); err != nil {
		return err
	}
	o := Options{Link: *link, Peers: strings.Split(*peers, ",")}
	for text := range strings.SplitSeq(*addrs, ",") {
		a, err := netip.ParseAddr(text)
		if err != nil || !a.Is4() {
			return fmt.Errorf("parse --addrs: %q is no IPv4 address", text)
		}
		o.Addrs = append(o.Addrs, a)
	}
	p := &peer{
		o: o, node: os.Getenv("METALLB_NODE_NAME"), log: slog.New(slog.NewTextHandler(log, nil)),
		changed: make(chan struct{}, 1), owned: map[netip.Addr]time.Time{},
	}
	return p.run(ctx, log)
}

// The times of MetalLB's speaker.
const (
	announceFor   = 5 * time.Second
	announceEvery = 1100 * time.Millisecond
	leaveTimeout  = time.Second
	look          = 250 * time.Millisecond // at the nodes' labels; MetalLB watches them
)

// peer is one speaker; mu guards owned and excluded.
type peer struct {
	o       Options
	node    string
	log     *slog.Logger
	members *memberlist.Memberlist
	arp     *measure.Responder
	changed chan struct{}

	mu       sync.Mutex
	excluded map[string]bool
	owned    map[netip.Addr]time.Time // and until when each is announced
}

// NotifyJoin, NotifyLeave and NotifyUpdate are memberlist's to call.
func (p *peer) NotifyJoin(n *memberlist.Node) { p.tell("join", n) }

// NotifyLeave see NotifyJoin.
func (p *peer) NotifyLeave(n *memberlist.Node) { p.tell("leave", n) }

// NotifyUpdate see NotifyJoin.
func (p *peer) NotifyUpdate(n *memberlist.Node) { p.tell("update", n) }

func (p *peer) tell(what string, n *memberlist.Node) {
	p.log.Info("member", "event", what, "node", n.Name)
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *peer) run(ctx context.Context, log io.Writer) error {
	arp, err := measure.NewResponder(p.o.Link, func(a netip.Addr) (net.HardwareAddr, bool) { return p.arp.MAC(), p.owns(a) })
	if err != nil {
		return err
	}
	p.arp = arp
	defer func() { _ = arp.Close() }()
	cfg, err := p.config(log)
	if err != nil {
		return err
	}
	if p.members, err = memberlist.Create(cfg); err != nil {
		return fmt.Errorf("join the members: %w", err)
	}
	var tasks sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var answering error
	tasks.Go(func() { answering = arp.Run(ctx); cancel() })
	tasks.Go(func() { p.watchNodes(ctx) })
	go p.join(ctx) // which can take as long as TCP does
	p.serve(ctx)
	err = errors.Join(p.members.Leave(leaveTimeout), p.members.Shutdown())
	tasks.Wait()
	return errors.Join(err, answering)
}

// config is MetalLB's configuration of memberlist.
func (p *peer) config(log io.Writer) (*memberlist.Config, error) {
	cfg := memberlist.DefaultLANConfig()
	cfg.Name, cfg.BindAddr, cfg.Events, cfg.LogOutput = p.node, os.Getenv("METALLB_ML_BIND_ADDR"), p, log
	port, err := strconv.Atoi(os.Getenv("METALLB_ML_BIND_PORT"))
	if err != nil {
		return nil, fmt.Errorf("read METALLB_ML_BIND_PORT: %w", err)
	}
	cfg.BindPort, cfg.AdvertisePort = port, port
	secret, err := os.ReadFile(filepath.Join(os.Getenv("METALLB_ML_SECRET_KEY_PATH"), "secretkey"))
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	cfg.SecretKey = key(secret)
	return cfg, nil
}

// key is MetalLB's: the secret itself, followed by the digest of nothing, cut to the
// length of an AES-256 key.
func key(secret []byte) []byte {
	nothing := sha256.Sum256(nil)
	return slices.Concat(secret, nothing[:])[:32]
}

// watchNodes looks again and again which nodes have the label that excludes them.
func (p *peer) watchNodes(ctx context.Context) {
	rest, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		p.log.Error("read kubeconfig", "err", err)
		return
	}
	kube, err := kubernetes.NewForConfig(rest)
	if err != nil {
		p.log.Error("make client", "err", err)
		return
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if list, err := kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err == nil {
			p.exclude(list.Items)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *peer) exclude(nodes []corev1.Node) {
	now := map[string]bool{}
	for i := range nodes {
		if _, ok := nodes[i].Labels[corev1.LabelNodeExcludeBalancers]; ok {
			now[nodes[i].Name] = true
		}
	}
	p.mu.Lock()
	p.excluded = now
	p.mu.Unlock()
}

// join finds the others, and finds them again should all have been lost.
func (p *peer) join(ctx context.Context) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if p.members.NumMembers() <= len(p.o.Peers)/2 {
			_, _ = p.members.Join(p.o.Peers) // some are not there
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// serve elects and announces until ctx ends.
func (p *peer) serve(ctx context.Context) {
	tick := time.NewTicker(announceEvery)
	defer tick.Stop()
	again := time.NewTicker(look)
	defer again.Stop()
	for {
		p.elect()
		select {
		case <-ctx.Done():
			return
		case <-p.changed:
		case <-again.C:
		case <-tick.C:
			p.announce()
		}
	}
}

// elect takes and gives up addresses by who is alive now.
func (p *peer) elect() {
	p.mu.Lock()
	var alive []string
	for _, m := range p.members.Members() {
		if !p.excluded[m.Name] {
			alive = append(alive, m.Name)
		}
	}
	fresh := false
	for _, a := range p.o.Addrs {
		_, have := p.owned[a]
		switch mine := Owner(a, alive) == p.node; {
		case mine && !have:
			p.log.Info("announcing", "addr", a, "alive", alive)
			p.owned[a], fresh = time.Now().Add(announceFor), true
		case !mine && have:
			p.log.Info("withdrawing", "addr", a, "alive", alive)
			delete(p.owned, a)
		}
	}
	p.mu.Unlock()
	if fresh {
		p.announce()
	}
}

func (p *peer) announce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for a, until := range p.owned {
		if time.Now().Before(until) {
			_ = p.arp.Announce(a) // a link that is down has nobody to tell
		}
	}
}

func (p *peer) owns(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.owned[a]
	return ok
}

// Owner is the node that owns an address by MetalLB's formula: the one with the lowest
// SHA-256 of its name, "#" and the address.
func Owner(addr netip.Addr, nodes []string) string {
	best, owner := []byte(nil), ""
	for _, n := range nodes {
		sum := sha256.Sum256([]byte(n + "#" + addr.String()))
		if owner == "" || bytes.Compare(sum[:], best) < 0 {
			best, owner = sum[:], n
		}
	}
	return owner
}
