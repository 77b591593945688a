package kube_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

// sessions starts a writer of session status of a node, and returns it and the number
// of its writes.
func (l *lab) sessions(node string) (*kube.SessionWriter, *atomic.Int32, func()) {
	l.t.Helper()
	writes := &atomic.Int32{}
	c := l.connect(kube.Options{NodeName: node}, func(cfg *rest.Config) {
		cfg.Wrap(func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(req *http.Request) (*http.Response, error) {
				if req.Method != http.MethodGet && strings.Contains(req.URL.Path, "bgpsessionstatuses") {
					writes.Add(1)
				}
				return next.RoundTrip(req)
			})
		})
	})
	w := c.SessionWriter()
	w.Hurry(hurry)
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.Run(ctx); err != nil {
			l.t.Errorf("Run: %v", err)
		}
	}()
	stop := func() { cancel(); <-done }
	l.t.Cleanup(stop)
	l.run(c.Run)
	return w, writes, stop
}

// sessionsOf returns what the objects of a node say, sorted.
func (l *lab) sessionsOf(node string) []string {
	l.t.Helper()
	var list v1beta1.BGPSessionStatusList
	if err := l.client.List(context.WithoutCancel(l.t.Context()), &list, client.InNamespace(system), client.MatchingLabels{v1beta1.LabelNode: node}); err != nil {
		l.t.Fatal(err)
	}
	var all []string
	for i := range list.Items {
		o := &list.Items[i]
		s := o.Status
		all = append(all, fmt.Sprint(o.Labels[v1beta1.LabelPeer], " ", s.Node == node, " ", s.Peer, " ", s.BGPPeer, " ", s.BGPStatus, " ", s.BFDStatus, " ", s.Message,
			" ", s.AddressFamilies, " ", s.AdvertisedPrefixes, "/", s.WantedPrefixes))
	}
	slices.Sort(all)
	return all
}

func TestSessionStatus(t *testing.T) {
	l := newLab(t)
	node := l.namespace + "-s"
	w, writes, stop := l.sessions(node)
	up := kube.SessionState{
		Peer: "r1", Router: "10.0.0.1", BGP: "Established", BFD: "Up", Since: time.Now(), LocalAddr: "10.0.0.9", RouterASN: 64513,
		HoldTime: 90 * time.Second, Keepalive: 30 * time.Second, Families: []lb.Family{lb.IPv4, lb.IPv6}, Wanted: 3, Advertised: 2,
	}
	down := kube.SessionState{Peer: "r2", Router: "10.0.0.2", BGP: "Connect", Since: time.Now(), Message: "refuses connections", Wanted: 3}
	says := func(want ...string) {
		t.Helper()
		l.eventually(func() string { return cmp.Diff(want, l.sessionsOf(node)) })
	}
	w.Set([]kube.SessionState{up, down})
	const r1, r2 = "r1 true 10.0.0.1 r1 Established Up  [IPv4 IPv6] 2/3", "r2 true 10.0.0.2 r2 Connect N/A refuses connections [] 0/3"
	says(r1, r2)
	if got := writes.Load(); got != 4 { // each with its status
		t.Errorf("%d writes of two objects", got)
	}
	// What is the same is not written again; what another node says is not touched.
	other, _, _ := l.sessions(node + "2")
	other.Set([]kube.SessionState{up})
	of := func(node string, n int) {
		t.Helper()
		l.eventually(func() string {
			if got := l.sessionsOf(node); len(got) != n {
				return fmt.Sprint(got)
			}
			return ""
		})
	}
	of(node+"2", 1)
	down.BGP, down.Message = "Established", ""
	w.Set([]kube.SessionState{up, down})
	says(r1, "r2 true 10.0.0.2 r2 Established N/A  [] 0/3")
	if got := writes.Load(); got != 5 {
		t.Errorf("%d writes after one change", got)
	}
	// A new process puts right what its predecessor left.
	stop()
	w, writes, _ = l.sessions(node)
	w.Set([]kube.SessionState{up})
	says(r1)
	if got := writes.Load(); got != 1 {
		t.Errorf("%d writes to delete one object", got)
	}
	w.Set(nil)
	says()
	other.Set(nil)
	of(node+"2", 0)
}
