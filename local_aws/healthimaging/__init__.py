"""An emulator of AWS HealthImaging's native API."""
