package lb_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/lb"
)

func TestConditionAnnounced(t *testing.T) {
	nodes := func(n int) []string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf("n%02d", i+1))
		}
		return out
	}
	const ten = "n01, n02, n03, n04, n05, n06, n07, n08, n09"
	for name, c := range map[string]struct {
		a    lb.Announcement
		want string
	}{
		"one owner":    {lb.Announcement{L2: nodes(1)}, "true Announced layer2 from n01"},
		"two routers":  {lb.Announcement{BGP: nodes(2)}, "true Announced bgp from n01 and n02"},
		"three":        {lb.Announcement{BGP: nodes(3)}, "true Announced bgp from n01, n02 and n03"},
		"both":         {lb.Announcement{L2: []string{"n02"}, BGP: nodes(2)}, "true Announced layer2 from n02; bgp from n01 and n02"},
		"ten":          {lb.Announcement{BGP: nodes(10)}, "true Announced bgp from " + ten + " and n10"},
		"eleven":       {lb.Announcement{BGP: nodes(11)}, "true Announced bgp from " + ten + ", n10 and 1 other"},
		"many":         {lb.Announcement{BGP: nodes(48)}, "true Announced bgp from " + ten + ", n10 and 38 others"},
		"nowhere":      {lb.Announcement{}, "false NotAnnounced no node announces it: "},
		"empty slices": {lb.Announcement{L2: []string{}, BGP: []string{}}, "false NotAnnounced no node announces it: "},
	} {
		ok, reason, message := c.a.Condition()
		got := fmt.Sprintf("%t %s %s", ok, reason, message)
		if !ok { // where to look is for people
			if !strings.Contains(message, "ConfigurationState") {
				t.Errorf("%s: it does not say where to look: %s", name, message)
			}
			got = got[:strings.Index(got, ": ")+2]
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The message of a condition may be 32768 bytes long, the name of a node 253.
func TestConditionIsBounded(t *testing.T) {
	long := make([]string, 1000)
	for i := range long {
		long[i] = strings.Repeat("x", 253)
	}
	_, _, message := lb.Announcement{L2: long, BGP: long}.Condition()
	if len(message) > 8192 {
		t.Errorf("message of %d bytes", len(message))
	}
}

func TestAnnouncementEqual(t *testing.T) {
	a := lb.Announcement{L2: []string{"a"}, BGP: []string{"a", "b"}}
	for name, c := range map[string]struct {
		b    lb.Announcement
		want bool
	}{
		"same":    {lb.Announcement{L2: []string{"a"}, BGP: []string{"a", "b"}}, true},
		"layer2":  {lb.Announcement{L2: []string{"b"}, BGP: []string{"a", "b"}}, false},
		"bgp":     {lb.Announcement{L2: []string{"a"}, BGP: []string{"a"}}, false},
		"nowhere": {lb.Announcement{}, false},
	} {
		if got := a.Equal(c.b); got != c.want {
			t.Errorf("%s: equal = %t", name, got)
		}
	}
}
