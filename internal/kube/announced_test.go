package kube_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/kube"
)

func TestFeedSaysWhoAnnounces(t *testing.T) {
	l := newLab(t)
	first, second := l.reporter(l.node("n1"), hurry), l.reporter(l.node("n2"), hurry)
	first.Set(announcing{l.key("a"): {L2: true, Peers: []string{"r"}}, l.key("b"): {L2: true}})
	second.Set(announcing{l.key("a"): {Peers: []string{"r"}}})
	l.saidIs("bgp NS/a on n1 to [r]", "bgp NS/a on n2 to [r]", "layer2 NS/a on n1 by []", "layer2 NS/b on n1 by []")

	v := l.watch(l.connect(kube.Options{Announcements: true}))
	want := func(name string, want lb.Announcement) {
		t.Helper()
		v.until(func() string {
			if v.announced == nil {
				return "nothing is known"
			}
			return cmp.Diff(want, v.announced[l.key(name)])
		})
	}
	both := lb.Announcement{L2: []string{first.node}, BGP: []string{first.node, second.node}}
	want("a", both)
	want("b", lb.Announcement{L2: []string{first.node}})

	first.Set(announcing{l.key("a"): {Peers: []string{"r"}}, l.key("b"): {}})
	second.Set(announcing{l.key("a"): {L2: true, Peers: []string{"r"}}})
	want("a", lb.Announcement{L2: []string{second.node}, BGP: both.BGP})
	want("b", lb.Announcement{})

	// A reader that starts anew is told all of it.
	v.announced = nil
	v.feed.Rewind()
	want("a", lb.Announcement{L2: []string{second.node}, BGP: both.BGP})

	second.Set(announcing{l.key("a"): {}})
	first.Set(announcing{l.key("a"): {}})
	want("a", lb.Announcement{})
	if _, ok := v.announced[l.key("nobody")]; ok {
		t.Error("it tells of a Service that nobody announces")
	}
	if d := v.feed.Drain(); d.Announced != nil {
		t.Errorf("nothing has changed: %v", d.Announced)
	}
}

// Without the option nobody asks the API server for what may be millions of objects.
func TestFeedWithoutAnnouncements(t *testing.T) {
	l := newLab(t)
	r := l.reporter(l.node("n1"), hurry)
	r.Set(announcing{l.key("a"): {L2: true}})
	l.saidIs("layer2 NS/a on n1 by []")
	v := l.watch(l.connect(kube.Options{}))
	v.feed.Rewind()
	if v.drain(); v.announced != nil {
		t.Errorf("it tells %v", v.announced)
	}
	if o, ok := l.one("a").(*v1beta1.ServiceL2Status); !ok || o.Status.Node != r.node {
		t.Errorf("got %+v", o)
	}
}
