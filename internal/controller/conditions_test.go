package controller_test

import (
	"fmt"
	"testing"

	"github.com/barelb/barelb/internal/core/config"
)

// TestInUseFollowsServices: the first Service of a pool and the last one are news for the
// pool's conditions; what is told between is the same value, so that nobody compares it.
func TestInUseFollowsServices(t *testing.T) {
	story(t, func(w *world) {
		w.pool("p", "192.0.2.0/24")
		w.pool("bad", "192.0.2.0/33")
		w.start()
		inUse := func(name string) bool {
			t.Helper()
			for _, s := range w.objects {
				if s.Kind == config.KindIPAddressPool && s.Name == name {
					return s.InUse.True
				}
			}
			t.Fatalf("nothing is told of pool %s", name)
			return false
		}
		if len(w.objects) != 2 || inUse("p") || inUse("bad") || w.objects[0].Accepted.True || !w.objects[1].Accepted.True {
			t.Errorf("without Services: %+v", w.objects)
		}
		w.step("the first one", func() { w.service("first") })
		told := w.objects
		if !inUse("p") {
			t.Errorf("with one Service: %+v", w.objects)
		}
		for i := range 20 {
			w.step("one comes, one goes", func() {
				w.service(fmt.Sprint("more", i))
				w.deleteService(fmt.Sprint("more", i-1))
			})
			if &w.objects[0] != &told[0] {
				t.Fatal("it is judged anew for each Service")
			}
		}
		w.step("all but one go", func() { w.deleteService("first") })
		if !inUse("p") {
			t.Error("one is left")
		}
		w.step("the last one goes", func() { w.deleteService("more19") })
		if inUse("p") {
			t.Error("none is left")
		}
		w.step("one that holds an address of a bad pool", func() { w.service("held", holds("bad", "198.51.100.1")) })
		if !inUse("bad") {
			t.Errorf("held: %+v", w.objects)
		}
	})
}
