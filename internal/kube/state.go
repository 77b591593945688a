package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/barelb/barelb/api/v1beta1"
	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/ipam"
	"github.com/barelb/barelb/internal/core/lb"
)

const (
	// stateInterval is the least time between two rounds of status writes: state is
	// for people to read, and many changes make one write.
	stateInterval = 500 * time.Millisecond
	// Under these names MetalLB's components own the status of their ConfigurationStates.
	managerController = "poolReconciler"
	managerSpeaker    = "configReconciler"
	// maxMessage in bytes is the longest message of a condition that the API takes.
	maxMessage = 32768
)

// State is what a component says of the configuration.
type State struct {
	Problems []config.Problem
	// ProxyWatched reports whether the node's kube-proxy is watched (speaker only), and
	// ProxyDown why it is not healthy; "" if it is.
	ProxyWatched bool
	ProxyDown    string
	// Objects is what is to be told of each configuration object (controller only). It is
	// not changed.
	Objects []config.Status
	// Pools are the pools in force with their counters (controller only).
	Pools map[string]PoolState
}

// PoolState is what is said of one pool.
type PoolState struct {
	Assigned4, Assigned6, Available4, Available6 int64
	// OnWire says which of its addresses others on the wire use, and HeldBack which
	// Services stand in the way of an edit; "" if there is nothing to say.
	OnWire, HeldBack string
	// Keep has the API server keep the pool, also if it is deleted.
	Keep bool
	// Former are those that addresses of the pool are kept for.
	Former []ipam.Former
}

// StateWriter publishes a component's State: its ConfigurationState, and for the
// controller the status of configuration objects and Events on those at fault.
type StateWriter struct {
	c       *Cluster
	next    *latest[State]
	touched chan struct{} // somebody changed or deleted what we wrote
	objects atomic.Bool   // it was a configuration object, but no pool

	// Owned by Run.
	reported map[config.Problem]bool // Events were recorded; nil: that is not known yet
	sent     map[objectID]sent
	written  []config.Status // of which all is written
}

// StateWriter returns a writer of the component's State. Run it.
func (c *Cluster) StateWriter() *StateWriter {
	return &StateWriter{c: c, next: newLatest[State](), sent: map[objectID]sent{}, touched: make(chan struct{}, 1)}
}

// Set makes s the state to publish. It does not block.
func (w *StateWriter) Set(s State) { w.next.set(s) }

// Run publishes until ctx ends. What others change or delete, it writes again.
func (w *StateWriter) Run(ctx context.Context) error {
	if err := w.watch(ctx); err != nil {
		return err
	}
	w.next.publish(ctx, w.c.opts.Log, "status", stateInterval, w.touched, w.publish)
	return nil
}

// watch signals when somebody touches an object whose status we write.
func (w *StateWriter) watch(ctx context.Context) error {
	signal := func(obj any) {
		if _, pool := obj.(*v1beta1.IPAddressPool); !pool { // whose counters change all the time
			w.objects.Store(true)
		}
		select {
		case w.touched <- struct{}{}:
		default:
		}
	}
	kinds := []client.Object{&v1beta1.ConfigurationState{}}
	if w.c.opts.NodeName == "" {
		kinds = append(kinds, configKinds()...)
	}
	for _, kind := range kinds {
		inf, err := w.c.informer(ctx, kind)
		if err != nil {
			return err
		}
		reg, err := inf.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			UpdateFunc: func(_, obj any) { signal(obj) }, DeleteFunc: signal,
		})
		if err != nil {
			return fmt.Errorf("watch %T: %w", kind, err)
		}
		context.AfterFunc(ctx, func() { _ = inf.RemoveEventHandler(reg) })
	}
	return nil
}

// again puts s back to be tried once more, unless there is news.
func (w *StateWriter) again(s State) {
	if newer, ok := w.next.take(); ok {
		s = newer
	}
	w.next.set(s)
}

