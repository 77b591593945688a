package liveness

import "testing"

// memberlist tells of changes with the lock held that reading the members needs.
// When many nodes join at once, it must not have to wait for us.
func TestTellingOfManyMembersDoesNotBlock(t *testing.T) {
	e := make(events, 1)
	for range 1000 {
		e.NotifyJoin(nil)
		e.NotifyLeave(nil)
		e.NotifyUpdate(nil)
	}
	select {
	case <-e:
	default:
		t.Error("the change was lost")
	}
}
