package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/api/v1beta2"
	"github.com/barelb/barelb/internal/core/config"
)

// objectID names a configuration object.
type objectID struct{ kind, name string }

// sent is what was written of an object last, and the version that it had then.
type sent struct{ version, text string }

// sameSlice reports whether a and b are one value, not two that are equal.
func sameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// writeObjects writes the conditions of all objects but pools.
func (w *StateWriter) writeObjects(ctx context.Context, s State) error {
	var errs []error
	for i := range s.Objects {
		st := &s.Objects[i]
		if st.Kind == config.KindIPAddressPool {
			continue
		}
		err := w.writeObject(ctx, st)
		if apierrors.IsConflict(err) { // the news is on its way to us
			w.objects.Store(true)
			w.again(s)
		} else if err != nil {
			errs = append(errs, fmt.Errorf("status of %s %s: %w", st.Kind, st.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (w *StateWriter) writeObject(ctx context.Context, st *config.Status) error {
	o := w.object(ctx, st.Kind, st.Name)
	if o == nil || o.GetGeneration() != st.Generation { // what is to be told of the one that is there now comes soon
		return nil
	}
	changed := tellConditions(conditionsOf(o), st)
	if st.Keep {
		kept, err := keepGood(o, st)
		if err != nil {
			return err
		}
		changed = changed || kept
	}
	if !changed {
		return nil
	}
	return w.updateStatus(ctx, o, objectID{st.Kind, st.Name}, st)
}

// object returns a configuration object as it is known, or nil.
//
//nolint:ireturn // one of six kinds
func (w *StateWriter) object(ctx context.Context, kind, name string) client.Object {
	o, _ := newObject(kind)
	if o == nil || w.c.cache.Get(ctx, client.ObjectKey{Namespace: w.c.opts.Namespace, Name: name}, o) != nil {
		return nil
	}
	return o
}

// updateStatus writes the status of o, which says what about says. If the API server has
// kept less of just that the last time, as it does with CRDs that do not know all of it,
// it is not asked again.
func (w *StateWriter) updateStatus(ctx context.Context, o client.Object, id objectID, about any) error {
	text, err := json.Marshal(about)
	if err != nil {
		return fmt.Errorf("compare with what was written: %w", err)
	}
	if (sent{o.GetResourceVersion(), string(text)}) == w.sent[id] {
		return nil
	}
	err = w.c.background.Status().Update(ctx, o)
	if err != nil && !apierrors.IsNotFound(err) { // it may be gone; or its CRD has no status at all
		return err
	}
	w.sent[id] = sent{o.GetResourceVersion(), string(text)}
	return nil
}

// forget drops what was written of objects that are gone.
func (w *StateWriter) forget(s State) {
	there := map[objectID]bool{}
	for i := range s.Objects {
		there[objectID{s.Objects[i].Kind, s.Objects[i].Name}] = true
	}
	for name := range s.Pools {
		there[objectID{config.KindIPAddressPool, name}] = true
	}
	maps.DeleteFunc(w.sent, func(id objectID, _ sent) bool { return !there[id] })
}

// conditionsOf returns where the conditions of a configuration object are.
func conditionsOf(o client.Object) *[]metav1.Condition {
	switch o := o.(type) {
	case *v1beta1.IPAddressPool:
		return &o.Status.Conditions
	case *v1beta1.L2Advertisement:
		return &o.Status.Conditions
	case *v1beta1.BGPAdvertisement:
		return &o.Status.Conditions
	case *v1beta2.BGPPeer:
		return &o.Status.Conditions
	case *v1beta1.BFDProfile:
		return &o.Status.Conditions
	case *v1beta1.Community:
		return &o.Status.Conditions
	}
	return &[]metav1.Condition{}
}

// conditions returns what is to be told of an object as the API's conditions.
func conditions(st *config.Status) []metav1.Condition {
	var out []metav1.Condition
	for _, c := range []struct {
		kind string
		config.Condition
	}{{v1beta1.ConditionAccepted, st.Accepted}, {v1beta1.ConditionResolvedRefs, st.ResolvedRefs}, {v1beta1.ConditionInUse, st.InUse}} {
		now := metav1.Condition{
			Type: c.kind, Status: metav1.ConditionFalse, ObservedGeneration: st.Generation, Reason: string(c.Reason), Message: shorten(c.Message),
		}
		if c.True {
			now.Status = metav1.ConditionTrue
		}
		out = append(out, now)
	}
	return out
}

// tellConditions makes have say what is to be told, and reports whether it did not.
func tellConditions(have *[]metav1.Condition, st *config.Status) bool {
	changed := false
	for _, c := range conditions(st) {
		changed = meta.SetStatusCondition(have, c) || changed
	}
	return changed
}

// recall finds out what the one before us has told of problems: it stands in the
// conditions, and is no news.
func (w *StateWriter) recall(ctx context.Context, s State) map[config.Problem]bool {
	told := map[config.Problem]bool{}
	for i := range s.Objects {
		st := &s.Objects[i]
		o := w.object(ctx, st.Kind, st.Name)
		if o == nil {
			continue
		}
		have := *conditionsOf(o)
		if !meta.IsStatusConditionFalse(have, v1beta1.ConditionAccepted) && !meta.IsStatusConditionFalse(have, v1beta1.ConditionResolvedRefs) {
			continue
		}
		told[config.Problem{Kind: st.Kind, Name: st.Name}] = true // whatever it was
		now := conditions(st)
		same := true
		for _, c := range now[:2] {
			was := meta.FindStatusCondition(have, c.Type)
			same = same && was != nil && was.Status == c.Status && was.Message == c.Message
		}
		for _, p := range s.Problems {
			if same && p.Kind == st.Kind && p.Name == st.Name {
				told[p] = true
			}
		}
	}
	return told
}
