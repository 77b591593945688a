package liveness

import (
	"testing"

	"github.com/hashicorp/memberlist"
)

// memberlist tells of changes with the lock held that reading the members needs.
// When many nodes join at once, it must not have to wait for us.
func TestTellingOfManyMembersDoesNotBlock(t *testing.T) {
	r := newRoll()
	n := &memberlist.Node{Name: "node1"}
	for range 1000 {
		r.NotifyJoin(n)
		r.NotifyLeave(n)
		r.NotifyUpdate(n)
	}
	select {
	case <-r.changed:
	default:
		t.Error("the change was lost")
	}
	n.Meta = append(n.Meta, "changed by memberlist"...)
	if got := r.members()["node1"]; got == nil || len(got.Meta) != 0 {
		t.Errorf("got %v, want what it was when it was told of", got)
	}
}
