package deploy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestValues sets each value that is documented, and looks for what it is for in what is
// rendered. What is not found would have no effect.
func TestValues(t *testing.T) {
	cases := map[string]struct {
		set  string // comma-separated
		json bool   // set is one KEY=JSON
		want []string
		not  []string
	}{
		"imagePullSecrets":     {set: "imagePullSecrets[0].name=hub", want: []string{"imagePullSecrets:", "- name: hub"}},
		"fullnameOverride":     {set: "fullnameOverride=edge", want: []string{"name: edge-controller", "name: edge-speaker", "secretName: edge-memberlist", "name: metallb-system:edge-speaker", `["edge-speaker"]`, "value: edge-controller", "metallb-system:edge-speaker\""}, not: []string{"\n  name: speaker\n", "\n  name: controller\n"}},
		"loadBalancerClass":    {set: "loadBalancerClass=barelb.io/x", want: []string{"--lb-class=barelb.io/x"}},
		"no status objects":    {set: "serviceStatusObjects=false", want: []string{"--service-status-objects=false"}},
		"no rbac":              {set: "rbac.create=false,rbac.userRoles=false", not: []string{"kind: Role", "kind: ClusterRole"}},
		"no policy":            {set: "admissionPolicy.enabled=false", not: []string{"kind: ValidatingAdmissionPolicy"}},
		"tls":                  {set: "tls.minVersion=VersionTLS12,tls.cipherSuites=A,tls.curvePreferences=B,tls.controllerMetricsTLSSecret=c,tls.speakerMetricsTLSSecret=s", want: []string{"--tls-min-version=VersionTLS12", "--tls-cipher-suites=A", "--tls-curve-preferences=B", "--metrics-cert-dir=/etc/metrics-tls", "secretName: c", "secretName: s"}},
		"no scraping":          {set: "prometheus.scrapeAnnotations=false", not: []string{"prometheus.io"}},
		"metrics port":         {set: "prometheus.metricsPort=9999", want: []string{"--port=9999", "containerPort: 9999", `prometheus.io/port: "9999"`}},
		"prometheus' rights":   {set: "prometheus.serviceAccount=p,prometheus.namespace=mon", want: []string{"nonResourceURLs: [/metrics]", "name: p\n    namespace: mon"}},
		"pod monitor":          {set: "prometheus.podMonitor.enabled=true,prometheus.podMonitor.interval=7s,prometheus.podMonitor.additionalLabels.a=b,prometheus.podMonitor.annotations.c=d,prometheus.podMonitor.authorization.credentials.name=tok", want: []string{"kind: PodMonitor", "interval: 7s", "a: b", "c: d", "name: tok"}},
		"service monitor":      {set: "prometheus.serviceMonitor.enabled=true,prometheus.serviceMonitor.speaker.tlsConfig.serverName=x", want: []string{"kind: ServiceMonitor", "clusterIP: None", "serverName: x"}},
		"rules":                {set: "prometheus.prometheusRule.enabled=true,prometheus.prometheusRule.extraAlerts[0].alert=Mine", want: []string{"kind: PrometheusRule", "alert: MetalLBStaleConfig", "{{ $labels.pod }}", "alert: Mine"}},
		"no controller":        {set: "controller.enabled=false", not: []string{"kind: Deployment"}},
		"no speaker":           {set: "speaker.enabled=false", not: []string{"kind: DaemonSet", "kind: ValidatingAdmissionPolicy"}},
		"log levels":           {set: "controller.logLevel=debug,speaker.logLevel=warn", want: []string{"--log-level=debug", "--log-level=warn"}},
		"replicas":             {set: "controller.replicas=2", want: []string{"replicas: 2", "kind: PodDisruptionBudget"}},
		"no budget":            {set: "controller.replicas=2,controller.podDisruptionBudget.enabled=false", not: []string{"PodDisruptionBudget"}},
		"images":               {set: "controller.image.repository=r/c,controller.image.tag=v9,speaker.image.repository=r/s,speaker.image.tag=v8,speaker.image.pullPolicy=Always", want: []string{"image: r/c:v9", "image: r/s:v8", "imagePullPolicy: Always"}},
		"accounts":             {set: "controller.serviceAccount.name=cc,speaker.serviceAccount.create=false,speaker.serviceAccount.name=ss,controller.serviceAccount.annotations.own=note", want: []string{"serviceAccountName: cc", "serviceAccountName: ss", "name: cc", "own: note", "metallb-system:ss\""}, not: []string{"kind: ServiceAccount\nmetadata:\n  name: ss"}},
		"pool edits":           {set: "controller.poolEdits=guard", want: []string{"--pool-edits=guard"}},
		"extra args":           {set: "controller.extraArgs[0]=--a=1,speaker.extraArgs[0]=--b=2", want: []string{"--a=1", "--b=2"}},
		"placement":            {set: "speaker.nodeSelector.role=edge,speaker.tolerations[0].key=k,speaker.tolerations[0].operator=Exists,controller.nodeSelector.z=y,speaker.priorityClassName=p,controller.runtimeClassName=r", want: []string{"role: edge", "key: k", "z: \"y\"", "priorityClassName: p", "runtimeClassName: r"}},
		"not on masters":       {set: "speaker.tolerateMaster=false", not: []string{"tolerations:"}},
		"affinity":             {json: true, set: `speaker.affinity={"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"aff","operator":"Exists"}]}]}}}`, want: []string{"key: aff"}},
		"resources":            {set: "speaker.resources.limits.memory=256Mi", want: []string{"memory: 256Mi"}},
		"labels":               {set: "speaker.labels.rack=seven,controller.podAnnotations.own=note", want: []string{"rack: seven", "own: note"}},
		"probes":               {set: "speaker.livenessProbe.enabled=false,controller.livenessProbe.enabled=false,speaker.readinessProbe.periodSeconds=11", want: []string{"periodSeconds: 11"}, not: []string{"livenessProbe"}},
		"no memberlist":        {set: "speaker.memberlist.enabled=false", not: []string{"METALLB_ML_", "memberlist-tcp", "secretName: memberlist"}},
		"memberlist":           {set: "speaker.memberlist.mlBindPort=7000,speaker.memberlist.mlBindAddrOverride=$(METALLB_HOST),speaker.memberlist.mlSecretKeyPath=/k,speaker.memberlist.wanConfig=true", want: []string{`value: "7000"`, "containerPort: 7000", "$(METALLB_HOST)", "mountPath: /k", "--ml-wan-config"}},
		"own secret":           {set: "speaker.secretName=mine", want: []string{"secretName: mine"}, not: []string{"METALLB_ML_SECRET_NAME"}},
		"excluded links":       {set: "speaker.excludeInterfaces.patterns[0]=^wg", want: []string{`announcedInterfacesToExclude: ["^wg"]`, "mountPath: /etc/metallb", "checksum/excludel2"}},
		"no excluded links":    {set: "speaker.excludeInterfaces.enabled=false", want: []string{"announcedInterfacesToExclude: []"}},
		"speaker's ways":       {set: "speaker.ignoreExcludeLB=true,speaker.gracefulRestart=on,speaker.l2Profile=fast,speaker.drainSeconds=30,speaker.minReadySeconds=9", want: []string{"--ignore-exclude-lb", "--graceful-restart=on", "--l2-profile=fast", "--drain-time=30s", "terminationGracePeriodSeconds: 35", "minReadySeconds: 9"}},
		"realtime":             {set: "speaker.realtime=true", want: []string{"- --realtime", "add: [NET_RAW, SYS_NICE]"}},
		"no realtime":          {set: "speaker.realtime=false", want: []string{"add: [NET_RAW]"}, not: []string{"--realtime", "SYS_NICE"}},
		"rolling":              {set: "speaker.updateStrategy.rollingUpdate.maxUnavailable=3,controller.strategy.type=Recreate,controller.strategy.rollingUpdate=null", want: []string{"maxUnavailable: 3", "type: Recreate"}},
		"network policy":       {set: "networkpolicies.enabled=true,networkpolicies.defaultDeny=true,networkpolicies.apiPort=6444", want: []string{"kind: NetworkPolicy", "port: 6444", "default-deny"}},
		"extra containers":     {set: "controller.extraContainers[0].name=side,controller.extraContainers[0].image=x", want: []string{"name: side"}},
		"spread":               {set: "controller.topologySpreadConstraints[0].topologyKey=rack,controller.topologySpreadConstraints[0].maxSkew=1,controller.topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule", want: []string{"topologyKey: rack"}},
		"security contexts":    {set: "controller.securityContext.runAsUser=1000,speaker.securityContext.runAsGroup=7", want: []string{"runAsUser: 1000", "runAsGroup: 7"}},
		"MetalLB's, untouched": {set: "speaker.frr.enabled=true,frrk8s.enabled=true,crds.enabled=true", want: []string{"kind: DaemonSet"}},

		"no webhook": {set: "controller.webhookMode=disabled", not: []string{"webhook"}},
		"webhook": {set: "controller.webhookMode=enabled,fullnameOverride=edge", want: []string{
			"--webhook-mode=enabled", "containerPort: 9443", "kind: ValidatingWebhookConfiguration", "kind: Service\n",
			"kind: Secret\n", "name: metallb-system:edge-controller-webhook", "name: edge-controller-webhook", "name: edge-controller\n    namespace", "failurePolicy: Ignore",
		}, not: []string{"cert-manager", "cert-dir", "failurePolicy: Fail\n    sideEffects"}},
		"webhook alone":              {set: "controller.webhookMode=onlywebhook", want: []string{"--webhook-mode=onlywebhook", "kind: ValidatingWebhookConfiguration"}},
		"webhook without controller": {set: "controller.webhookMode=enabled,controller.enabled=false", not: []string{"webhook"}},
		"webhook without roles":      {set: "controller.webhookMode=enabled,rbac.create=false", want: []string{"kind: ValidatingWebhookConfiguration"}, not: []string{"controller-webhook"}},
		"webhook by the policy":      {set: "controller.webhookMode=enabled,networkpolicies.enabled=true", want: []string{"port: webhook-server"}},
		"webhook that insists":       {set: "controller.webhookMode=enabled,crds.validationFailurePolicy=Fail", want: []string{"failurePolicy: Fail\n    sideEffects"}, not: []string{"failurePolicy: Ignore"}},
		"webhook of cert-manager": {set: "controller.webhookMode=enabled,controller.webhook.certManager.enabled=true,tls.controllerMetricsTLSSecret=m", want: []string{
			"--disable-cert-rotation", "--cert-dir=/etc/webhook-tls", "mountPath: /etc/webhook-tls", "mountPath: /etc/metrics-tls",
			"secretName: m\n", "secretName: metallb-webhook-tls\n            optional: true", "selfSigned: {}", "kind: Certificate", "dnsNames: [metallb-webhook-service.metallb-system.svc]", "cert-manager.io/inject-ca-from: metallb-system/webhook\n",
		}, not: []string{"controller-webhook", "kind: Secret\n"}},
		"webhook of an issuer": {set: "controller.webhookMode=enabled,controller.webhook.certManager.enabled=true,controller.webhook.certManager.issuerRef.name=ca,controller.webhook.certManager.issuerRef.kind=ClusterIssuer", want: []string{"issuerRef:\n    kind: ClusterIssuer\n    name: ca\n"}, not: []string{"kind: Issuer"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			how := "--set"
			if c.json {
				how = "--set-json"
			}
			text, err := helm(t, "template", "barelb", "chart", "--namespace", namespace, how, c.set)
			if err != nil {
				t.Fatalf("%s: %v\n%s", c.set, err, text)
			}
			parse(t, text)
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("%s: %q is not there", c.set, want)
				}
			}
			for _, not := range c.not {
				if strings.Contains(text, not) {
					t.Errorf("%s: %q is there", c.set, not)
				}
			}
		})
	}
}

