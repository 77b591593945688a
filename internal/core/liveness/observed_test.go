package liveness_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/barelb/barelb/internal/core/liveness"
)

func TestObserved(t *testing.T) {
	o := newOne(liveness.Options{})
	o.world(serving(0), serving(1))
	states := func() map[string]string {
		out := map[string]string{}
		for _, x := range o.Observed() {
			out[x.Node+" "+x.Link] = x.State.String()
		}
		return out
	}
	check := func(what string, want string) {
		t.Helper()
		if diff := cmp.Diff(map[string]string{"node1 " + serving(0).Links[0].Name: want}, states()); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	o.run(5*time.Second, always)
	check("it answers", "answers")
	if loss := o.Observed()[0].Loss; loss != 0 {
		t.Errorf("loss %v although nothing was lost", loss)
	}
	for i := 0; states()["node1 "+serving(0).Links[0].Name] != "dead"; i++ {
		if i == 100 {
			t.Fatalf("it never died: %v", states())
		}
		o.run(100*time.Millisecond, never)
		o.Step(o.now, liveness.Heard{Link: serving(0).Links[0].Name, MAC: macOf(77), At: o.now}) // we are not cut off
	}
}
