"""Quality of what was stained and scanned: pure measures, their limits, and artefacts."""