// TestWrongValues are refused before anything is installed.
func TestWrongValues(t *testing.T) {
	for _, set := range []string{
		"speaker.memberlist.mlBindPort=a", "speaker.memberlist.mlBindPort=70000", "controller.replicas=two", "speaker.enabled=maybe",
		"speaker.gracefulRestart=off", "speaker.realtime=fast", "speaker.drainSeconds=601", "controller.logLevel=loud", "speaker.extraArgs[0]=b", "configInline.peers[0].x=1",
		"speaker.memberlst.enabled=false", "imagePullSecrets[0]=a", "tls.minVersion=1.3",
		"prometheus.podMonitor.enabled=true,prometheus.serviceMonitor.enabled=true",
		"controller.webhookMode=on", "crds.validationFailurePolicy=Never", "controller.webhook.certManager.issuerRef.kind=ClusterIssuer",
	} {
		if text, err := helm(t, "template", "barelb", "chart", "--set", set); err == nil {
			t.Errorf("%s was taken:\n%s", set, text)
		}
	}
}

// TestEveryValueHasASchema finds a default value that the schema does not know, and one without a type.
func TestEveryValueHasASchema(t *testing.T) {
	var schema struct {
		Properties map[string]any `json:"properties"`
	}
	text, err := os.ReadFile(filepath.Join("chart", "values.schema.json"))
	if err == nil {
		err = json.Unmarshal(text, &schema)
	}
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]any{}
	if text, err = os.ReadFile(filepath.Join("chart", "values.yaml")); err == nil {
		err = yaml.UnmarshalStrict(text, &values)
	}
	if err != nil || len(values) == 0 {
		t.Fatalf("values.yaml: %v", err)
	}
	for name := range values {
		if schema.Properties[name] == nil {
			t.Errorf("%s is not in the schema", name)
		}
	}
}

// TestOldAPIServer has no ValidatingAdmissionPolicy.
func TestOldAPIServer(t *testing.T) {
	for key := range render(t, "chart", "--kube-version", "1.29.0") {
		if strings.HasPrefix(key, "ValidatingAdmissionPolicy") {
			t.Errorf("1.29 gets a %s", key)
		}
	}
}

// TestNotes says of MetalLB's values which have no effect, and only where they are given.
func TestNotes(t *testing.T) {
	args := []string{"install", "barelb", "chart", "--namespace", namespace, "--dry-run=client", "--disable-openapi-validation"}
	const note = "speaker.frr: the speaker speaks BGP itself"
	for set, want := range map[string]bool{"speaker.frr.enabled=false": true, "speaker.enabled=true": false} {
		text, err := helm(t, append(args, "--set", set)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if strings.Contains(text, note) != want {
			t.Errorf("%s: the notes say %q: %t, want %t\n%s", set, note, !want, want, text)
		}
	}
}
