// HL7 FHIR R4 DiagnosticReport of a draft: status preliminary, labeled as asserted by an AI (AIAST of v3-ObservationValue).

export function diagnosticReport(answer) {
  const text = `${answer.status}. ${answer.report}`;
  const bytes = new TextEncoder().encode(text);
  return {
    resourceType: "DiagnosticReport",
    meta: { security: [{ system: "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", code: "AIAST" }] },
    status: "preliminary",
    code: { coding: [{ system: "http://loinc.org", code: "18748-4", display: "Diagnostic imaging study" }] },
    issued: new Date().toISOString(),
    conclusion: text,
    presentedForm: [{ contentType: "text/plain", data: btoa(String.fromCharCode(...bytes)) }],
  };
}
