"""Types of resources that HealthLake takes (developer guide, "Supported FHIR resource types")."""

from __future__ import annotations

_NAMES = """
Account ActivityDefinition AdverseEvent AllergyIntolerance Appointment AppointmentResponse AuditEvent Binary
BodyStructure Bundle CapabilityStatement CarePlan CareTeam ChargeItem ChargeItemDefinition Claim ClaimResponse
Communication CommunicationRequest Composition ConceptMap Condition Consent Contract Coverage CoverageEligibilityRequest
CoverageEligibilityResponse DetectedIssue Device DeviceDefinition DeviceMetric DeviceUseStatement DeviceRequest
DiagnosticReport DocumentManifest DocumentReference EffectEvidenceSynthesis Encounter Endpoint EpisodeOfCare
EnrollmentRequest EnrollmentResponse ExplanationOfBenefit FamilyMemberHistory Flag Goal Group GuidanceResponse
HealthcareService ImagingStudy Immunization ImmunizationEvaluation ImmunizationRecommendation InsurancePlan Invoice
Library Linkage List Location Measure MeasureReport Media Medication MedicationAdministration MedicationDispense
MedicationKnowledge MedicationRequest MedicationStatement MessageHeader MolecularSequence NutritionOrder Observation
OperationOutcome Organization OrganizationAffiliation Parameters Patient PaymentNotice PaymentReconciliation Person
PlanDefinition Practitioner PractitionerRole Procedure Provenance Questionnaire QuestionnaireResponse RelatedPerson
RequestGroup ResearchStudy ResearchSubject RiskAssessment RiskEvidenceSynthesis Schedule ServiceRequest Slot Specimen
StructureDefinition StructureMap Substance SupplyDelivery SupplyRequest Task ValueSet VerificationResult
VisionPrescription
"""
TYPES = frozenset(_NAMES.split())
# Neither read nor written over REST; and what is created and read only.
NOT_OVER_REST = frozenset({"OperationOutcome", "Parameters"})
NEVER_CHANGED = frozenset({"AuditEvent"})
