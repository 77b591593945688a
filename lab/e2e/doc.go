// Package e2e holds the end-to-end tests: BareLB's controller and speakers, as real
// processes with the rights of their manifest, on real control planes and real
// routers, seen from real clients.
//
// The tests check behaviour, with generous deadlines; what is measured for its own
// sake is in the demo and the benchmarks (`lab failover` for Layer 2). All tests but
// those of BIRD, of several controllers and of nine nodes share one cluster, one after
// the other: each makes objects of its own and removes them, and what a test has broken
// (links, processes) is mended before the next one.
//
// They need root, FRR, BIRD, and these, which the environment may name:
//
//	BARELB_BIN       the binary under test; default ../../bin/barelb (`make build`)
//	BARELB_MANIFEST  its manifest; default ../../deploy/install.yaml
//	BARELB_PROXY_MODE  kube-proxy's mode; default nftables
//	BARELB_IMAGE     its image, for clusters with kubelets; default ../../bin/barelb-image.tar (`make image`)
//	BARELB_BACKEND_IMAGE  the backends'; default ../../bin/backend-image.tar (`make lab-tool`)
//	BARELB_LAB_LONG  if set, TestPausedLeaderGivesNoAddressTwice has its full length
//	BARELB_KUBE_BIN  a folder with Kubernetes' programs; default: they are built once
package e2e
