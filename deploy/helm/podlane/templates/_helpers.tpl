{{- define "podlane.selector" -}}
app.kubernetes.io/name: podlane
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "podlane.labels" -}}
{{ include "podlane.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "podlane.serviceAccount" -}}
{{ .Values.serviceAccount.name | default .Release.Name }}
{{- end }}
