package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/barelb/barelb/internal/core/config"
	"github.com/barelb/barelb/internal/core/lb"
)

const (
	maxReview = 8 << 20 // bytes: an object twice, each of which etcd bounds to some 1.5 MB
	// maxReviews bounds how many are judged at once: whoever reaches the port may ask, and
	// each question makes some of our own to the API server.
	maxReviews = 16
	// maxWarning is what the API server leaves of a warning.
	maxWarning = 256
)

// reviewPaths are MetalLB's, so that its ValidatingWebhookConfiguration finds them too.
func reviewPaths() []string {
	return []string{
		"/validate-metallb-io-v1beta1-ipaddresspool", "/validate-metallb-io-v1beta1-l2advertisement",
		"/validate-metallb-io-v1beta1-bgpadvertisement", "/validate-metallb-io-v1beta2-bgppeer",
		"/validate-metallb-io-v1beta1-bfdprofile", "/validate-metallb-io-v1beta1-community",
	}
}

// admission answers the API server that asks whether a configuration object may be written.
type admission struct {
	namespace string
	reader    client.Reader // of the API server itself: a cache may not know yet what was written just before
	log       *slog.Logger
	busy      chan struct{}
}

func newAdmission(namespace string, reader client.Reader, log *slog.Logger) *admission {
	return &admission{namespace: namespace, reader: reader, log: log, busy: make(chan struct{}, maxReviews)}
}

// ServeHTTP answers an AdmissionReview. That we cannot judge is an error, which is no
// refusal: what it means is for the failurePolicy to say.
func (a *admission) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxReview)).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, "this is no AdmissionReview with a request", http.StatusBadRequest)
		return
	}
	select {
	case a.busy <- struct{}{}:
		defer func() { <-a.busy }()
	case <-r.Context().Done():
		return
	}
	req := review.Request
	response, err := a.judge(r.Context(), req)
	if err != nil {
		a.log.Warn("judge a change", "kind", req.Kind.Kind, "name", req.Name, "err", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	response.UID = req.UID
	if !response.Allowed {
		a.log.Info("refuse a change", "kind", req.Kind.Kind, "name", req.Name, "reason", response.Result.Message)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(&admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: response}) // it is gone otherwise
}

// judge says whether one object may be written. An error says that it could not be found out.
func (a *admission) judge(ctx context.Context, req *admissionv1.AdmissionRequest) (*admissionv1.AdmissionResponse, error) {
	if req.Namespace != a.namespace {
		if req.Operation == admissionv1.Create {
			return refusal(fmt.Sprintf("resource must be created in %s namespace", a.namespace)), nil
		}
		return &admissionv1.AdmissionResponse{Allowed: true}, nil // nobody reads it
	}
	var o metav1.PartialObjectMetadata
	if len(req.Object.Raw) > 0 {
		if err := json.Unmarshal(req.Object.Raw, &o); err != nil {
			return refusal("read the object: " + err.Error()), nil //nolint:nilerr // that is an answer
		}
	}
	if req.SubResource != "" || o.DeletionTimestamp != nil { // finalizers of what is deleted must be able to go
		return &admissionv1.AdmissionResponse{Allowed: true}, nil
	}
	before, err := readConfig(ctx, a.reader, client.InNamespace(a.namespace))
	if err != nil {
		return nil, fmt.Errorf("list configuration objects: %w", err)
	}
	change := config.Change{Kind: req.Kind.Kind, Name: req.Name, Deletes: req.Operation == admissionv1.Delete, Before: *before, After: *before}
	if !change.Deletes {
		change.Name = o.Name // that of a request to create is empty where the API server gives the name
		if err := write(&change.After, change.Kind, req.Object.Raw); err != nil {
			return refusal(fmt.Sprintf("read the %s: %v", change.Kind, err)), nil
		}
	}
	if change.Kind == config.KindBGPPeer || change.Kind == config.KindBGPAdvertisement {
		if change.Nodes, err = a.nodes(ctx); err != nil {
			return nil, err
		}
	}
	return answer(change, config.Admit(change)), nil
}

// nodes lists the names and labels of nodes, from the API server's memory.
func (a *admission) nodes(ctx context.Context) ([]lb.Node, error) {
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NodeList"))
	if err := a.reader.List(ctx, &list, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: "0"}}); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	nodes := make([]lb.Node, len(list.Items))
	for i := range list.Items {
		nodes[i] = lb.Node{Name: list.Items[i].Name, Labels: list.Items[i].Labels}
	}
	return nodes, nil
}

// write puts an object into objs, in the place of the one of its name.
func write(objs *config.Objects, kind string, raw []byte) error {
	switch kind {
	case config.KindIPAddressPool:
		return writeTo(&objs.Pools, raw, convertPool, func(o *config.IPAddressPool) *config.Meta { return &o.Meta })
	case config.KindL2Advertisement:
		return writeTo(&objs.L2, raw, convertL2Advertisement, func(o *config.L2Advertisement) *config.Meta { return &o.Meta })
	case config.KindBGPAdvertisement:
		return writeTo(&objs.BGP, raw, convertBGPAdvertisement, func(o *config.BGPAdvertisement) *config.Meta { return &o.Meta })
	case config.KindBGPPeer:
		return writeTo(&objs.Peers, raw, convertPeer, func(o *config.BGPPeer) *config.Meta { return &o.Meta })
	case config.KindBFDProfile:
		return writeTo(&objs.BFDProfiles, raw, convertBFDProfile, func(o *config.BFDProfile) *config.Meta { return &o.Meta })
	case config.KindCommunity:
		return writeTo(&objs.Communities, raw, convertCommunity, func(o *config.CommunityList) *config.Meta { return &o.Meta })
	}
	return fmt.Errorf("this kind is not judged here")
}

func writeTo[O, T any](list *[]T, raw []byte, convert func(*O) T, meta func(*T) *config.Meta) error {
	var o O
	if err := json.Unmarshal(raw, &o); err != nil {
		return err
	}
	is := convert(&o)
	me := meta(&is)
	others := slices.DeleteFunc(slices.Clone(*list), func(x T) bool { return meta(&x).Name == me.Name })
	if len(others) == len(*list) { // it is being created: of those of one second it is the youngest
		for i := range others {
			if at := meta(&others[i]).Created; !me.Created.After(at) {
				me.Created = at.Add(1)
			}
		}
	}
	*list = append(others, is)
	return nil
}

func refusal(message string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: message,
	}}
}

func answer(c config.Change, v config.Verdict) *admissionv1.AdmissionResponse {
	texts := func(ps []config.Problem) []string {
		var out []string
		for _, p := range ps {
			text := fmt.Sprintf("%s: %s (%s)", p.Field, p.Message, p.Reason)
			if p.Kind != c.Kind || p.Name != c.Name {
				text = p.Kind + " " + p.Name + ": " + text
			}
			out = append(out, text)
		}
		return out
	}
	response := &admissionv1.AdmissionResponse{Allowed: true}
	if len(v.Refused) > 0 {
		response = refusal(strings.Join(texts(v.Refused), "; "))
	}
	for _, text := range texts(v.Warnings) {
		response.Warnings = append(response.Warnings, text[:min(len(text), maxWarning)])
	}
	return response
}
