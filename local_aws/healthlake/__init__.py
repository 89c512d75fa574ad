"""The emulated AWS HealthLake: data stores, import and export jobs, FHIR REST. See docs/emulator-healthlake.md."""
