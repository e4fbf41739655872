{{- define "unanimo.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "unanimo.fullname" -}}
{{- $name := include "unanimo.name" . -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $both .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "unanimo.selector" -}}
app.kubernetes.io/name: {{ include "unanimo.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "unanimo.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "unanimo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "unanimo.databaseSecret" -}}
{{- .Values.database.existingSecret | default (printf "%s-database" (include "unanimo.fullname" .)) -}}
{{- end -}}

{{- define "unanimo.tlsSecret" -}}
{{- if .Values.tls.existingSecret -}}
{{- .Values.tls.existingSecret -}}
{{- else if .Values.tls.certificate -}}
{{- printf "%s-tls" (include "unanimo.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "unanimo.identitiesSecret" -}}
{{- if .Values.identities.existingSecret -}}
{{- .Values.identities.existingSecret -}}
{{- else if .Values.identities.file -}}
{{- printf "%s-identities" (include "unanimo.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* Text of a setting: helm reads whole numbers as floating ones, which it would print as 2.68435456e+08. */}}
{{- define "unanimo.text" -}}
{{- if kindIs "float64" . -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* Mistakes that the values alone show. What the coordinator refuses besides, such as a setting's value, it says at its start. */}}
{{- define "unanimo.check" -}}
{{- $tls := include "unanimo.tlsSecret" . -}}
{{- $identities := include "unanimo.identitiesSecret" . -}}
{{- if not (or .Values.database.existingSecret .Values.database.url) -}}
{{- fail "set database.existingSecret, or database.url: the coordinator keeps its state in PostgreSQL" -}}
{{- end -}}
{{- if and .Values.database.existingSecret .Values.database.url -}}
{{- fail "set database.existingSecret or database.url, not both" -}}
{{- end -}}
{{- if and .Values.database.url (not (regexMatch "^postgres(ql)?://" .Values.database.url)) -}}
{{- fail "database.url must begin with postgres://: a file of SQLite serves one process and has no standby" -}}
{{- end -}}
{{- if and .Values.tls.certificate (not .Values.tls.key) -}}
{{- fail "tls.certificate needs tls.key" -}}
{{- end -}}
{{- if and .Values.tls.certificate (not .Values.tls.ca) (or .Values.tls.clientCertificates .Values.tls.participants) -}}
{{- fail "set tls.ca, or turn tls.clientCertificates and tls.participants off" -}}
{{- end -}}
{{- if and (not .Values.insecure) (not $tls) -}}
{{- fail "set tls.existingSecret, or tls.certificate and tls.key; or `insecure`, by which every program that reaches the port can do anything" -}}
{{- end -}}
{{- if and (not .Values.insecure) (not .Values.tls.clientCertificates) (not $identities) -}}
{{- fail "callers are known by tls.clientCertificates or by identities: set one of them, or `insecure`" -}}
{{- end -}}
{{- end -}}