func (w *StateWriter) publish(ctx context.Context, s State) error {
	if w.c.opts.NodeName == "" { // one Event from the controller, not one from each node
		if w.reported == nil {
			w.reported = w.recall(ctx, s)
		}
		w.recordEvents(ctx, s.Problems)
	}
	told := map[string]*config.Status{}
	for i := range s.Objects {
		if st := &s.Objects[i]; st.Kind == config.KindIPAddressPool {
			told[st.Name] = st
		}
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s.Pools)) {
		err := w.writePool(ctx, name, s.Pools[name], told[name])
		if err != nil && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("status of IPAddressPool %s: %w", name, err))
		} else if err != nil { // the news is on its way to us
			w.again(s)
		}
	}
	if err := w.writeConfigurationState(ctx, s); err != nil {
		errs = append(errs, fmt.Errorf("ConfigurationState: %w", err))
	}
	if touched := w.objects.Swap(false); touched || !sameSlice(s.Objects, w.written) {
		err := w.writeObjects(ctx, s)
		if w.written = s.Objects; err != nil {
			w.written = nil
		}
		errs = append(errs, err)
		w.forget(s)
	}
	return errors.Join(errs...)
}

// recordEvents records an Event for each problem that is new, and one for each
// object that has none left.
func (w *StateWriter) recordEvents(ctx context.Context, problems []config.Problem) {
	type object struct{ kind, name string }
	now := map[config.Problem]bool{}
	bad := map[object]bool{}
	for _, p := range problems {
		now[p] = true
		bad[object{p.Kind, p.Name}] = true
		if w.reported[p] {
			continue
		}
		reason := EventSetAside
		if p.InForce {
			reason = EventPartlyInForce
		}
		w.c.ObjectEvent(ctx, p.Kind, p.Name, true, reason, string(p.Reason)+": "+p.Field+": "+p.Message)
	}
	whole := map[object]bool{}
	for p := range w.reported {
		if o := (object{p.Kind, p.Name}); !bad[o] && !whole[o] {
			whole[o] = true
			w.c.ObjectEvent(ctx, p.Kind, p.Name, false, EventInForce, "in force as written")
		}
	}
	w.reported = now
}

func (w *StateWriter) writePool(ctx context.Context, name string, s PoolState, st *config.Status) error {
	var o v1beta1.IPAddressPool
	if err := w.c.cache.Get(ctx, client.ObjectKey{Namespace: w.c.opts.Namespace, Name: name}, &o); err != nil {
		return client.IgnoreNotFound(err)
	}
	if err := w.keepPool(ctx, &o, s.Keep); err != nil || o.DeletionTimestamp != nil && !s.Keep {
		return err
	}
	before := o.DeepCopy()
	o.Status.AssignedIPv4, o.Status.AssignedIPv6 = s.Assigned4, s.Assigned6
	o.Status.AvailableIPv4, o.Status.AvailableIPv6 = s.Available4, s.Available6
	o.Status.FormerHolders = formerHolders(s.Former)
	if st != nil && st.Generation == o.Generation {
		tellConditions(&o.Status.Conditions, st)
	}
	remark(&o, v1beta1.ConditionAddressesInUseOnWire, s.OnWire, "nobody else on the wire uses addresses of this pool")
	remark(&o, v1beta1.ConditionEditHeldBack, s.HeldBack, "no Service stands in the way")
	if apiequality.Semantic.DeepEqual(before.Status, o.Status) {
		return nil
	}
	return w.updateStatus(ctx, &o, objectID{config.KindIPAddressPool, name}, []any{s, st})
}

// keepPool has the API server keep the pool even if it is deleted, or not any more.
func (w *StateWriter) keepPool(ctx context.Context, o *v1beta1.IPAddressPool, keep bool) error { //nolint:revive // that is it
	before := o.DeepCopy()
	changed := false
	if keep && o.DeletionTimestamp == nil { // a finalizer cannot be added later
		changed = controllerutil.AddFinalizer(o, v1beta1.FinalizerInUse)
	} else if !keep {
		changed = controllerutil.RemoveFinalizer(o, v1beta1.FinalizerInUse)
	}
	if !changed {
		return nil
	}
	err := w.c.client.Patch(ctx, o, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	return client.IgnoreNotFound(err)
}

// remark sets a condition that is True if there is something to say. One that never
// was is not made to say that there is nothing.
func remark(o *v1beta1.IPAddressPool, kind, text, nothing string) {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionTrue, ObservedGeneration: o.Generation, Reason: kind, Message: shorten(text)}
	if text == "" {
		if meta.FindStatusCondition(o.Status.Conditions, kind) == nil {
			return
		}
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, "None", nothing
	}
	meta.SetStatusCondition(&o.Status.Conditions, c)
}

