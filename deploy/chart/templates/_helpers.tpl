{{- define "barelb.prefix" -}}
{{ with .Values.fullnameOverride }}{{ . }}-{{ end }}
{{- end }}

{{- define "barelb.controllerAccount" -}}
{{ .Values.controller.serviceAccount.name | default (printf "%scontroller" (include "barelb.prefix" .)) }}
{{- end }}

{{- define "barelb.speakerAccount" -}}
{{ .Values.speaker.serviceAccount.name | default (printf "%sspeaker" (include "barelb.prefix" .)) }}
{{- end }}

{{- define "barelb.secret" -}}
{{ .Values.speaker.secretName | default (printf "%smemberlist" (include "barelb.prefix" .)) }}
{{- end }}

{{- define "barelb.image" -}}
{{ .image.repository }}:{{ .image.tag | default .app }}
{{- end }}

{{/* What an API server has: 1.30 and later. */}}
{{- define "barelb.hasAdmissionPolicy" -}}
{{ if and .Values.admissionPolicy.enabled .Values.speaker.enabled (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) }}true{{ end }}
{{- end }}

{{/* Whether the API server asks the controller before configuration is written. */}}
{{- define "barelb.webhook" -}}
{{ if and .Values.controller.enabled (ne .Values.controller.webhookMode "disabled") }}true{{ end }}
{{- end }}

{{- define "barelb.tlsArgs" -}}
{{- with .minVersion }}
            - --tls-min-version={{ . }}
{{- end }}
{{- with .cipherSuites }}
            - --tls-cipher-suites={{ . }}
{{- end }}
{{- with .curvePreferences }}
            - --tls-curve-preferences={{ . }}
{{- end }}
{{- end }}

{{- define "barelb.probeTimes" -}}
initialDelaySeconds: {{ .initialDelaySeconds }}
periodSeconds: {{ .periodSeconds }}
timeoutSeconds: {{ .timeoutSeconds }}
successThreshold: {{ .successThreshold }}
failureThreshold: {{ .failureThreshold }}
{{- end }}

{{/* Values of MetalLB's chart that are taken and have no effect, each with why. */}}
{{- define "barelb.withoutEffect" -}}
{{- $why := dict
  "nameOverride" "it named labels; ours are app=metallb and component"
  "crds.enabled" "the kinds are in the chart barelb-crds, which never deletes them"
  "frrk8s" "the speaker speaks BGP itself"
  "frr-k8s" "the speaker speaks BGP itself"
  "speaker.frr" "the speaker speaks BGP itself"
  "speaker.reloader" "there is no FRR to reload"
  "speaker.frrMetrics" "the speaker counts itself"
  "speaker.bgpDebounceTimeout" "there is no FRR to reload"
  "speaker.initContainers" "the image is one file, which needs none"
}}
{{- range $path, $reason := $why }}
{{- $at := $.Values }}
{{- range splitList "." $path }}{{ $at = index ($at | default dict) . }}{{ end }}
{{- if not (kindIs "invalid" $at) }}
  {{ $path }}: {{ $reason }}
{{- end }}
{{- end }}
{{- end }}

{{- define "barelb.readerRules" -}}
# Without services and nodes there is nothing to say.
- apiGroups: [""]
  resources: [services, nodes, namespaces, pods, events]
  verbs: [get, list]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list]
- apiGroups: [metallb.io, barelb.io]
  resources: ["*"]
  verbs: [get, list]
# What the doctor looks at.
- apiGroups: [apps]
  resources: [daemonsets, deployments]
  verbs: [list]
- apiGroups: [networking.k8s.io]
  resources: [servicecidrs]
  verbs: [list]
- apiGroups: [admissionregistration.k8s.io]
  resources: [validatingadmissionpolicybindings]
  verbs: [list]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [list]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [kube-proxy]
  verbs: [get]
{{- end }}
