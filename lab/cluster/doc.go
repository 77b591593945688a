// Package cluster brings up a whole Kubernetes cluster out of namespaces on one machine, with the network around it:
//
//	remote ── router1 ─┬─ lan (a switch) ─┬─ node1 … nodeN
//	                   │                  ├─ control
//	                   │                  └─ client
//	10.99.0.0/24       192.168.1.0/24
//
// etcd, the API server, the controller manager, the scheduler, the kube-proxies and (in mode Real) the kubelets and
// containerd are the real ones, and so is the router, FRR or BIRD. Every host is a box (package box), so that all of it
// ends with the process that called Start, however that process ends.
//
// All addresses are inside network namespaces of the lab: any number of labs can be up side by side.
package cluster
