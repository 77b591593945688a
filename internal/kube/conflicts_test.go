package kube_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/barelb/v1alpha1"
	"github.com/barelb/barelb/internal/core/lb"
	"github.com/barelb/barelb/internal/core/wire"
	"github.com/barelb/barelb/internal/kube"
)

// conflictWriter runs the writer of a node's speaker. All AddressConflicts go at the
// end of the test.
func (l *lab) conflictWriter(node string, change ...func(*rest.Config)) *kube.ConflictWriter {
	l.t.Helper()
	l.t.Cleanup(func() { // after the writer has ended
		if err := l.client.DeleteAllOf(context.WithoutCancel(l.t.Context()), &v1alpha1.AddressConflict{}, client.InNamespace(system)); err != nil {
			l.t.Errorf("delete address conflicts: %v", err)
		}
	})
	c := l.connect(kube.Options{NodeName: node}, change...)
	l.watch(c)
	w := c.ConflictWriter()
	l.run(w.Run)
	return w
}

// inUse returns a report by a node.
func inUse(node string, addrs ...string) wire.Report {
	var r wire.Report
	for _, a := range addrs {
		r.InUse = append(r.InUse, lb.WireConflict{Addr: netip.MustParseAddr(a), MAC: "02:00:00:00:00:09", Node: node, Link: "eth0"})
	}
	return r
}

// conflictsAre waits for what AddressConflicts there are, as names and reporters.
func (l *lab) conflictsAre(want ...string) []v1alpha1.AddressConflict {
	l.t.Helper()
	var list v1alpha1.AddressConflictList
	l.eventually(func() string {
		if err := l.client.List(l.t.Context(), &list, client.InNamespace(system)); err != nil {
			return err.Error()
		}
		got := []string{}
		for _, o := range list.Items {
			got = append(got, o.Name+" "+o.Spec.Node)
		}
		slices.Sort(got)
		return cmp.Diff(strings.Join(want, "\n"), strings.Join(got, "\n"))
	})
	return list.Items
}

func TestConflictsAreWritten(t *testing.T) {
	l := newLab(t)
	w := l.conflictWriter("n1")
	w.Set(inUse("n1", "192.0.2.7", "2001:db8::7"))
	got := l.conflictsAre("192.0.2.7 n1", "2001-0db8-0000-0000-0000-0000-0000-0007 n1")
	want := v1alpha1.AddressConflictSpec{Address: "2001:db8::7", MAC: "02:00:00:00:00:09", Node: "n1", Interface: "eth0"}
	if diff := cmp.Diff(want, got[1].Spec); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// What somebody deletes is written again.
	l.delete(&got[0])
	if again := l.conflictsAre("192.0.2.7 n1", "2001-0db8-0000-0000-0000-0000-0000-0007 n1"); again[0].UID == got[0].UID {
		t.Error("it was not deleted") // or the next check would see the old one
	}
	w.Set(inUse("n1", "192.0.2.8"))
	l.conflictsAre("192.0.2.8 n1")
	w.Set(wire.Report{})
	l.conflictsAre()
}

func TestConflictsBelongToTheirReporter(t *testing.T) {
	l := newLab(t)
	one, two := l.conflictWriter("n1"), l.conflictWriter("n2")
	one.Set(inUse("n1", "192.0.2.1", "192.0.2.2"))
	l.conflictsAre("192.0.2.1 n1", "192.0.2.2 n1")
	two.Set(inUse("n2", "192.0.2.2", "192.0.2.3"))
	l.conflictsAre("192.0.2.1 n1", "192.0.2.2 n1", "192.0.2.3 n2")
	two.Set(inUse("n2", "192.0.2.2")) // takes back its own alone
	l.conflictsAre("192.0.2.1 n1", "192.0.2.2 n1")
	one.Set(wire.Report{})
	l.conflictsAre("192.0.2.2 n2") // the other one still hears it

	// A reporter that is gone cannot take back; who found that it is over does.
	left := &v1alpha1.AddressConflict{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "192.0.2.9"},
		Spec:       v1alpha1.AddressConflictSpec{Address: "192.0.2.9", MAC: "02:00:00:00:00:09", Node: "gone"},
	}
	l.create(left)
	l.conflictsAre("192.0.2.2 n2", "192.0.2.9 gone")
	one.Set(wire.Report{Over: []netip.Addr{netip.MustParseAddr("192.0.2.9")}})
	l.conflictsAre("192.0.2.2 n2")
}

func TestConflictsThatStayAreNotWritten(t *testing.T) {
	l := newLab(t)
	w := l.conflictWriter("n1")
	w.Set(inUse("n1", "192.0.2.1"))
	l.conflictsAre("192.0.2.1 n1")
	events, err := l.client.Watch(t.Context(), &v1alpha1.AddressConflictList{}, client.InNamespace(system))
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	for i := range 5 {
		r := inUse("n1", "192.0.2.1")
		r.InUse[0].MAC = fmt.Sprintf("02:00:00:00:00:%02x", i) // an address that fails over; it stays in use
		w.Set(r)
	}
	w.Set(inUse("n1", "192.0.2.1", "192.0.2.2"))
	seen := map[string]bool{}
	for e := range events.ResultChan() {
		o, ok := e.Object.(*v1alpha1.AddressConflict)
		if !ok || e.Type != watch.Added || seen[o.Name] {
			t.Fatalf("%s %v", e.Type, e.Object)
		}
		seen[o.Name] = true
		if o.Name == "192.0.2.2" {
			return
		}
	}
	t.Fatal("the watch ended")
}

func TestConflictWriterOutlivesTheAPIServer(t *testing.T) {
	l := newLab(t)
	cable := newLine(t)
	w := l.conflictWriter("n1", cable.through, func(cfg *rest.Config) { cfg.Timeout = time.Second })
	w.Set(inUse("n1", "192.0.2.1", "192.0.2.2"))
	l.conflictsAre("192.0.2.1 n1", "192.0.2.2 n1")
	cable.set(true)
	w.Set(inUse("n1", "192.0.2.3"))
	w.Set(inUse("n1", "192.0.2.2", "192.0.2.4"))
	cable.set(false)
	l.conflictsAre("192.0.2.2 n1", "192.0.2.4 n1")
}

// What a speaker left behind before it was started again is not touched before it has
// anything to say.
func TestConflictsOutliveTheirWriter(t *testing.T) {
	l := newLab(t)
	left := &v1alpha1.AddressConflict{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: "192.0.2.1"},
		Spec:       v1alpha1.AddressConflictSpec{Address: "192.0.2.1", MAC: "02:00:00:00:00:09", Node: "n1"},
	}
	l.create(left)
	w := l.conflictWriter("n1")
	other := l.conflictWriter("n2")
	other.Set(inUse("n2", "192.0.2.2")) // touches the objects of n1's writer
	if got := l.conflictsAre("192.0.2.1 n1", "192.0.2.2 n2"); got[0].UID != left.UID {
		t.Error("it was deleted and made again")
	}
	w.Set(wire.Report{})
	l.conflictsAre("192.0.2.2 n2")
}