// shorten cuts what is longer than the message of a condition may be.
func shorten(text string) string {
	const rest = "\n…"
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage-len(rest)], "") + rest
}

// writeConfigurationState writes the component's ConfigurationState.
func (w *StateWriter) writeConfigurationState(ctx context.Context, s State) error {
	problems, manager := config.InvalidAtSpeaker(s.Problems), managerSpeaker
	if w.c.opts.NodeName == "" {
		problems, manager = config.InvalidAtController(s.Problems), managerController
	}
	o := configurationState(w.c.opts)
	key := client.ObjectKeyFromObject(o)
	var have v1beta1.ConfigurationState
	err := w.c.client.Get(ctx, key, &have)
	if apierrors.IsNotFound(err) {
		w.own(ctx, o)
		if err := w.c.client.Create(ctx, o); err != nil {
			return fmt.Errorf("create: %w", err)
		}
		have = *o
	} else if err != nil {
		return fmt.Errorf("get: %w", err)
	} else if w.own(ctx, &have) { // it is our predecessor's, and would go with it
		if err := w.c.client.Update(ctx, &have); err != nil {
			return fmt.Errorf("take over: %w", err)
		}
	}
	condition := metav1.Condition{
		Type: v1beta1.ConditionConfigReconcilerValid, Status: metav1.ConditionTrue, Reason: v1beta1.ReasonReconciled,
	}
	if w.c.opts.NodeName == "" {
		condition.Type = v1beta1.ConditionPoolReconcilerValid
	}
	before := have.DeepCopy()
	have.Status.Result, have.Status.ErrorSummary = v1beta1.ConfigurationValid, ""
	if len(problems) > 0 {
		summary, lines := make([]string, len(problems)), make([]string, len(problems))
		for i, p := range problems {
			summary[i], lines[i] = p.Summary(), p.String()
		}
		have.Status.Result, have.Status.ErrorSummary = v1beta1.ConfigurationInvalid, strings.Join(summary, "\n")
		condition.Status, condition.Reason = metav1.ConditionFalse, v1beta1.ReasonConfigurationError
		condition.Message = shorten(strings.Join(lines, "\n"))
	}
	meta.SetStatusCondition(&have.Status.Conditions, condition)
	proxyCondition(&have, s)
	if reflect.DeepEqual(before.Status, have.Status) {
		return nil
	}
	return w.c.client.Status().Update(ctx, &have, client.FieldOwner(manager))
}

// proxyCondition says how the node's kube-proxy is, if it is watched.
func proxyCondition(o *v1beta1.ConfigurationState, s State) {
	c := metav1.Condition{Type: v1beta1.ConditionKubeProxyHealthy, Status: metav1.ConditionTrue, Reason: "Healthy"}
	switch {
	case !s.ProxyWatched:
		meta.RemoveStatusCondition(&o.Status.Conditions, c.Type)
		return
	case s.ProxyDown != "":
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, string(lb.ProxyUnhealthy), shorten(s.ProxyDown)
	}
	meta.SetStatusCondition(&o.Status.Conditions, c)
}

// configurationState returns our own, without status.
func configurationState(opts Options) *v1beta1.ConfigurationState {
	o := &v1beta1.ConfigurationState{ObjectMeta: metav1.ObjectMeta{
		Namespace: opts.Namespace, Name: v1beta1.ComponentController,
		Labels: map[string]string{v1beta1.LabelComponentType: v1beta1.ComponentController},
	}}
	if node := opts.NodeName; node != "" {
		o.Name = v1beta1.ComponentSpeaker + "-" + node
		o.Labels = map[string]string{v1beta1.LabelComponentType: v1beta1.ComponentSpeaker, v1beta1.LabelNodeName: node}
	}
	return o
}

// own makes our Pod the owner of o, so that o goes with it, and reports whether it
// was not yet. Without the Pod, o stays as it is.
func (w *StateWriter) own(ctx context.Context, o client.Object) bool {
	owner, err := w.c.ownPod(ctx)
	if err != nil {
		w.c.opts.Log.Debug("own pod cannot be read: its configuration state will outlive it", "err", err)
		return false
	}
	return setOwner(o, owner)
}
