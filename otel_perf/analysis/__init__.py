"""Reads stored telemetry and says what was in it. Never imported by an instrumented application."""
