"""FHIR into HealthLake: batches, the chain of import jobs, their results, and the times of it all."""
